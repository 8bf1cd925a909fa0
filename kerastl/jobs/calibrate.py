"""Probabilities that can be trusted, and when not to answer: fitted on validation, measured on the test split."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastl.data.step_labels import answered, answered_groups
from kerastl.evaluation.abstention import (
    Accepted,
    accepted_at,
    choose_threshold,
    fewest_for,
    independent_share,
)
from kerastl.evaluation.calibration import Calibration, calibrate, reliability
from kerastl.evaluation.intervals import group_numbers
from kerastl.jobs.measure import logits_of
from kerastl.jobs.setup import Setup
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.model.heads import divide_logits
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.report.page import Trust
from kerastl.run import Run
from kerastl.task import Task, unit_of
from kerastl.training.batches import example_weights
from kerastl.wording import counted
from kerastl.writing import write_json_atomic

# Below this many validation examples a temperature of theirs was seen to cost other examples more than a hundredth of a nat.
FEW_EXAMPLES = 50


@dataclass(frozen=True)
class Calibrated:
    """Calibration of the winner.

    Attributes:
        calibration: temperatures, which its last layer now holds.
        threshold: lowest probability that counts as an answer; None where none was asked for or can be had.
        accepted: examples of the validation split that reach it; None without a threshold.
        warnings: what the reader of the figures should know of them.
    """

    calibration: Calibration
    threshold: float | None
    accepted: Accepted | None
    warnings: tuple[str, ...] = ()


def calibrate_winner(setup: Setup, winner: str, progress: Progress) -> tuple[Calibrated, np.ndarray]:
    """Calibrate a trained network on its validation split, with the class weights of the phase that was kept.

    Args:
        setup: whose network holds the winner's weights; its last layer is changed.
        winner: name of the phase whose weights these are.
        progress: listens.

    Returns:
        What was fitted, and the calibrated logits of the validation examples.
    """
    split, recipe = setup.prepared.splits.validation, setup.recipe
    logits = logits_of(setup, winner, "validation", progress)
    weights = example_weights(getattr(recipe, winner), setup.validation)
    groups = group_numbers(answered_groups(split.labels, split.groups))
    labels = answered(split.labels)
    return calibrate_network(setup.network, logits, labels, recipe, progress, weights, groups)


def calibrate_network(
    network: Network,
    logits: np.ndarray,
    labels: np.ndarray,
    recipe: Settings,
    progress: Progress,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[Calibrated, np.ndarray]:
    """Divide the network's logits by the temperatures that fit validation best, for good.

    Args:
        network: holds the winner's weights; its last layer is changed.
        logits: float [n, classes] of the validation examples, as the network gives them before.
        labels: of these examples.
        recipe: resolved.
        progress: listens.
        weights: of each example in what is fitted, float [n]; all alike without it.
        groups: int [n], equal for examples of one group; each by itself without it.

    Returns:
        What was done, and the logits as the network gives them from now on.
    """
    asked, task = recipe.calibration, recipe.task
    noun = unit_of(task, modality_of(recipe).noun)
    warnings: list[str] = []
    if len(labels) < FEW_EXAMPLES and asked.kind != "none":
        warnings.append(
            f"Only {counted(len(labels), f'validation {noun}')}: they choose the epochs, the phase and the temperature, and say "
            f"little of each. From {FEW_EXAMPLES} on they say more (data.validation_fraction, or more {noun}s)"
        )
    found = calibrate(logits, labels, asked.kind, task, weights)
    divide_logits(network.logits, np.array(found.temperatures))
    # In the logits' own precision: of 20,000 classes a copy in float64 is what the memory has no room for.
    divided = logits / np.array(found.temperatures, logits.dtype)
    threshold = accepted = None
    if asked.abstain_precision is not None or asked.abstain_coverage is not None:
        probabilities = task.probabilities(divided)
        threshold = choose_threshold(
            probabilities, labels, asked.abstain_precision, asked.abstain_coverage, groups
        )
        accepted = None if threshold is None else accepted_at(probabilities, labels, threshold, groups)
    if threshold is None and asked.abstain_precision is not None:
        needed = math.ceil(fewest_for(asked.abstain_precision) / independent_share(groups))
        warnings.append(
            f"calibration.abstain_precision = {asked.abstain_precision:g}: {len(labels)} validation {noun}s do not show that any "
            f"threshold reaches it, so the model is served without one. At least {needed:,} have to "
            f"be accepted, all of them right, before it is known with 95 % confidence. Take more validation {noun}s "
            "(data.validation_fraction), a lower precision, or calibration.abstain_coverage"
        )
    for warning in warnings:
        progress.warn(warning)
    return Calibrated(found, threshold, accepted, tuple(warnings)), divided


def trust_of(
    calibrated: Calibrated,
    logits: np.ndarray,
    labels: np.ndarray,
    task: Task,
    groups: np.ndarray | None = None,
) -> Trust:
    """Effect of calibration and threshold on the test split.

    Args:
        calibrated: from `calibrate_network`.
        logits: float [n, classes] of the test examples, as the network gives them after it.
        labels: of these examples.
        task: what the logits answer.
        groups: int [n], equal for examples of one group; each by itself without it.
    """
    found, threshold = calibrated.calibration, calibrated.threshold
    temperatures = np.array(found.temperatures, logits.dtype)
    accepted = None
    if threshold is not None:
        accepted = accepted_at(task.probabilities(logits), labels, threshold, groups)
    return Trust(
        calibration=found,
        reliability=reliability(logits * temperatures, labels, temperatures, task),
        threshold=threshold,
        validation_accepted=calibrated.accepted,
        test_accepted=accepted,
    )


def write_calibration(run: Run, calibrated: Calibrated) -> None:
    """Write what was fitted into the run's folder; `TrainedRun.threshold` reads it."""
    values: dict[str, Any] = dataclasses.asdict(calibrated.calibration)
    write_json_atomic(run.calibration_json, {**values, "threshold": calibrated.threshold})
