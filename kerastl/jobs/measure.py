"""Logits and metrics of a split, from its features."""

from __future__ import annotations

import dataclasses

import numpy as np

from kerastl.data.examples import Split
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.features.decoded import DecodedSplits
from kerastl.features.extract import extract
from kerastl.features.readers import Features
from kerastl.jobs.setup import Setup
from kerastl.modality import modality_of
from kerastl.model.cut import ACTIVATION, POOLED
from kerastl.progress import Progress
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of
from kerastl.training.start import wanted_features
from kerastl.writing import NoSpaceError


def logits_of(setup: Setup, winner: str, name: str, progress: Progress = Progress()) -> np.ndarray:
    """Logits float32 [n, classes] of a split's examples, without augmentation, from their features.

    Args:
        setup: whose network holds the winner's weights.
        winner: name of the phase whose weights these are.
        name: of the split.
        progress: listens.
    """
    thawed = winner == "finetune_phase"
    features = features_of(setup, name, progress, thawed)
    model, read, settings = (
        (setup.parts.suffix, features.activation_batch, setup.recipe.finetune_phase)
        if thawed
        else (setup.network.head, features.pooled_batch, setup.recipe.head_phase)
    )
    return predict_logits(inference_of(model), features.count, read, evaluation_batch(settings))


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
    wanted = dataclasses.replace(
        wanted_features(setup.recipe), outputs=(ACTIVATION,) if thawed else (POOLED,), finetune_epochs=0
    )
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
