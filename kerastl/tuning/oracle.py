"""Keras Tuner's oracles, with a store that survives being killed at any moment.

Keras Tuner writes its state in place, so a kill in the middle leaves half a file, and it keeps a trial among the
running ones until after it was written down as finished, so a restart repeats it (both seen in 1.4.8).
"""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.oracle import Oracle
from keras_tuner.oracles import HyperbandOracle, RandomSearchOracle

from kerastl.tuning.bayesian import Proposing
from kerastl.tuning.hyperparameters import NOTHING_THAWED, SAME, UNFREEZE_POINT, Hyperparameter, Space
from kerastl.tuning.search_folder import damaged
from kerastl.writing import write_json_atomic

SCORE = "score"
GRID_VALUES = 5
HYPERBAND_FACTOR = 3
EPOCHS = "tuner/epochs"
RUNNING, STOPPED, DONE = "RUNNING", "STOPPED", ("COMPLETED", "FAILED")


class Durable:
    """What every oracle here adds to Keras Tuner's: atomic files, a true resumption, an end in time.

    Attributes:
        out_of_time: whether no further trial may begin.
        first: values of the first trial, what the recipe says already; None where the space has no place for it.
        ended: called with the identity of each trial that ended.
        one_at_a_time: held by whoever changes what runs: the chief and the thread that answers its workers. Keras Tuner's own
            lock is never released where a call fails.
    """

    out_of_time: Callable[[], bool] = staticmethod(lambda: False)
    ended: Callable[[str], None] = staticmethod(lambda trial_id: None)
    first: dict[str, Any] | None = None
    one_at_a_time = threading.RLock()

    def save(self) -> None:
        """Write the state so that no reader sees half of it."""
        write_json_atomic(self._get_oracle_fname(), self.get_state())  # type: ignore[attr-defined]

    def _save_trial(self, trial: Any) -> None:
        folder = self._get_trial_dir(trial.trial_id)  # type: ignore[attr-defined]
        write_json_atomic(Path(folder) / "trial.json", trial.get_state())

    def create_trial(self, tuner_id: str) -> Any:
        """A trial that was interrupted, or a new one; none of either where time is out."""
        with self.one_at_a_time:
            if not self.out_of_time():
                return super().create_trial(tuner_id)  # type: ignore[misc]
            waiting: list[str] = self._retry_queue  # type: ignore[has-type]
            self._retry_queue = []
            try:
                return super().create_trial(tuner_id)  # type: ignore[misc]
            finally:
                self._retry_queue = waiting

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Values of a new trial, never those of an earlier one."""
        if self.out_of_time():
            return {"status": STOPPED}
        if not self.trials and self.first:
            return {"status": RUNNING, "values": self.first}
        response: dict[str, Any] = super().populate_space(trial_id)  # type: ignore[misc]
        values = response.get("values") or {}
        if response["status"] == RUNNING and EPOCHS not in values and self._duplicate(values):  # type: ignore[attr-defined]
            # A model of the score is free to propose what it knows best; that would tell it nothing.
            values = self._random_values()  # type: ignore[attr-defined]
            return {"status": RUNNING if values else STOPPED, "values": values}
        return response

    def end_trial(self, trial: Any) -> None:
        """Write down that a trial ended, and say so."""
        with self.one_at_a_time:
            if all(running.trial_id != trial.trial_id for running in self.ongoing_trials.values()):  # type: ignore[attr-defined]
                return  # of a worker that was given up and lived: the trial has ended, or waits for another
            super().end_trial(trial)  # type: ignore[misc]
        self.ended(trial.trial_id)

    def waits(self) -> bool:
        """Whether a trial waits to be run again."""
        return bool(self._retry_queue)

    def take_back(self, tuner_id: str) -> str:
        """Let the trial of a worker that is lost wait for another; returns its identity."""
        with self.one_at_a_time:
            trial = self.ongoing_trials.pop(tuner_id, None)  # type: ignore[attr-defined]
            self.tuner_ids.discard(tuner_id)  # type: ignore[attr-defined]
            if trial is not None:
                self._retry_queue.append(trial.trial_id)
            return trial.trial_id if trial is not None else ""

    def reload(self) -> None:
        """Read what an earlier process left: finished trials count, interrupted ones are run again.

        Raises:
            UserError: a file is damaged; it is named.
        """
        self.trials: dict[str, Any] = {}
        path = Path(self._get_oracle_fname())  # type: ignore[attr-defined]
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            known = list(state["start_order"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(path, error) from error
        for trial_id in known:
            file = path.parent / f"trial_{trial_id}" / "trial.json"
            if not file.is_file():
                space = self.get_space()  # type: ignore[attr-defined]
                lost = keras_tuner.engine.trial.Trial(space, trial_id, "FAILED", "its file is gone")
                self.trials[trial_id] = lost
                continue
            try:
                self.trials[trial_id] = keras_tuner.engine.trial.Trial.load(str(file))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise damaged(file, error) from error
        state["ongoing_trials"], state["retry_queue"] = {}, []
        self.set_state(state)  # type: ignore[attr-defined]
        # The trials' own files decide: they are written before the state, at the start and at the end of each.
        done = [trial_id for trial_id in known if self.trials[trial_id].status in DONE]
        self.end_order = sorted(
            done, key=lambda i: state["end_order"].index(i) if i in state["end_order"] else len(known)
        )
        self._retry_queue = [i for i in reversed(known) if self.trials[i].status not in DONE]


class _Random(Durable, RandomSearchOracle):
    """Values drawn at random."""


class _Bayesian(Durable, Proposing):
    """Values that a Gaussian process of the score finds promising."""


class _Hyperband(Durable, HyperbandOracle):
    """Many trials with few epochs, few with all."""


class _Grid(Durable, Oracle):
    """Every combination once. Keras Tuner's own forgets where it was when it is restarted."""

    space: Space

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next combination that was not tried."""
        if self.out_of_time():
            return {"status": STOPPED}
        for values in combinations(self.space):
            if not self._duplicate(values):
                return {"status": RUNNING, "values": values}
        return {"status": STOPPED}


def make_oracle(
    tuner: str,
    space: Space,
    direction: str,
    trials: int | None,
    full_epochs: int,
    seed: int,
    first: dict[str, Any] | None = None,
) -> Durable:
    """An oracle over a space.

    Args:
        tuner: `bayesian`, `hyperband`, `random` or `grid`.
        space: what is searched.
        direction: `min` or `max` of the score.
        trials: at most; None where the space, or Hyperband's brackets, set the end.
        full_epochs: of a trial that Hyperband gives all it asks for.
        seed: of what is drawn at random.
        first: what the recipe says already, for tuners that may begin anywhere.
    """
    common = {
        "objective": keras_tuner.Objective(SCORE, direction),
        "hyperparameters": hyperparameters(space),
        "tune_new_entries": False,
        "allow_new_entries": False,
        "seed": seed + 1,  # Keras Tuner takes 0 for none
        # A space may well have a corner in which everything diverges.
        "max_consecutive_failed_trials": None,
    }
    if tuner == "hyperband":
        oracle: Any = _Hyperband(max_epochs=full_epochs, factor=HYPERBAND_FACTOR, **common)
        oracle.max_trials = trials
    elif tuner == "bayesian":
        # Keras Tuner's own three a dimension would leave nothing to the model in a search of twenty.
        initial = max(4, min(3 * len(space.hyperparameters), (trials or 20) // 3))
        oracle = _Bayesian(max_trials=trials, num_initial_points=initial, **common)
        oracle.space, oracle.first = space, first
    elif tuner == "random":
        oracle = _Random(max_trials=trials, **common)
        oracle.first = first
    else:
        oracle = _Grid(max_trials=trials, **common)
        oracle.space = space
    return oracle


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """The space in Keras Tuner's terms: lists by their places, fine-tune keys only where something is thawed."""
    found = keras_tuner.HyperParameters()
    thawed = thawed_places(space)
    for hp in space:
        if hp.needs_finetuning and thawed is not None:
            with found.conditional_scope(UNFREEZE_POINT, thawed):
                _declare(found, hp)
        else:
            _declare(found, hp)
    return found


