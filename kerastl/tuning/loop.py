"""The search itself: Keras Tuner asks, a trial answers, and what failed says why."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalError

from kerastl.errors import TrainingError
from kerastl.recipe import Recipe
from kerastl.tuning.head_phases import HeadPhases
from kerastl.tuning.hyperparameters import Space
from kerastl.tuning.oracle import SCORE, Durable, epochs_share
from kerastl.tuning.search_folder import (
    COMPLETED,
    FAILED,
    SearchFolder,
    TrialRecord,
    read_losses,
    read_record,
    write_record,
)
from kerastl.tuning.shared import Shared
from kerastl.tuning.trial import run_trial, trial_recipe

# A setting that does not learn, or does not fit into memory, is a bad setting; anything else is a fault.
BAD_SETTING = (TrainingError, tf.errors.ResourceExhaustedError, MemoryError)
# Keras Tuner's name for a process of several.
NAME = "KERASTUNER_TUNER_ID"
IDLE_SECONDS = 0.5
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
            TrainingError and other `BAD_SETTING`: the trial failed; its record says why.
        """
        share = epochs_share(raw, self.full_epochs)
        return self.run(self.folder.of_trial(trial_id), trial_id, self.space.decoded(raw), share)

    def run(self, place: Path, trial_id: str, values: dict[str, Any], share: float = 1.0) -> float:
        """Run one trial, write it down in `place`, and return its score; one that was written down is not run again."""
        known = read_record(place)
        if known is not None and (known.values, known.share) == (values, share):
            if known.score is None:
                raise TrainingError(known.reason)
            return known.score
        recipe = trial_recipe(self.base, values, self.shared, share)
        if values and recipe == trial_recipe(self.base, {}, self.shared):
            # The first trial is the recipe itself, which was measured before the search.
            baseline = read_record(self.folder.baseline)
            if baseline is not None and baseline.score is not None:
                copied = dataclasses.replace(
                    baseline, trial_id=trial_id, values=values, seconds=0.0, forward_passes=0, heads=0,
                    worker=os.environ.get(NAME, ""),
                )  # fmt: skip
                write_record(place, copied, read_losses(self.folder.baseline))
                return baseline.score
        started, passes, heads = time.perf_counter(), self.shared.forward_passes, self.heads.trained
        losses: np.ndarray | None = None
        found: dict[str, Any] = {}
        failure: Exception | None = None
        try:
            result = run_trial(recipe, self.shared, self.heads, monitor=self.monitor, repeats=self.repeats)
            losses = result.losses
            found = {
                "status": COMPLETED,
                "score": result.score,
                "metrics": result.metrics,
                "scores": result.scores,
                "winner": result.winner,
            }
        except BAD_SETTING as error:
            failure = error
            found = {
                "status": FAILED,
                "reason": (str(error).strip().splitlines() or [type(error).__name__])[0],
            }
        record = TrialRecord(
            trial_id=trial_id,
            values=values,
            share=share,
            seconds=time.perf_counter() - started,
            forward_passes=self.shared.forward_passes - passes,
            heads=self.heads.trained - heads,
            worker=os.environ.get(NAME, ""),
            **found,
        )
        write_record(place, record, losses)
        if failure is not None:
            raise failure
        return float(found["score"])


class _Tuner(BaseTuner):
    """Keras Tuner's loop around our trial; it builds no model and keeps no state of its own."""

    def __init__(self, oracle: Durable, folder: SearchFolder, run: RunTrial) -> None:
        self._run, self._idle = run, False
        super().__init__(oracle, directory=str(folder.path), project_name=folder.store.name)

    def pre_create_trial(self) -> None:
        """Wait before asking again where there was nothing to do: Hyperband waits for others, Keras Tuner does not."""
        if self._idle:
            time.sleep(IDLE_SECONDS)
        self._idle = True

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """One trial. What is no bad setting must stop the search: Keras Tuner takes all but its own for one."""
        self._idle = False
        try:
            return {SCORE: self._run(trial.trial_id, dict(trial.hyperparameters.values))}
        except BAD_SETTING as error:
            raise FailedTrialError(str(error)) from error
        except Exception as error:
            raise FatalError(str(error)) from error

    def save(self) -> None:
        """Write the oracle's state; a worker's oracle is the chief's."""
        if not self._is_worker():
            self.oracle.save()


def search(oracle: Durable, folder: SearchFolder, run: RunTrial) -> None:
    """Run trials until the oracle says that it is enough.

    Raises:
        KeyboardInterrupt: the user stopped it; the same search can go on.
        Exception: what a trial raised that was not the fault of its setting.
    """
    with silent_keras_tuner():
        tuner = _Tuner(oracle, folder, run)
        if folder.oracle_json.exists() and not tuner._is_worker():
            oracle.reload()
        try:
            tuner.search(verbose=0)
        except FatalError as error:
            raise error.__cause__ or error from None


@contextlib.contextmanager
def silent_keras_tuner() -> Iterator[None]:
    """Keras Tuner prints to stdout, where results belong."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
