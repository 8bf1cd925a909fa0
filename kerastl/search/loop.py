"""Loop of a search: ask the oracle for a trial, run it, write it down, and tell the oracle its score."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerastl.errors import TrainingError
from kerastl.recipe import Recipe, Settings
from kerastl.report.search import FAILED, TrialRecord
from kerastl.search.head_phases import HeadPhases
from kerastl.search.hyperparameters import Space
from kerastl.search.oracle import ask, epochs_share, tell
from kerastl.search.search_folder import SearchFolder, read_losses, read_record, write_record
from kerastl.search.shared import Shared
from kerastl.search.trial import run_trial, trial_recipe

# A setting that does not learn, or does not fit into memory, is a bad setting; anything else is a fault and ends the search.
BAD_SETTING = (TrainingError, tf.errors.ResourceExhaustedError, MemoryError)
# Keras Tuner's name for a process of several, and of the only one.
NAME, ALONE = "KERASTUNER_TUNER_ID", "tuner0"
RunTrial = Callable[[str, dict[str, Any]], float]


class TrialRunner:
    """Runs the trials of one process, and writes each one down.

    Args:
        base: what the trials vary.
        space: what they vary in it.
        shared: images and features.
        heads: head phases that were run.
        folder: of the search.
        monitor: validation metric that is the score.
        repeats: trainings a trial.
        full_epochs: Hyperband's epochs of a whole trial.
    """

    def __init__(
        self,
        base: Recipe,
        space: Space,
        shared: Shared,
        heads: HeadPhases,
        folder: SearchFolder,
        monitor: str,
        repeats: int,
        full_epochs: int,
    ) -> None:
        self.base, self.space, self.shared, self.heads = base, space, shared, heads
        self.folder, self.monitor, self.repeats, self.full_epochs = folder, monitor, repeats, full_epochs

    def __call__(self, trial_id: str, raw: dict[str, Any]) -> float:
        """The score of what an oracle chose.

        Raises:
            TrainingError: the trial failed; its record says why.
        """
        share = epochs_share(raw, self.full_epochs)
        return self.run(self.folder.of_trial(trial_id), trial_id, self.space.decoded(raw), share)

    def run(self, place: Path, trial_id: str, values: dict[str, Any], share: float = 1.0) -> float:
        """Run one trial, write it down in `place`, and return its score; one that was written down is not run again.

        Raises:
            TrainingError: the trial failed; its record says why.
        """
        record = read_record(place)
        if record is None or (record.values, record.share) != (values, share):
            recipe = trial_recipe(self.base, values, self.shared, share)
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
        record = read_record(self.folder.baseline)
        if record is None or record.score is None or recipe != trial_recipe(self.base, {}, self.shared):
            return None
        losses = read_losses(self.folder.baseline)
        return dataclasses.replace(record, seconds=0.0, forward_passes=0, heads=0, losses=losses)

    def _trained(self, recipe: Settings) -> TrialRecord:
        started, passes, heads = time.perf_counter(), self.shared.forward_passes, self.heads.trained
        try:
            record = run_trial(recipe, self.shared, self.heads, monitor=self.monitor, repeats=self.repeats)
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