def first_values(space: Space, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a recipe says, in an oracle's terms: the search begins where it is; None where it lies outside the space.

    Args:
        space: what is searched.
        said: recipe keys and values.
    """
    found: dict[str, Any] = {}
    for hp in space:
        value = said[hp.key]
        if hp.needs_finetuning and said[UNFREEZE_POINT] == NOTHING_THAWED:
            continue
        if hp.values and value in hp.values:
            found[hp.key] = hp.values.index(value)
        elif not hp.values and hp.low <= value <= hp.high:
            found[hp.key] = value
        else:
            return None
    return found


def thawed_places(space: Space) -> list[int] | None:
    """Places in the list of the unfreeze point where something is thawed; None where all thaw, or it is not searched."""
    hp = space.unfreeze_point
    if hp is None or NOTHING_THAWED not in hp.values:
        return None
    return [place for place, name in enumerate(hp.values) if name != NOTHING_THAWED]


def _declare(found: keras_tuner.HyperParameters, hp: Hyperparameter) -> None:
    if hp.values and hp.ordered:
        found.Int(hp.key, 0, len(hp.values) - 1)
    elif hp.values:
        found.Choice(hp.key, list(range(len(hp.values))), ordered=False)
    elif hp.whole:
        found.Int(hp.key, int(hp.low), int(hp.high), sampling=hp.scale)
    else:
        found.Float(hp.key, hp.low, hp.high, sampling=hp.scale)


def combinations(space: Space) -> list[dict[str, Any]]:
    """Every combination of a grid, keys without meaning left out; a range gives five values, evenly spread."""
    thawed = thawed_places(space)
    found: dict[str, dict[str, Any]] = {}
    for chosen in itertools.product(*(_grid_values(hp) for hp in space)):
        values = dict(zip((hp.key for hp in space), chosen, strict=True))
        if thawed is not None and values[UNFREEZE_POINT] not in thawed:
            values = {hp.key: values[hp.key] for hp in space if not hp.needs_finetuning}
        found.setdefault(repr(values), values)
    return list(found.values())


def _grid_values(hp: Hyperparameter) -> list[Any]:
    if hp.values:
        return list(range(len(hp.values)))
    if hp.scale == "log":
        step = (hp.high / hp.low) ** (1 / (GRID_VALUES - 1))
        values = [hp.low * step**place for place in range(GRID_VALUES)]
    else:
        values = [hp.low + (hp.high - hp.low) * place / (GRID_VALUES - 1) for place in range(GRID_VALUES)]
    if hp.own is not None and not any(math.isclose(value, hp.own, rel_tol=SAME) for value in values):
        values = sorted([*values, hp.own])
    return list(dict.fromkeys(round(v) for v in values)) if hp.whole else values


def epochs_share(raw: dict[str, Any], full_epochs: int) -> float:
    """The share of both phases' epochs that Hyperband gives a trial; 1 for the others."""
    return min(1.0, raw[EPOCHS] / full_epochs) if EPOCHS in raw else 1.0


def hyperband_trials(full_epochs: int) -> int:
    """How many trials one round of Hyperband's brackets takes."""
    brackets = int(math.log(full_epochs, HYPERBAND_FACTOR) + 1e-9) + 1
    ends = math.ceil(1 + math.log(full_epochs, HYPERBAND_FACTOR))
    return sum(
        math.ceil(ends / (bracket + 1) * HYPERBAND_FACTOR ** (bracket - place))
        for bracket in range(brackets)
        for place in range(bracket + 1)
    )
