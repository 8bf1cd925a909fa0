"""Logits and metrics of a split, from its features."""

from __future__ import annotations

import numpy as np

from kerastl.data.examples import Split
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.features.decoded import DecodedSplits
from kerastl.features.extract import Wanted, extract
from kerastl.features.readers import Features, pooled_output
from kerastl.jobs.setup import Setup
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.model.cut import ACTIVATION, UNDER, Cut
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of
from kerastl.writing import NoSpaceError


def logits_of(setup: Setup, winner: str, name: str, progress: Progress = Progress()) -> np.ndarray:
    """Logits float32 [n, classes] of a split's examples, without augmentation, from their features.

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
    read = features.activation_batch if thawed else features.pooled_batch
    batch_size = evaluation_batch(getattr(recipe, winner))
    return predict_logits(inference_of(model), features.count, read, batch_size)


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
    under = [UNDER] if reads.within(cut.under).names else []
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
    metrics = evaluate_logits(logits, split.labels, prepared.splits.class_names, prepared.recipe.task)
    return over_groups(metrics, logits, split.labels, split.groups)
