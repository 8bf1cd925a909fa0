"""Trials: one as a function of its recipe and of what all share, the runner that writes each down, and the loop that asks for them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.step_labels import answered
from kerastl.errors import RecipeError, TrainingError
from kerastl.evaluation.monitors import example_losses
from kerastl.jobs.measure import winner_logits
from kerastl.model.precision import precision_of
from kerastl.progress import size_text
from kerastl.recipe import Recipe, Settings, resolve
from kerastl.recipe.keys import affecting
from kerastl.report.search_report import FAILED, TrialRecord
from kerastl.search.head_phases import HeadPhases, head_key
from kerastl.search.hyperparameters import Space, with_values
from kerastl.search.oracle import ask, epochs_share, tell
from kerastl.search.search_folder import SearchFolder, read_losses, read_record, write_record
from kerastl.search.shared import Shared, Sides
from kerastl.search.spec import SearchSpec
from kerastl.training.batches import example_weights
from kerastl.training.reuse import leak_workaround
from kerastl.training.two_phase import FitResult, transfer, without_finetuning

# A setting that does not learn, or does not fit into memory, is a bad setting; anything else is a fault and ends the search.
BAD_SETTING = (TrainingError, tf.errors.ResourceExhaustedError, MemoryError)
# Keras Tuner's name for a process of several, and of the only one.
NAME, ALONE = "KERASTUNER_TUNER_ID", "tuner0"
# Building the network of each cut takes a second or so; beyond this many a warning would cost more than it tells.
MOST_CUTS = 48
RunTrial = Callable[[str, dict[str, Any]], float]


def trial_recipe(base: Recipe, values: dict[str, Any], shared: Shared, share: float = 1.0) -> Settings:
    """The resolved recipe of a trial.

    Args:
        base: the recipe as it was given, with its keys open where a rule decides.
        values: recipe keys that the trial sets.
        shared: knows the data.
        share: of the epochs of both phases that the trial may take, above 0 and up to 1.
    """
    splits = shared.splits
    recipe = resolve(with_values(base, values), splits.train.count, len(splits.class_names))
    if share >= 1:
        return recipe
    head, finetune = recipe.head_phase, recipe.finetune_phase
    return dataclasses.replace(
        recipe,
        head_phase=dataclasses.replace(head, epochs=math.ceil(head.epochs * share)),
        finetune_phase=dataclasses.replace(finetune, epochs=math.ceil(finetune.epochs * share)),
    )


def room_warning(base: Recipe, space: Space, shared: Shared) -> str:
    """A warning where the store has no room for the features of all cuts that a space reaches; empty where it has.

    The ends stand for a range, and the first cuts for all where there are many. Nothing is computed; the examples are decoded in the size of
    the recipe as it is, which the search needs first of all, and the networks serve the trials.
    """
    if not shared.cache.on_disk:
        return ""
    varied = [hp for hp in space if hp.key in affecting(Recipe, "features") and hp.key != "head.pooling"]
    first = trial_recipe(base, {}, shared)
    missing: dict[tuple[str, str], int] = {}
    corners = itertools.product(*(hp.corners() for hp in varied))
    with precision_of(first):
        for corner in itertools.islice(corners, MOST_CUTS):
            with contextlib.suppress(RecipeError):  # such a trial says so itself
                values = dict(zip((hp.key for hp in varied), corner, strict=True))
                missing |= shared.missing(trial_recipe(base, values, shared), first)
    lacking, room = sum(missing.values()), shared.cache.folder.room()
    if lacking <= room:
        return ""
    return (
        f"The features of all cuts in this space need {size_text(lacking)} more, and {shared.cache.folder.root} has room for "
        f"{size_text(room)} (cache.max_gigabytes, and half of the free disk): not all can be kept there. Raise or free it, or search "
        "fewer values of finetune_phase.unfreeze_from"
    )


def run_trial(
    recipe: Settings,
    shared: Shared,
    heads: HeadPhases,
    *,
    monitor: str,
    repeats: int = 1,
) -> TrialRecord:
    """Run both phases of a recipe, once or several times, and measure it on validation examples alone.

    Args:
        recipe: resolved.
        shared: examples and features.
        heads: head phases that were run before.
        monitor: validation metric that is the score.
        repeats: trainings with seeds of their own, for each fold.

    Returns:
        A record of the scores and losses, without the identity of a trial and its values.

    Raises:
        TrainingError: a loss is not finite.
        KeyboardInterrupt: the user stopped the trial.
    """
    measured: list[dict[str, float]] = []
    losses: list[np.ndarray] = []
    winner = ""
    with leak_workaround(), precision_of(recipe):
        sides = shared.sides(recipe)
        for repeat in range(repeats):
            seeded = dataclasses.replace(recipe, seed=(recipe.seed + repeat) % 2**31)
            of_folds = []
            for fold, side in enumerate(sides):
                held_out = fold if shared.folds else None
                result, loss = _train(seeded, side, held_out, shared, heads, monitor)
                winner = winner or result.winner
                measured.append(result.validation)
                of_folds.append(loss)
            losses.append(np.concatenate(of_folds))
    metrics = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
    return TrialRecord(
        trial_id="",
        values={},
        score=metrics[monitor],
        metrics=metrics,
        scores=tuple(one[monitor] for one in measured),
        winner=winner,
        losses=np.asarray(np.mean(losses, axis=0), np.float32),
    )


def _train(
    recipe: Settings,
    side: Sides,
    fold: int | None,
    shared: Shared,
    heads: HeadPhases,
    monitor: str,
) -> tuple[FitResult, np.ndarray]:
    keras.utils.set_random_seed(recipe.seed)
    network, parts = shared.network(recipe, side.train, fold)
    train = functools.partial(transfer, network, parts, side.train, side.validation)
    key = head_key(recipe, shared.splits.fingerprint, fold)
    head = heads.get(key, lambda: train(without_finetuning(recipe)).phases[0])
    if head.ended == "interrupted":
        raise KeyboardInterrupt
    result = train(recipe, head_phase=head)
    if result.interrupted:
        raise KeyboardInterrupt
    logits = winner_logits(network, parts, side.validation, recipe, result.winner)
    weights, rows = (
        example_weights(getattr(recipe, result.winner), side.validation),
        side.validation.views.rows,
    )
    losses = example_losses(monitor, logits, answered(rows.classes), recipe.task, weights, rows.words)
    return result, losses.astype(np.float32)


class TrialRunner:
    """Runs the trials of one process, and writes each one down.

    Args:
        spec: of the search.
        folder: of the search.
        shared: examples and features.
        heads: head phases that were run.
    """

    def __init__(self, spec: SearchSpec, folder: SearchFolder, shared: Shared, heads: HeadPhases) -> None:
        self.spec, self.folder, self.shared, self.heads = spec, folder, shared, heads

    def __call__(self, trial_id: str, raw: dict[str, Any]) -> float:
        """The score of what an oracle chose.

        Raises:
            TrainingError: the trial failed; its record says why.
        """
        share = epochs_share(raw, self.spec.full_epochs)
        return self.run(self.folder.of_trial(trial_id), trial_id, self.spec.space.decoded(raw), share)

    def run(self, place: Path, trial_id: str, values: dict[str, Any], share: float = 1.0) -> float:
        """Run one trial, write it down in `place`, and return its score; one that was written down is not run again.

        Raises:
            TrainingError: the trial failed; its record says why.
        """
        record = read_record(place)
        if record is None or (record.values, record.share) != (values, share):
            recipe = trial_recipe(self.spec.recipe, values, self.shared, share)
            record = dataclasses.replace(
                (self._baseline(recipe) if values else None) or self._trained(recipe),
                trial_id=trial_id,
                values=values,
                share=share,
                worker=os.environ.get(NAME, ""),
            )
            write_record(place, record)
        if record.score is None:
            raise TrainingError(record.reason)
        return record.score

    def _baseline(self, recipe: Settings) -> TrialRecord | None:
        """The record of the recipe as it is, which was run before the search, where the trial is no other."""
        record, own = read_record(self.folder.baseline), trial_recipe(self.spec.recipe, {}, self.shared)
        if record is None or record.score is None or recipe != own:
            return None
        losses = read_losses(self.folder.baseline)
        return dataclasses.replace(record, seconds=0.0, forward_passes=0, heads=0, losses=losses)

    def _trained(self, recipe: Settings) -> TrialRecord:
        started, passes, heads = time.perf_counter(), self.shared.forward_passes, self.heads.trained
        try:
            monitor, repeats = self.spec.monitor, self.spec.settings.repeats
            record = run_trial(recipe, self.shared, self.heads, monitor=monitor, repeats=repeats)
        except BAD_SETTING as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            record = TrialRecord("", {}, status=FAILED, reason=reason)
        return dataclasses.replace(
            record,
            seconds=time.perf_counter() - started,
            forward_passes=self.shared.forward_passes - passes,
            heads=self.heads.trained - heads,
        )


def search(oracle: Any, run: RunTrial, worker: str = ALONE) -> None:
    """Run trials until the oracle has no more.

    Args:
        oracle: an `Oracle` that was opened, or Keras Tuner's client of one in another process.
        run: gives the score of a trial from its identity and its values in the oracle's terms.
        worker: name of this process.

    Raises:
        KeyboardInterrupt: the user stopped it; the same search can go on.
        Exception: what a trial raised that was not the fault of its setting.
    """
    while (trial := ask(oracle, worker)) is not None:
        score, reason = None, ""
        try:
            score = run(trial.trial_id, dict(trial.hyperparameters.values))
        except BAD_SETTING as error:
            reason = str(error)
        tell(oracle, trial, score, reason)
