"""Ask and tell on Keras Tuner's oracles, with a state that survives being killed at any moment.

`create_trial` asks and `end_trial` tells, here as in Keras Tuner, whose server lets the workers of a search call them. Two things are
added, because both failed in 1.4.8: Keras Tuner writes its files in place, so that a kill leaves half of one, and it takes a
trial that has ended for an interrupted one if it is killed before it took it off its list.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import HyperbandOracle, RandomSearchOracle

from kerastl.errors import UserError
from kerastl.search.bayesian import BayesianOracle
from kerastl.search.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space, combinations, thawed_places
from kerastl.search.search_folder import SearchFolder, damaged
from kerastl.writing import write_json_atomic

SCORE = "score"
HYPERBAND_FACTOR = 3
EPOCHS = "tuner/epochs"
RUNNING, STOPPED, IDLE, COMPLETED, FAILED = "RUNNING", "STOPPED", "IDLE", "COMPLETED", "FAILED"
# Hyperband waits for trials of other workers; Keras Tuner's own loop would ask without a pause.
IDLE_SECONDS = 0.5


class Oracle:
    """Chooses the trials of a search: a mixin that keeps the state of one of Keras Tuner's oracles in a search's folder.

    Attributes:
        folder: of the search; set by `open`.
        out_of_time: says that no further trial may begin.
        ended: called with the identity of each trial that ended.
        first: values of the first trial, those of the recipe as it is; None where they lie outside the space.
        waiting: identities of interrupted trials, which run before new ones.
        lock: held while a trial begins or ends, by the chief or by the thread that answers its workers. Keras Tuner's own lock is
            never released where a call fails.
    """

    folder: SearchFolder
    out_of_time: Callable[[], bool] = staticmethod(lambda: False)
    ended: Callable[[str], None] = staticmethod(lambda trial_id: None)
    first: dict[str, Any] | None = None
    waiting: tuple[str, ...] = ()
    lock = threading.RLock()
    # Keras Tuner's.
    trials: dict[str, Any]
    ongoing_trials: dict[str, Any]
    tuner_ids: set[str]
    end_order: list[str]
    get_space: Callable[[], keras_tuner.HyperParameters]
    get_state: Callable[[], dict[str, Any]]
    set_state: Callable[[dict[str, Any]], None]

    def open(self, folder: SearchFolder) -> None:
        """Begin a search in a folder, or go on with the one there: finished trials count, interrupted ones wait.

        Raises:
            UserError: a file is damaged; it is named.
        """
        self.folder, self.verbose, self.trials = folder, 0, {}
        if not folder.oracle_json.is_file():
            self.save()
            return
        try:
            state = json.loads(folder.oracle_json.read_text(encoding="utf-8"))
            self.trials = {trial_id: self._read(trial_id) for trial_id in state["start_order"]}
            # The trials' own files decide: each is written before the state, at the start and at the end of a trial.
            done = [name for name, trial in self.trials.items() if trial.status in (COMPLETED, FAILED)]
            ended = [name for name in state["end_order"] if name in done]
            ended += [name for name in done if name not in ended]
            self.set_state({**state, "ongoing_trials": {}, "retry_queue": [], "end_order": ended})
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(folder.oracle_json, error) from error
        self.waiting = tuple(name for name in self.trials if name not in done)

    def _read(self, trial_id: str) -> Any:
        file = self.folder.of_trial(trial_id) / "trial.json"
        if not file.is_file():
            return Trial(self.get_space(), trial_id, FAILED, "its file is gone")
        try:
            return Trial.load(str(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(file, error) from error

    def save(self) -> None:
        """Write the state so that no reader sees half of it."""
        self.folder.store.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self.folder.oracle_json, self.get_state())

    def _save_trial(self, trial: Any) -> None:  # the one private name of Keras Tuner's base class
        place = self.folder.of_trial(trial.trial_id)
        place.mkdir(parents=True, exist_ok=True)
        write_json_atomic(place / "trial.json", trial.get_state())

    def create_trial(self, tuner_id: str) -> Any:
        """The trial that a worker has, an interrupted one or a new one; one that is stopped where the search is over."""
        with self.lock:
            if tuner_id not in self.ongoing_trials:
                if self.out_of_time():
                    self.tuner_ids.discard(tuner_id)
                    return Trial(self.get_space(), status=STOPPED)
                if self.waiting:
                    trial_id, *rest = self.waiting
                    self.waiting, trial = tuple(rest), self.trials[trial_id]
                    trial.status, self.ongoing_trials[tuner_id] = RUNNING, trial
                    self.tuner_ids.add(tuner_id)
                    return trial
            return super().create_trial(tuner_id)  # type: ignore[misc]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Values of a new trial; the first one is the recipe as it is."""
        if not self.trials and self.first:
            return {"status": RUNNING, "values": self.first}
        response: dict[str, Any] = super().populate_space(trial_id)  # type: ignore[misc]
        return response

    def end_trial(self, trial: Any) -> None:
        """Write down that a trial ended, and pass it on; a trial that was given to another worker changes nothing."""
        with self.lock:
            if all(running.trial_id != trial.trial_id for running in self.ongoing_trials.values()):
                return
            super().end_trial(trial)  # type: ignore[misc]
        self.ended(trial.trial_id)

    def take_back(self, tuner_id: str) -> str:
        """Let the trial of a lost worker wait for another one; returns its identity."""
        with self.lock:
            self.tuner_ids.discard(tuner_id)
            trial = self.ongoing_trials.pop(tuner_id, None)
            if trial is None:
                return ""
            self.waiting += (trial.trial_id,)
            return str(trial.trial_id)


