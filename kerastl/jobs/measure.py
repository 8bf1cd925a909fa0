"""Logits and metrics of a split, from its features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerastl.data.examples import Split
from kerastl.data.step_labels import Labels, StepLabels
from kerastl.evaluation.entity_answers import evaluate_words
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.features.decoded import DecodedSplits
from kerastl.features.extract import Wanted, extract
from kerastl.features.readers import Features, pooled_output, under_output
from kerastl.jobs.setup import Setup
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.model.cut import ACTIVATION, Cut
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.task import Task
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of
from kerastl.writing import NoSpaceError


def logits_of(setup: Setup, winner: str, name: str, progress: Progress = Progress()) -> np.ndarray:
    """Logits float32 [n, classes] of a split's examples, without augmentation, from their features; of words [words, classes].

    Args:
        setup: whose network holds the winner's weights.
        winner: name of the phase whose weights these are.
        name: of the split.
        progress: listens.
    """
    features = features_of(setup, name, progress, thawed=winner == "finetune_phase")
    return winner_logits(setup.network, setup.parts, features, setup.recipe, winner)


def winner_logits(
    network: Network, parts: Cut, features: Features, recipe: Settings, winner: str
) -> np.ndarray:
    """Logits float32 [n, classes] of features, by the part of the network that trained in the phase that was kept."""
    thawed = winner == "finetune_phase"
    model = parts.suffix if thawed else network.head
    features = features if thawed else features.rows
    read = features.activation_batch if thawed else features.pooled_batch
    batch_size = evaluation_batch(getattr(recipe, winner))
    return predict_logits(inference_of(model), features.count, read, batch_size, features.views.classes)


def features_of(setup: Setup, name: str, progress: Progress = Progress(), thawed: bool = False) -> Features:
    """Features of a split's examples without augmentation: those of the setup, or from the store, or computed now.

    Args:
        setup: of the network.
        name: of the split.
        progress: listens.
        thawed: activations at the unfreeze point in place of pooled features. The pooled features of a thawed backbone are no
            longer those that are kept: its own part above the cut runs on what lies below.
    """
    known = {"train": setup.train, "validation": setup.validation, "test": setup.test}.get(name)
    if known is not None:
        return known
    reads, cut = setup.network.reads, setup.frozen.cut
    under = [under_output(reads)] if reads.within(cut.under).names else []
    outputs = (*under, ACTIVATION) if thawed else (pooled_output(reads),)
    wanted = Wanted(reads=reads, outputs=outputs, finetune_epochs=0)
    views = [setup.prepared.frozen_views(name)]
    # After hours of training a full disk is no reason to stop.
    try:
        (features,) = extract(setup.frozen, views, setup.cache, wanted, progress)
    except NoSpaceError as error:
        noun = modality_of(setup.recipe).noun
        progress.warn(f"The features of the {name} {noun}s are not kept: {error}")
        (features,) = extract(setup.frozen, views, setup.cache, wanted, progress, ("disk",))
    return features


def metrics_of(logits: np.ndarray, prepared: DecodedSplits, name: str) -> Metrics:
    """Metrics of a split's logits."""
    split: Split = getattr(prepared.splits, name)
    return measured(logits, split.labels, split.groups, prepared.splits.class_names, prepared.recipe.task)


def measured(
    logits: np.ndarray, labels: Labels, groups: np.ndarray, class_names: Sequence[str], task: Task
) -> Metrics:
    """Metrics of logits, with the intervals that groups leave.

    Args:
        logits: float [n, classes]; of words [words, classes].
        labels: of the examples.
        groups: object [n] of str; '' for none.
        class_names: in the order of the logits.
        task: what the logits answer.
    """
    if isinstance(labels, StepLabels):
        return evaluate_words(logits, labels, groups, class_names, task)
    metrics = evaluate_logits(logits, labels, class_names, task)
    return over_groups(metrics, logits, labels, groups)
