"""Who chooses trials: what is asked and told, and what survives being stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import LINE, opened, searched

from kerastl.errors import TrainingError, UserError
from kerastl.recipe import load_recipe, resolve
from kerastl.search.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space, with_values
from kerastl.search.space import load_space


def test_fine_tune_keys_are_not_searched_where_nothing_is_thawed(tmp_path: Path) -> None:
    from kerastl.search.hyperparameters import combinations

    recipe = load_recipe("digits")
    space = load_space(None, recipe, resolve(recipe, 1000, 10))
    oracle: Any = opened(tmp_path, "random", space, 40)
    chosen = [space.decoded(oracle.create_trial(f"t{n}").hyperparameters.values) for n in range(40)]
    frozen = [values for values in chosen if values[UNFREEZE_POINT] == "backbone"]
    assert frozen and len(frozen) < len(chosen)
    assert all(not any(axis.needs_finetuning and axis.key in v for axis in space) for v in frozen)
    assert all(len(v) == len(space.hyperparameters) for v in chosen if v not in frozen)
    assert len({repr(v) for v in chosen}) == 40
    grid = combinations(Space(tuple(axis for axis in space if axis.values)))
    rates, dropouts, joins, decays = (len(axis.values) for axis in space if axis.values)
    assert len(grid) == rates * dropouts * (1 + (joins - 1) * decays)


def test_a_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    def run(trial_id: str, raw: dict[str, Any]) -> float:
        if raw["head.dropout"] > 0.3:
            raise TrainingError("the loss is nan")
        return raw["head.dropout"]

    oracle = searched(tmp_path, run, 8)
    statuses = [trial.status for trial in oracle.trials.values()]
    assert len(statuses) == 8 and statuses.count("FAILED") >= 3 and statuses.count("COMPLETED") >= 1


def test_a_programming_error_stops_the_search(tmp_path: Path) -> None:
    def run(trial_id: str, raw: dict[str, Any]) -> float:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        searched(tmp_path, run)


@pytest.mark.parametrize("tuner", ["random", "bayesian", "grid", "hyperband"])
def test_a_search_goes_on_where_it_was_stopped(tuner: str, tmp_path: Path) -> None:
    ran: list[str] = []

    def run(trial_id: str, raw: dict[str, Any]) -> float:
        if len(ran) == 3 and trial_id not in stopped:
            stopped.append(trial_id)
            raise KeyboardInterrupt
        ran.append(trial_id)
        values.append(raw["head.dropout"])
        return raw["head.dropout"]

    stopped: list[str] = []
    values: list[int] = []
    space = Space((Hyperparameter("head.dropout", values=tuple(n / 10 for n in range(9)), ordered=True),))
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, run, 6, tuner, space)
    searched(tmp_path, run, 6, tuner, space)
    assert len(ran) == 6 and sorted(set(ran)) == sorted(ran) and stopped[0] in ran
    searched(tmp_path, run, 6, tuner, space)
    assert len(ran) == 6
    assert tuner == "hyperband" or len(set(values)) == 6, "no setting is trained twice"


def test_a_trial_written_down_as_finished_is_not_run_again(tmp_path: Path) -> None:
    """Keras Tuner's own state still lists it as running at that moment."""
    ran: list[str] = []

    def run(trial_id: str, raw: dict[str, Any]) -> float:
        ran.append(trial_id)
        return 0.5

    searched(tmp_path, run, 2)
    path = tmp_path / "store" / "oracle.json"
    state = json.loads(path.read_text())
    state |= {"ongoing_trials": {"tuner0": "1"}, "end_order": ["0"]}
    path.write_text(json.dumps(state))
    oracle = searched(tmp_path, run, 3)
    assert ran == ["0", "1", "2"] and oracle.end_order == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["oracle.json", "trial_1/trial.json"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    searched(tmp_path, lambda trial_id, raw: 0.5, 2)
    file = tmp_path / "store" / name
    file.write_text(file.read_text()[:40])
    with pytest.raises(UserError, match="is damaged") as caught:
        searched(tmp_path, lambda trial_id, raw: 0.5, 3)
    assert str(file) in str(caught.value)


def test_a_trial_whose_folder_was_removed_is_counted_and_left_out(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(trial_id: str, raw: dict[str, Any]) -> float:
        ran.append(trial_id)
        return 0.5

    searched(tmp_path, run, 2)
    (tmp_path / "store" / "trial_0" / "trial.json").unlink()
    searched(tmp_path, run, 3)
    assert ran == ["0", "1", "2"]


def test_a_search_that_keras_tuner_itself_wrote_down_goes_on(tmp_path: Path) -> None:
    """Earlier versions left its files, with the interrupted trial on its list of running ones."""
    import keras_tuner

    from kerastl.search.oracle import hyperparameters

    objective = keras_tuner.Objective("score", "min")
    theirs: Any = keras_tuner.oracles.RandomSearchOracle(objective, 4, 1, hyperparameters(LINE))
    theirs._set_project_dir(str(tmp_path), "store")
    theirs.verbose = 0
    done, interrupted = theirs.create_trial("a"), theirs.create_trial("b")
    theirs.update_trial(done.trial_id, {"score": 0.25})
    done.status = "COMPLETED"
    theirs.end_trial(done)
    theirs.save()
    ran: dict[str, Any] = {}

    def run(trial_id: str, raw: dict[str, Any]) -> float:
        ran[trial_id] = raw
        return 0.5

    oracle = searched(tmp_path, run, 4)
    assert list(ran) == ["1", "2", "3"] and ran["1"] == interrupted.hyperparameters.values
    assert oracle.trials["0"].score == 0.25 and oracle.end_order == ["0", "1", "2", "3"]
    values = [trial.hyperparameters.values["head.dropout"] for trial in oracle.trials.values()]
    assert len(set(values)) == 4, "none is tried twice"


def test_a_search_begins_with_what_the_recipe_says(tmp_path: Path) -> None:
    from kerastl.search.hyperparameters import first_values, values_of

    resolved = resolve(load_recipe("digits"), 1000, 10)
    space = load_space(None, load_recipe("digits"), resolved)
    first = first_values(space, values_of(resolved, space))
    oracle: Any = opened(tmp_path, "bayesian", space, 4, 0, first)
    values = space.decoded(oracle.create_trial("tuner0").hyperparameters.values)
    assert set(values) == {axis.key for axis in space}
    assert resolve(with_values(load_recipe("digits"), values), 1000, 10) == resolved
    assert first_values(space, {**values_of(resolved, space), "head.dropout": 0.15}) is None


def bowl(space: Space, values: dict[str, Any]) -> float:
    """A score that is best at a third of each axis."""
    return sum((axis.encoded(values[axis.key]) - 1 / 3) ** 2 for axis in space if axis.key in values)


def best_in(tuner: str, space: Space, trials: int, seed: int, folder: Path) -> float:
    """The best score of a bowl that a tuner finds, without noise."""
    from kerastl.search.oracle import make_oracle
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.trial import search

    found: list[float] = []
    oracle = make_oracle(tuner, space, "min", trials, 5, seed)
    score = lambda trial_id, raw: found.append(bowl(space, space.decoded(raw))) or found[-1]  # noqa: E731
    oracle.open(SearchFolder(folder / f"{tuner}-{seed}"))
    search(oracle, score)
    assert len(found) == trials
    return min(found)


def test_a_bayesian_choice_asks_its_model_once_and_is_better_than_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor

    calls = {"predict": 0, "log_marginal_likelihood": 0}

    def counted(name: str) -> Any:
        real = getattr(GaussianProcessRegressor, name)

        def call(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return real(*args, **options)

        return call

    for name in calls:
        monkeypatch.setattr(GaussianProcessRegressor, name, counted(name))
    rungs = tuple(n / 10 for n in range(10))
    space = Space((
        Hyperparameter("head.dropout", values=rungs, ordered=True), Hyperparameter("head.l2", low=1e-6, high=1.0, scale="log"),
        Hyperparameter("head_phase.label_smoothing", low=0.0, high=0.9), Hyperparameter("head.pooling", values=("avg", "max")),
    ))  # fmt: skip
    seeds, trials = range(5), 20
    bayesian = [best_in("bayesian", space, trials, seed, tmp_path) for seed in seeds]
    proposals = len(seeds) * (trials - 6)  # the first six are drawn at random
    assert calls["predict"] == proposals
    assert calls["log_marginal_likelihood"] <= 30 * proposals, "Keras Tuner's own takes some hundred for each"
    chance = [best_in("random", space, trials, seed, tmp_path) for seed in seeds]
    least = (1 / 3) ** 2  # of two poolings neither stands at a third
    assert np.mean(bayesian) - least < 0.5 * (np.mean(chance) - least)


def test_no_trial_begins_after_the_budget(tmp_path: Path) -> None:
    from kerastl.search.trial import search

    ran: list[str] = []
    oracle = opened(tmp_path, "random", LINE, 9)
    oracle.out_of_time = lambda: len(ran) == 2
    search(oracle, lambda trial_id, raw: ran.append(trial_id) or 0.5)
    assert len(ran) == 2


def test_an_interrupted_trial_waits_too_where_the_budget_is_spent(tmp_path: Path) -> None:

    oracle: Any = opened(tmp_path, "random", LINE, 9)
    interrupted = oracle.create_trial("tuner0").trial_id
    oracle.save()
    again: Any = opened(tmp_path, "random", LINE, 9)
    again.out_of_time = lambda: True
    assert again.create_trial("tuner0").status == "STOPPED"
    again.out_of_time = lambda: False
    assert again.create_trial("tuner0").trial_id == interrupted


def test_a_worker_without_work_asks_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_tuner.engine.trial import Trial

    from kerastl.search import oracle as oracles
    from kerastl.search.trial import search

    asked: list[float] = []
    oracle = opened(tmp_path, "random", LINE, 2)
    create = oracle.create_trial

    def idle_at_first(tuner_id: str) -> Any:
        asked.append(time.monotonic())
        if 1 < len(asked) < 5:
            return Trial(oracle.get_space(), None, "IDLE")
        return create(tuner_id)

    oracle.create_trial = idle_at_first
    monkeypatch.setattr(oracles, "IDLE_SECONDS", 0.2)
    ran: list[str] = []
    search(oracle, lambda trial_id, raw: ran.append(trial_id) or 0.5)
    pauses = np.diff(asked)
    assert len(ran) == 2 and len(asked) == 6
    assert (pauses[1:4] > 0.19).all(), "no answer but idle: it waits"
    assert pauses[0] < 0.19 and pauses[4] < 0.19, "after a trial it asks at once"