class _Random(Oracle, RandomSearchOracle):
    """Values drawn at random."""


class _Bayesian(Oracle, BayesianOracle):
    """Values that a Gaussian process of the score finds promising."""


class _Hyperband(Oracle, HyperbandOracle):
    """Many trials with few epochs, few with all."""


class _Grid(Oracle, keras_tuner.Oracle):
    """Every combination once. Keras Tuner's own forgets where it was when it is restarted."""

    space: Space

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next combination that was not tried."""
        tried = {_text(trial.hyperparameters.values) for trial in self.trials.values()}
        for values in combinations(self.space):
            if _text(values) not in tried:
                return {"status": RUNNING, "values": values}
        return {"status": STOPPED}


def ask(oracle: Any, worker: str) -> Any:
    """The next trial of a worker, as soon as there is one; None where the search is over.

    Args:
        oracle: an `Oracle`, or Keras Tuner's client of one in another process.
        worker: its name.
    """
    while (trial := oracle.create_trial(worker)).status == IDLE:
        time.sleep(IDLE_SECONDS)
    return None if trial.status == STOPPED else trial


def tell(oracle: Any, trial: Any, score: float | None, reason: str = "") -> None:
    """End a trial with its score, or without one and the reason why."""
    if score is not None:
        oracle.update_trial(trial.trial_id, {SCORE: score})
    trial.status, trial.message = (FAILED, reason) if score is None else (COMPLETED, None)
    oracle.end_trial(trial)


def make_oracle(
    tuner: str,
    space: Space,
    direction: str,
    trials: int | None,
    full_epochs: int,
    seed: int,
    first: dict[str, Any] | None = None,
) -> Oracle:
    """An oracle over a space.

    Args:
        tuner: `bayesian`, `hyperband`, `random` or `grid`.
        space: what is searched.
        direction: `min` or `max` of the score.
        trials: at most; None where the space, or Hyperband's brackets, set the end.
        full_epochs: of a trial that Hyperband gives all it asks for.
        seed: of what is drawn at random.
        first: values of the recipe as it is, for tuners that may begin anywhere.
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
        return oracle
    if tuner == "bayesian":
        # Keras Tuner's own three a dimension would leave nothing to the model in a search of twenty.
        initial = max(4, min(3 * len(space.hyperparameters), (trials or 20) // 3))
        oracle = _Bayesian(max_trials=trials, num_initial_points=initial, **common)
    else:
        oracle = (_Grid if tuner == "grid" else _Random)(max_trials=trials, **common)
    oracle.space, oracle.first = space, None if tuner == "grid" else first
    return oracle


def hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    """The space in Keras Tuner's terms: lists by their places, fine-tune keys only where something is thawed."""
    parameters = keras_tuner.HyperParameters()
    thawed = thawed_places(space)
    for hp in space:
        if hp.needs_finetuning and thawed is not None:
            with parameters.conditional_scope(UNFREEZE_POINT, thawed):
                _declare(parameters, hp)
        else:
            _declare(parameters, hp)
    return parameters


def _declare(parameters: keras_tuner.HyperParameters, hp: Hyperparameter) -> None:
    if hp.values and hp.ordered:
        parameters.Int(hp.key, 0, len(hp.values) - 1)
    elif hp.values:
        parameters.Choice(hp.key, list(range(len(hp.values))), ordered=False)
    elif hp.whole:
        parameters.Int(hp.key, int(hp.low), int(hp.high), sampling=hp.scale)
    else:
        parameters.Float(hp.key, hp.low, hp.high, sampling=hp.scale)


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def epochs_share(raw: dict[str, Any], full_epochs: int) -> float:
    """The share of both phases' epochs that Hyperband gives a trial; 1 for the others."""
    return min(1.0, raw[EPOCHS] / full_epochs) if EPOCHS in raw else 1.0


def hyperband_trials(full_epochs: int) -> int:
    """Number of trials in one round of Hyperband's brackets."""
    brackets = int(math.log(full_epochs, HYPERBAND_FACTOR) + 1e-9) + 1
    ends = math.ceil(1 + math.log(full_epochs, HYPERBAND_FACTOR))
    return sum(
        math.ceil(ends / (bracket + 1) * HYPERBAND_FACTOR ** (bracket - place))
        for bracket in range(brackets)
        for place in range(bracket + 1)
    )
