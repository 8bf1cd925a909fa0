"""The search: its space, what trials share, what survives a kill, and how honest its numbers are."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Kerastl

from kerastl.backbones import backbone_names
from kerastl.errors import RecipeError, TrainingError, UserError
from kerastl.recipe import Recipe, load_recipe, resolve, shipped_recipes
from kerastl.search.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space, with_values
from kerastl.search.space import load_space, shipped_spaces

TINY = {
    "backbone.name": "mobilenet_025",
    "backbone.image_size": 32,
    "augment.views": 2,
    "head_phase.epochs": 3,
    "finetune_phase.epochs": 1,
}
LINE = Space((Hyperparameter("head.dropout", low=0.0, high=0.9),))


def tiny(source: Path, store: Path, **sets: Any) -> Recipe:
    flags = {**TINY, "data.source": str(source), "cache.directory": str(store), "cache.mode": "disk"}
    return load_recipe(flags={**flags, **{key.replace("__", "."): value for key, value in sets.items()}})


def space_of(text: str, folder: Path, recipe: Recipe | None = None) -> Space:
    (folder / "space.toml").write_text(text)
    recipe = recipe or load_recipe("photos")
    return load_space(folder / "space.toml", recipe, resolve(recipe, 1000, 10))


# The space


@pytest.mark.parametrize("recipe", sorted(shipped_recipes()))
@pytest.mark.parametrize("space", [None, *sorted(shipped_spaces())])
def test_shipped_spaces_fit_shipped_recipes(space: str | None, recipe: str) -> None:
    loaded = load_recipe(recipe)
    assert load_space(space, loaded, resolve(loaded, 1000, 10)).hyperparameters


def test_the_spaces_lie_at_the_top_level_too() -> None:
    names = {path.stem for path in (Path(__file__).parents[1] / "tuning" / "spaces").glob("*.toml")}
    assert names == set(shipped_spaces()) and "default" in names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[head]\ndropot = [0.1, 0.2]", "Unknown key 'head.dropot'. Did you mean 'head.dropout'?"),
        ("[hed]\nl2 = {low = 1, high = 2}", "Unknown key 'hed'. Did you mean 'head'?"),
        ("[head]\ndropout = {low = 0.1, high = 2.0}", "head.dropout = 2.0: expected a number at least 0 and below 1"),
        ("[head]\npooling = ['avg', 'maxx']", "Did you mean 'max'?"),
        ("[head]\ndropout = [0.1]", "expected a list of at least two values"),
        ("[head]\ndropout = [0.1, 0.1]", "expected values that differ"),
        ("[head]\ndropout = {low = 0.2, hihg = 0.3}", "unknown 'hihg'. Did you mean 'high'?"),
        ("[head]\ndropout = {low = 0.3, high = 0.2}", "expected low below high"),
        ("[head]\nl2 = {low = 0.0, high = 0.2, scale = 'log'}", "expected low above 0 on a logarithmic scale"),
        ("[head]\nl2 = {low = 0.1, high = 0.2, scale = 'lgo'}", "expected scale = log or linear. Did you mean 'log'?"),
        ("[head]\nl2 = {around = 10}", "around needs a recipe that says a number above 0; it says 0.0"),
        ("[head_phase]\nlearning_rate = {around = 0.5}", "expected around = a factor above 1"),
        ("[finetune_phase]\nunfreeze_from = ['conv4', 'input']", "unknown unfreeze point 'conv4' for backbone 'resnet50'"),
        ("[finetune_phase]\nunfreeze_from = {joins = 1}", 'expected joins = "all" or a whole number of at least 2'),
        ("seed = [1, 2]", "seed: cannot be searched"),
        ("[data]\nvalidation_fraction = [0.1, 0.2]", "data.validation_fraction: cannot be searched"),
        ("[backbone]\nname = ['resnet50', 'vgg16']\n[finetune_phase]\nunfreeze_from = {joins = 3}", "expected one of them"),
        ("", "expected at least one recipe key"),
    ],
)  # fmt: skip
def test_a_wrong_space_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        space_of(text, tmp_path)
    assert message in str(caught.value)


def test_all_problems_of_a_space_come_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        space_of("seed = [1, 2]\n[head]\ndropot = [0.1, 0.2]\nl2 = 3", tmp_path)
    assert len(caught.value.problems) == 3


def test_keys_of_the_finetune_phase_need_something_thawed(tmp_path: Path) -> None:
    frozen = load_recipe("photos", flags={UNFREEZE_POINT: "backbone"})
    with pytest.raises(RecipeError, match="the recipe thaws nothing"):
        space_of("[finetune_phase]\nlearning_rate = {low = 1e-5, high = 1e-3}", tmp_path, frozen)
    default = load_space(None, frozen, resolve(frozen, 1000, 10))
    assert {axis.key for axis in default} == {"head_phase.learning_rate", "head.dropout"}


def test_the_unfreeze_point_is_ordered_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    points = ["input", "backbone", "conv4_block6_out"]
    recipe = load_recipe("photos", flags={UNFREEZE_POINT: "input"})
    space = space_of(f"[finetune_phase]\nunfreeze_from = {points}", tmp_path, recipe)
    assert (
        space.hyperparameters[0].values == ("backbone", "conv4_block6_out", "input")
        and space.hyperparameters[0].ordered
    )


def test_a_step_makes_a_ladder_of_exact_values(tmp_path: Path) -> None:
    text = "[head_phase]\nlearning_rate = {low = 1e-4, high = 1e-2, scale = 'log', step = 10}\n"
    recipe = load_recipe("photos", flags={"head_phase.learning_rate": 1e-3})
    space = space_of(text + "[head]\ndropout = {low = 0.0, high = 0.3, step = 0.1}", tmp_path, recipe)
    assert space.hyperparameters[0].values == (1e-4, 1e-3, 1e-2) and space.hyperparameters[1].values == (
        0.0,
        0.1,
        0.2,
        0.3,
    )
    assert space.hyperparameters[0].encoded(1e-3) == 0.5


@pytest.mark.parametrize("name", [None, *sorted(shipped_spaces())])
def test_the_recipe_as_it_is_belongs_to_every_shipped_space(name: str | None) -> None:
    from kerastl.search.hyperparameters import first_values, values_of

    for backbone, count in itertools.product(backbone_names(), (200, 2000)):
        recipe = load_recipe("photos", flags={"backbone.name": backbone})
        resolved = resolve(recipe, count, 10)
        space = load_space(name, recipe, resolved)
        first = first_values(space, values_of(resolved, space))
        assert first is not None, f"{backbone}, {count} images"
        assert resolve(with_values(recipe, space.decoded(first)), count, 10) == resolved


OWN = {
    "a list of joins": ("[finetune_phase]\nunfreeze_from = ['backbone', 'input']", {UNFREEZE_POINT: "conv4_block6_out"},
                        ("backbone", "conv4_block6_out", "input")),
    "few joins": ("[finetune_phase]\nunfreeze_from = {joins = 2}", {UNFREEZE_POINT: "conv4_block6_out"},
                  ("backbone", "conv4_block6_out", "input")),
    "rising numbers": ("[finetune_phase]\nbatch_size = {ordered = [8, 32]}", {"finetune_phase.batch_size": 12}, (8, 12, 32)),
    "falling numbers": ("[head]\ndropout = {ordered = [0.4, 0.2]}", {"head.dropout": 0.3}, (0.4, 0.3, 0.2)),
    "lists": ("[head]\nhidden = {ordered = [[], [512]]}", {"head.hidden": [128]}, ((), (128,), (512,))),
    "words in their order": ("[augment]\nlevel = {ordered = ['none', 'strong']}", {"augment.level": "medium"},
                             ("none", "medium", "strong")),
    "words without one": ("[head]\npooling = ['gem', 'max', 'avgmax']", {}, ("gem", "max", "avgmax", "avg")),
    "a ladder": ("[head]\ndropout = {low = 0.1, high = 0.3, step = 0.1}", {"head.dropout": 0.5}, (0.1, 0.2, 0.3, 0.5)),
    "a rung is the recipe's own value, rounded": (
        "[head_phase]\nlearning_rate = {around = 10, step = 10}", {"head_phase.learning_rate": 0.00123456},
        (0.0001235, 0.00123456, 0.01235)),
    "a value next to a rung stands for it": (
        "[finetune_phase]\nlayer_decay = {low = 0.7, high = 1.0, step = 0.1}", {"finetune_phase.layer_decay": 0.9007},
        (0.7, 0.8, 0.9007, 1.0)),
    "no logarithm of zero": ("[head]\nl2 = {low = 1e-4, high = 1e-3, scale = 'log'}", {}, (0.0, 1e-4, 0.0003162, 1e-3)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "flags", "values"), OWN.values(), ids=OWN.keys())
def test_what_the_recipe_says_is_added_to_a_list_in_its_place(
    text: str, flags: dict[str, Any], values: tuple[Any, ...], tmp_path: Path
) -> None:
    recipe = load_recipe("photos", flags=flags)
    space = space_of(text, tmp_path, recipe)
    assert space.hyperparameters[0].values == values
    # what was added is said; a rung that stood there is not
    replaced = "around" in text or "layer_decay" in text
    assert [line.partition(" = ")[0] for line in space.added] == [space.hyperparameters[0].key] * (
        not replaced
    )


def test_a_range_reaches_to_what_the_recipe_says(tmp_path: Path) -> None:
    from kerastl.search.hyperparameters import combinations, first_values, values_of

    for flags, ends in (
        ({"finetune_phase.learning_rate": 3.14159e-3}, (1e-5, 3.14159e-3)),
        ({"finetune_phase.learning_rate": 3.14159e-4}, (1e-5, 1e-3)),
        ({"finetune_phase.learning_rate": 1e-7}, (1e-7, 1e-3)),
    ):
        recipe = load_recipe("photos", flags=flags)
        resolved = resolve(recipe, 1000, 10)
        text = "[finetune_phase]\nlearning_rate = {low = 1e-5, high = 1e-3, scale = 'log'}"
        space = space_of(text, tmp_path, recipe)
        assert (space.hyperparameters[0].low, space.hyperparameters[0].high) == ends
        assert bool(space.added) == (ends != (1e-5, 1e-3))
        first = first_values(space, values_of(resolved, space))
        # to the last digit, though other values of a range are rounded
        assert first is not None and space.decoded(first) == flags
        assert flags in [space.decoded(values) for values in combinations(space)]
        assert len(f"{space.hyperparameters[0].decoded(1.23456789e-4)}") == len("0.0001235")


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


# Keras Tuner: what ends a trial, and what ends the search


def opened(folder: Path, tuner: str, space: Space, trials: int, seed: int = 0, first: Any = None) -> Any:
    """An oracle that begins, or goes on, in a folder."""
    from kerastl.search.oracle import make_oracle
    from kerastl.search.search_folder import SearchFolder

    oracle = make_oracle(tuner, space, "min", trials, 5, seed, first)
    oracle.open(SearchFolder(folder))
    return oracle


def searched(folder: Path, run: Any, trials: int = 4, tuner: str = "random", space: Space = LINE) -> Any:
    from kerastl.search.trial import search

    oracle = opened(folder, tuner, space, trials)
    search(oracle, run)
    return oracle


def test_a_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    def run(trial_id: str, raw: dict[str, Any]) -> float:
        if raw["head.dropout"] > 0.3:
            raise TrainingError("the loss is nan")
        return raw["head.dropout"]

    oracle = searched(tmp_path, run, 8)
    statuses = [trial.status for trial in oracle.trials.values()]
    assert len(statuses) == 8 and statuses.count("FAILED") >= 3 and statuses.count("COMPLETED") >= 1


def test_a_trial_whose_answers_are_no_numbers_fails_though_its_loss_is_one(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.jobs.prepare import open_splits
    from kerastl.report.search import FAILED
    from kerastl.search.head_phases import HeadPhases
    from kerastl.search.search_folder import SearchFolder, read_record
    from kerastl.search.spec import SearchSettings, SearchSpec
    from kerastl.search.trial import TrialRunner

    # One step an epoch: its loss is that of the weights before it.
    recipe = tiny(
        solid_colours, tmp_path / "store", finetune_phase__unfreeze_from="backbone",
        head_phase__batch_size=512, head_phase__warmup_epochs=0.0, head_phase__optimizer="sgd",
        head_phase__gradient_clip_norm=0.0,
    )  # fmt: skip
    folder, shared = SearchFolder(tmp_path / "search"), shared_of(recipe)
    heads = HeadPhases(folder.heads)
    spec = SearchSpec(recipe, *open_splits(recipe)[:1], LINE, SearchSettings(), shared.splits)
    runner = TrialRunner(spec, folder, shared, heads)
    place = folder.of_trial("0")
    with pytest.raises(TrainingError, match="no finite answer in epoch 1"):
        runner.run(place, "0", {"head_phase.learning_rate": 3e38})
    record = read_record(place)
    assert (
        record is not None and record.status == FAILED and "Lower head_phase.learning_rate" in record.reason
    )
    assert runner.run(folder.of_trial("1"), "1", {"head_phase.learning_rate": 1e-3}) > 0


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


def test_the_budget_counts_all_starts_of_a_search(tmp_path: Path) -> None:
    from kerastl.progress import Progress
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.trial_log import TrialLog

    folder = SearchFolder(tmp_path)
    with TrialLog(folder, "val_loss", 9, 0.2, Progress()) as table:
        assert not table.out_of_time()
        time.sleep(0.25)
        assert table.out_of_time()
    # though no trial has ended
    with TrialLog(folder, "val_loss", 9, 0.2, Progress()) as table:
        assert table.out_of_time()
    with TrialLog(folder, "val_loss", 9, 60.0, Progress()) as table:
        assert not table.out_of_time()


# What trials share


@pytest.fixture(scope="module")
def shared_of(solid_colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`shared_of(recipe, folds)`: what the trials of a search share, on a store of its own."""
    from contextlib import ExitStack

    from kerastl.features.cache import Cache
    from kerastl.jobs.prepare import open_splits
    from kerastl.search.shared import Shared

    with ExitStack() as stack:

        def make(recipe: Recipe, folds: int = 0) -> Shared:
            folder = tmp_path_factory.mktemp("scratch")
            cache = stack.enter_context(Cache(recipe.cache, folder))
            return Shared(open_splits(recipe)[1], cache, folds, 5)

        yield make


def scored(recipe: Recipe, values: dict[str, Any], shared: Any, heads: Any, **options: Any) -> Any:
    from kerastl.search.trial import run_trial, trial_recipe

    options = {"monitor": "val_calibrated_loss", **options}
    return run_trial(trial_recipe(recipe, values, shared), shared, heads, **options)


@pytest.mark.slow
def test_each_image_view_and_cut_passes_the_frozen_part_once(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store")
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    cuts = ("conv_pw_12_relu", "conv_pw_11_relu")
    settings = [
        {UNFREEZE_POINT: cut, "finetune_phase.learning_rate": rate} for rate in (1e-4, 1e-3) for cut in cuts
    ]
    results = [scored(recipe, values, shared, heads) for values in settings]
    counts = shared.splits.counts()
    once = 2 * counts["train"] + counts["validation"]
    assert shared.forward_passes == once * len(cuts) and shared.decoded == 1
    assert (heads.trained, heads.reused) == (1, 3)
    assert all(result.losses.shape == (counts["validation"],) for result in results)
    # nothing of the test split was decoded
    assert "test" not in shared.prepared(resolve(recipe, 10, 3)).pixels

    # the control: trials that share nothing
    apart = 0
    for number, values in enumerate(settings[:2]):
        alone = tiny(solid_colours, tmp_path / f"store-{number}")
        for again in range(2):
            other = shared_of(
                dataclasses.replace(alone, cache=dataclasses.replace(alone.cache, mode="memory"))
            )
            scored(alone, values, other, HeadPhases(tmp_path / f"heads-{number}-{again}"))
            apart += other.forward_passes
    assert apart == once * 4 > shared.forward_passes


@pytest.mark.slow
def test_features_in_memory_serve_all_trials_too(solid_colours: Path, tmp_path: Path, shared_of: Any) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(
        solid_colours, tmp_path / "store", cache__mode="memory", finetune_phase__unfreeze_from="backbone"
    )
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    for values in ({}, {"head.pooling": "gem"}, {UNFREEZE_POINT: "conv_pw_12_relu"}):
        scored(recipe, values, shared, heads)
    counts = shared.splits.counts()
    once = 2 * counts["train"] + counts["validation"]
    # all poolings lie in the first trial's pass; the cut is another part of the network
    assert shared.forward_passes == 2 * once and heads.trained == 2
    shared.cache.release()
    other = shared_of(recipe)
    scored(recipe, {}, other, heads)
    assert other.forward_passes == once, "the control: another search has a memory of its own"


def test_a_search_warns_before_it_begins_where_the_store_has_no_room_for_all_cuts(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases
    from kerastl.search.job import room_warning

    first, second = "conv_pw_12_relu", "conv_pw_11_relu"
    recipe = tiny(solid_colours, tmp_path / "store", finetune_phase__unfreeze_from=first)
    rates = Hyperparameter("head_phase.learning_rate", values=(1e-3, 1e-2), ordered=True)  # of no feature
    space = Space((Hyperparameter(UNFREEZE_POINT, values=("backbone", first, second), ordered=True), rates))
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    assert room_warning(recipe, space, shared) == "", "the control"
    assert shared.forward_passes == 0, "nothing is run"
    counts = shared.splits.counts()
    # pooled features in three ways, once for all cuts, and the activations at both cuts
    rows, pooled, activations = 2 * counts["train"] + counts["validation"], 3 * 256 * 4, (256 + 4 * 128) * 2
    needed = rows * (pooled + activations)

    def room_is(left: int) -> None:
        shared.cache.folder.max_bytes = left + sum(array.bytes for array in shared.cache.folder.arrays())

    room_is(needed)
    assert room_warning(recipe, space, shared) == ""
    room_is(needed - 1)
    assert "not all can be kept there" in room_warning(recipe, space, shared)
    # what lies there already needs no room
    room_is(10**9)
    for values in ({}, {UNFREEZE_POINT: second}):
        scored(recipe, values, shared, heads)
    room_is(0)
    assert room_warning(recipe, space, shared) == ""
    larger = Space((Hyperparameter("backbone.image_size", values=(32, 48), ordered=True),))
    assert "not all can be kept there" in room_warning(recipe, larger, shared)


def test_a_head_phase_that_is_taken_over_changes_no_score(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    phases = {"head_phase__epochs": 1, "finetune_phase__epochs": 3, "finetune_phase__learning_rate": 1e-3}
    recipe = tiny(solid_colours, tmp_path / "store", head__dropout=0.5, **phases)
    values = {UNFREEZE_POINT: "conv_pw_12_relu"}
    shared = shared_of(recipe)
    first = scored(recipe, values, shared, HeadPhases(tmp_path / "heads"))
    assert first.winner == "finetune_phase"
    kept = HeadPhases(tmp_path / "heads")  # another process: nothing in memory
    second = scored(recipe, values, shared, kept)
    assert (kept.trained, kept.reused) == (0, 1)
    assert np.abs(second.losses - first.losses).max() < 1e-5
    other = scored(recipe, {**values, "head.dropout": 0.2}, shared, kept)
    assert kept.trained == 1 and other.score != pytest.approx(first.score, abs=1e-6)
    # what was damaged is run again
    for path in (tmp_path / "heads").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    again = HeadPhases(tmp_path / "heads")
    scored(recipe, values, shared, again)
    assert again.trained == 1


@pytest.mark.slow
def test_two_processes_run_a_head_phase_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from kerastl.search.head_phases import HeadPhases; from kerastl.training.phase import PhaseResult\n"
        "def train():\n"
        "    time.sleep(1.5)\n"
        "    return PhaseResult('head_phase', (), 1, 'val_loss', {}, (np.ones(3),), 1.0, 1.0, 'epochs')\n"
        "heads = HeadPhases(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "result = heads.get({'a': sys.argv[2]}, train)\n"
        "print(heads.trained, heads.reused, result.weights[0].sum())\n"
    )

    def together(*keys: str) -> list[str]:
        pipe = subprocess.PIPE
        both = [
            subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "heads"), key], stdin=pipe, stdout=pipe, text=True)
            for key in keys
        ]  # fmt: skip
        assert all(process.stdout and process.stdout.readline() == "ready\n" for process in both)
        for process in both:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return sorted(process.communicate(timeout=60)[0].strip() for process in both)

    assert together("same", "same") == ["0 1 3.0", "1 0 3.0"]
    assert together("one", "other") == ["1 0 3.0"] * 2


def test_folds_measure_every_image_once_and_repeats_are_averaged(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", finetune_phase__unfreeze_from="backbone")
    shared = shared_of(recipe, 3)
    result = scored(recipe, {}, shared, HeadPhases(tmp_path / "heads"), repeats=2)
    counts = shared.splits.counts()
    assert len(result.scores) == 6 and result.score == pytest.approx(np.mean(result.scores))
    assert len(result.losses) == counts["train"] + counts["validation"]
    assert shared.forward_passes == 2 * len(result.losses)


def test_folds_keep_groups_whole_and_hold_out_every_image_once(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.data.examples import text_column
    from kerastl.jobs.prepare import open_splits
    from kerastl.search.shared import fold_positions, pooled_splits

    split = pooled_splits(open_splits(tiny(solid_colours, tmp_path))[1]).train
    groups = text_column([f"g{number // 4}" for number in range(len(split.examples))])
    split = dataclasses.replace(split, examples=dataclasses.replace(split.examples, groups=groups))
    parts = fold_positions(split, 3)
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(split.count))
    of = groups[split.indices]
    assert all(not set(of[train]) & set(of[held]) for train, held in parts)


def graphs_alive() -> int:
    import gc

    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


def fit_a_line() -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, 4), np.float32), np.zeros((8, 2), np.float32), verbose=0)


def test_graphs_of_a_training_are_forgotten_with_it() -> None:
    from kerastl.training.reuse import leak_workaround

    with leak_workaround():  # lets go of what the control leaves
        fit_a_line()
        before = graphs_alive()
        with leak_workaround():
            fit_a_line()
        assert graphs_alive() == before
        fit_a_line()
        assert graphs_alive() > before, "the control: Keras' fit alone leaves its graphs behind"


def test_trials_leave_no_graphs_behind(solid_colours: Path, tmp_path: Path, shared_of: Any) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", head_phase__epochs=1)
    shared, heads, counts = shared_of(recipe), HeadPhases(tmp_path / "heads"), []
    for number in range(3):
        scored(recipe, {UNFREEZE_POINT: "conv_pw_12_relu", "head.dropout": number / 10}, shared, heads)
        counts.append(graphs_alive())
    assert heads.trained == 3 and counts[0] == counts[1] == counts[2]


def test_hyperbands_share_is_of_both_phases_epochs(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.oracle import EPOCHS, epochs_share
    from kerastl.search.trial import trial_recipe

    recipe = tiny(solid_colours, tmp_path, head_phase__epochs=100, finetune_phase__epochs=20)
    third = trial_recipe(recipe, {}, shared_of(recipe), epochs_share({EPOCHS: 5}, 20))
    assert (third.head_phase.epochs, third.finetune_phase.epochs) == (25, 5)
    assert epochs_share({}, 20) == 1.0


# Honest numbers


def test_noise_alone_gives_an_apparent_gain_and_no_expected_one() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    noise = generator.exponential(1.0, (50, 200))
    bias = selection_bias_of(noise[1:], noise[0])
    assert bias.apparent > 0.1 and bias.expected < bias.apparent / 2 and bias.low < 0 < bias.high


def test_a_real_gain_is_mostly_kept() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    losses = generator.exponential(1.0, (20, 400))
    losses[7] *= 0.5
    bias = selection_bias_of(losses[1:], losses[0])
    assert bias.expected > 0.8 * bias.apparent and bias.low > 0


def test_images_of_one_group_are_drawn_together() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    patients = generator.exponential(1.0, (40, 20))  # losses of trials on patients; noise alone
    images = np.repeat(patients, 30, axis=1)
    groups = np.repeat(np.arange(20), 30)
    alone = selection_bias_of(patients[1:], patients[0])
    together = selection_bias_of(images[1:], images[0], groups)
    assert together.expected == pytest.approx(alone.expected, abs=0.1)
    # the control: as if each image stood for itself, nearly all of the selection bias is taken for a gain
    apart = selection_bias_of(images[1:], images[0])
    assert apart.expected > 0.95 * apart.apparent and together.expected < 0.7 * together.apparent
    assert together.low < 0 < apart.low


def test_the_report_draws_groups_together(tmp_path: Path) -> None:
    from kerastl.report.search import TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, generator = SearchFolder(tmp_path), np.random.default_rng(0)
    patients = generator.exponential(1.0, (6, 5)).astype(np.float32)
    losses = np.repeat(patients, 8, axis=1)
    baseline = TrialRecord("baseline", {}, score=float(losses[0].mean()), losses=losses[0])
    write_record(folder.baseline, baseline)
    for number, row in enumerate(losses[1:]):
        values = {"head.dropout": number / 10}
        record = TrialRecord(str(number), values, score=float(row.mean()), losses=row)
        write_record(folder.of_trial(str(number)), record)
    words = (folder, "d", LINE, "random", "val_loss", "", read_records(folder), "")
    apart, together = make_report(*words).bias, make_report(*words, np.repeat(np.arange(5), 8)).bias
    assert apart is not None and together is not None
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def report_of(
    folder: Path, baseline: np.ndarray, trials: np.ndarray, shares: dict[int, float] | None = None
) -> Any:
    """The report of a search whose trials lost so much on each image."""
    from kerastl.report.search import COMPLETED, TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    place = SearchFolder(folder)
    score = float(baseline.mean())
    write_record(place.baseline, TrialRecord("baseline", {}, score=score, losses=baseline))
    for number, row in enumerate(trials):
        values, share = {"head.dropout": number / 50}, (shares or {}).get(number, 1.0)
        record = TrialRecord(
            str(number), values, share, COMPLETED, float(row.mean()), seconds=2.0, losses=row
        )
        write_record(place.of_trial(str(number)), record)
    return make_report(place, "d", LINE, "random", "val_loss", "", read_records(place), "")


def test_a_gain_that_is_no_better_than_chance_leaves_the_recipe_as_it_is(tmp_path: Path) -> None:
    from kerastl.report.search import search_text
    from kerastl.search.results import winning_values, write_results
    from kerastl.search.search_folder import SearchFolder, read_records

    noise = np.random.default_rng(1).exponential(1.0, (31, 100)).astype(np.float32)
    noise[0] *= 0.88 / noise[0].mean()  # the recipe is a little better than what the trials draw from
    report = report_of(tmp_path / "noise", noise[0], noise[1:])
    looks_best = int(noise[1:].mean(axis=1).argmin())
    assert report.bias.apparent > 0 >= report.bias.expected, "what the test needs"
    assert (report.best, report.chance, winning_values(report)) == ("", str(looks_best), {})
    assert report.best_score == report.baseline
    assert f"trial {looks_best} with" in search_text(report) and "no better than chance" in search_text(
        report
    )
    folder, recipe = SearchFolder(tmp_path / "noise"), resolve(load_recipe("digits"), 1000, 10)
    write_results(folder, report, recipe, LINE, read_records(folder))
    assert (
        resolve(load_recipe(folder.winner_toml), 1, 2) == recipe
        and "no better than chance" in folder.winner_toml.read_text()
    )
    # the control: a trial that is better wins
    noise[7] *= 0.5
    report = report_of(tmp_path / "gain", noise[0], noise[1:])
    assert (report.best, report.chance) == ("6", "") and "no better than chance" not in search_text(report)


def test_pictures_tell_short_trials_apart_and_name_a_winner_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.report import search_plots

    # As SVG, in which words can be read.
    monkeypatch.setattr(search_plots, "save_figure", lambda figure, path: figure.savefig(path, format="svg"))
    losses = np.random.default_rng(0).normal(0.5, 0.01, (6, 50)).astype(np.float32)

    def drawn(report: Any) -> tuple[str, str]:
        search_plots.plot_keys(report, tmp_path / "keys.svg")
        search_plots.plot_parallel(report, tmp_path / "parallel.svg")
        return (tmp_path / "keys.svg").read_text(), (tmp_path / "parallel.svg").read_text()

    short, better = "fewer epochs", "orange: the winner"
    best = losses * np.array([1, 1, 1, 1, 0.5, 1], np.float32)[:, None]
    keys, lines = drawn(report_of(tmp_path / "whole", best[0], best[1:]))
    assert better in keys and better in lines and short not in keys and short not in lines
    worst = losses * np.array([0.5, 1, 1, 1, 1, 0.1], np.float32)[:, None]
    keys, lines = drawn(report_of(tmp_path / "short", worst[0], worst[1:], {3: 0.3, 4: 0.3}))
    assert better not in keys and better not in lines
    assert "hollow: with fewer epochs" in keys and "without 2 with fewer epochs" in lines
    # two of five dots are hollow, and the short trial's score of 0.05 is no end of the axis of whole ones
    assert "0.050" not in lines and "0.500" in lines


def test_a_search_says_how_long_it_took_beside_its_trials(tmp_path: Path) -> None:
    from kerastl.progress import Progress
    from kerastl.report.search import search_text
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.trial_log import TrialLog

    said: list[str] = []

    class Listening(Progress):
        def note(self, message: str) -> None:
            said.append(message)

    losses = np.ones((3, 20), np.float32)
    report_of(tmp_path, losses[0], losses[1:])
    with TrialLog(SearchFolder(tmp_path), "val_loss", 9, None, Listening()) as table:
        table._began -= 100
        table.start(None)
        table.ended("1")
    report = report_of(tmp_path, losses[0], losses[1:])
    assert (report.seconds, round(report.wall_seconds)) == (4.0, 100)
    assert "2 trials in 1 min 40 s, of which trials took 4.0 s" in search_text(report)
    line = said[-1].split()
    assert (
        line[said[-2].split().index("seconds")] == "2.0"
        and line[said[-2].split().index("seconds") + 1] == "100"
    )


def test_another_search_gets_a_folder_of_its_own(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.jobs.prepare import open_splits
    from kerastl.progress import Progress
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same, folder_for

    recipe = tiny(solid_colours, tmp_path / "store")
    resolved, splits = open_splits(recipe)

    def place(tuner: str, trials: int = 20) -> str:
        spec = SearchSpec(recipe, resolved, LINE, SearchSettings(tuner, trials), splits)
        folder = folder_for(spec, tmp_path / "tuning" / "colours", Progress())
        folder.path.mkdir(parents=True, exist_ok=True)
        check_same(folder, spec)
        return folder.path.name

    assert [place("random"), place("grid"), place("bayesian")] == ["colours", "colours-2", "colours-3"]
    # the same search goes on where it was, with more trials too
    assert [place("grid"), place("random", 30)] == ["colours-2", "colours"]
    SearchFolder(tmp_path / "tuning" / "colours").search_json.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        place("random")


def test_a_shortened_trial_never_wins(tmp_path: Path) -> None:
    from kerastl.report.search import TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, losses = SearchFolder(tmp_path), np.ones(4, np.float32)
    write_record(folder.baseline, TrialRecord("baseline", {}, score=0.5, losses=losses))
    short = TrialRecord("0", {"head.dropout": 0.1}, 0.4, score=0.1, losses=losses * 0.1)
    write_record(folder.of_trial("0"), short)
    report = make_report(folder, "d", LINE, "hyperband", "val_loss", "", read_records(folder), "")
    assert (report.best, report.best_score, report.bias) == ("", 0.5, None)
    write_record(folder.of_trial("1"), dataclasses.replace(short, trial_id="1", share=1.0))
    report = make_report(folder, "d", LINE, "hyperband", "val_loss", "", read_records(folder), "")
    assert (report.best, report.best_score) == ("1", 0.1) and report.bias is not None


def test_a_dead_key_has_no_importance_and_a_live_one_has() -> None:
    from kerastl.report.search import COMPLETED, TrialRecord
    from kerastl.search.analysis import importance_of

    space = Space(
        (Hyperparameter("head.dropout", low=0.0, high=1.0), Hyperparameter("head.l2", low=0.0, high=1.0))
    )
    generator = np.random.default_rng(0)
    records = []
    for number in range(30):
        live, dead = generator.random(2)
        score = (live - 0.4) ** 2 + 0.01 * generator.random()
        values = {"head.dropout": live, "head.l2": dead}
        records.append(TrialRecord(str(number), values, 1.0, COMPLETED, score))
    found = importance_of(space, records)
    assert found is not None and found.explained > 0.5
    assert found.values["head.dropout"] > 0.5 and abs(found.values["head.l2"]) < 0.1
    assert importance_of(space, records[:5]) is None


def test_a_recipe_that_fails_as_it_is_loses_to_any_trial(tmp_path: Path) -> None:
    from kerastl.report.search import COMPLETED, FAILED, TrialRecord
    from kerastl.search.results import make_report, winning_values, write_results
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, recipe = SearchFolder(tmp_path), load_recipe("digits")
    write_record(folder.baseline, TrialRecord("baseline", {}, 1.0, FAILED, reason="the loss is nan"))
    for number, score in enumerate((0.5, 0.2, None)):
        status, values = COMPLETED if score else FAILED, {"head.dropout": number / 10}
        record = TrialRecord(str(number), values, 1.0, status, score, reason="" if score else "a | b\nc")
        losses = np.zeros(4, np.float32) if score else None
        write_record(folder.of_trial(str(number)), dataclasses.replace(record, losses=losses))
    records = read_records(folder)
    report = make_report(folder, "digits", LINE, "random", "val_loss", "", records, "")
    assert winning_values(report) == {"head.dropout": 0.1} and report.bias is None
    best = resolve(with_values(recipe, winning_values(report)), 1000, 10)
    write_results(folder, report, best, LINE, records)
    assert resolve(load_recipe(folder.winner_toml), 1, 2) == best
    page = folder.page_md.read_text()
    assert "recipe as it was    failed" in page and "Failed trials" in page
    for name in ("keys.png", "parallel.png"):
        assert (tmp_path / name).stat().st_size > 1000
    # a damaged record is named
    (folder.of_trial("1") / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"trial_1/result\.json is damaged"):
        read_records(folder)


def test_scratch_of_killed_processes_is_removed_and_that_of_others_is_not(tmp_path: Path) -> None:
    from kerastl.search.search_folder import SearchFolder, scratch_folder

    code = (
        "import os, sys; from pathlib import Path; from kerastl.search.search_folder import SearchFolder, scratch_folder\n"
        "with scratch_folder(SearchFolder(Path(sys.argv[1]))) as place:\n"
        "    place.mkdir(); (place / 'pixels.npy').write_text('x'); print(place, flush=True); sys.stdin.readline()\n"
    )
    pipe = subprocess.PIPE

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
        )

    killed, alive = start(), start()
    try:
        places = [Path(process.stdout.readline().strip()) for process in (killed, alive) if process.stdout]
        killed.kill()
        killed.wait()
        assert all((place / "pixels.npy").is_file() for place in places), (
            "the control: a killed process leaves it"
        )
        with scratch_folder(SearchFolder(tmp_path)) as mine:
            mine.mkdir()
            assert [place.exists() for place in places] == [False, True]
        alive.communicate("\n", timeout=60)
    finally:
        for process in (killed, alive):
            process.kill()
    assert list(tmp_path.iterdir()) == []


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


# The whole job


def command(source: Path, *words: str) -> list[str]:
    sets = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    return ["tune", "--data", str(source), "--name", "colours", *sets, "--no-export", *words]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_tests_its_winner_once(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    words = command(solid_colours, "--trials", "3", "--set", f"cache.directory={tmp_path / 'store'}")
    first = tmp_path / "tuning" / "colours" / "store" / "trial_1" / "result.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "kerastl", *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )  # fmt: skip
    try:
        while not first.is_file():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    before = first.stat().st_mtime_ns
    done = kerastl(*words)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == before
    folder = tmp_path / "tuning" / "colours"
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    best = min(float(row["score"]) for row in rows)
    baseline = json.loads((folder / "baseline" / "result.json").read_text())["score"]
    result = json.loads((folder / "result.json").read_text())
    kept = best if result["winning_trial"] else baseline
    assert result["score"] == kept and result["baseline"] == baseline
    assert (result["winning_trial"] != "") == (best < baseline and result["gain"]["expected"] > 0)
    assert (
        result["gain"]["apparent"] == pytest.approx(max(baseline - best, 0), abs=1e-6)
        and "importance" in result
    )
    assert (
        bool(result["values"]) == bool(result["winning_trial"])
        and result["seconds"] > result["trial_seconds"] > 0
    )
    winner = load_recipe(folder / "winner.toml")
    run = tmp_path / result["run"]
    assert load_recipe(run / "recipe.toml") == winner
    page = (folder / "search.md").read_text()
    assert "met the test split once" in page and (folder / "keys.png").stat().st_size > 1000
    assert 'name = "colours"' in done.stdout and "in all" in done.stderr
    # asked once more it answers, and trains and tests nothing
    again = kerastl(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 1
    told = kerastl(*words, "--json")
    assert json.loads(told.stdout) == json.loads((folder / "result.json").read_text())
    other = kerastl(*words, "--tuner", "random", "--directory", "tuning/colours")
    assert other.returncode == 2 and "holds another search" in other.stderr


@pytest.mark.slow
def test_workers_share_a_search_and_a_killed_one_takes_its_trial_up_again(
    solid_colours: Path, tmp_path: Path
) -> None:
    words = command(
        solid_colours, "--trials", "6", "--workers", "2", "--set", f"cache.directory={tmp_path / 'store'}"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "kerastl", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    store = tmp_path / "tuning" / "colours" / "store"
    try:
        while not list(store.glob("trial_*/result.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "search.worker"], capture_output=True, text=True
        )
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
        output, errors = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "was killed (SIGKILL); started again" in errors
    assert len(list(store.glob("trial_*/result.json"))) == 6 and "winner.toml" in output


@pytest.mark.slow
def test_a_worker_of_another_machine_joins_and_is_told_when_it_is_over(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.search.workers import IP, NAME, PORT, free_port

    words = command(solid_colours, "--trials", "6", "--set", f"cache.directory={tmp_path / 'store'}")
    place = {**os.environ, IP: "127.0.0.1", PORT: str(free_port())}
    folder = tmp_path / "tuning" / "colours"
    options: Any = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A cluster starts all at once: the worker comes first, and the folder is not there yet.
    remote = subprocess.Popen(
        [sys.executable, "-m", "kerastl.search.worker", "tuning/colours"], env={**place, NAME: "machine-2"}, **options
    )  # fmt: skip
    chief = subprocess.Popen([sys.executable, "-m", "kerastl", *words], env=place, **options)
    try:
        output, errors = chief.communicate(timeout=500)
        assert chief.returncode == 0, errors
        said = remote.communicate(timeout=60)
        assert remote.returncode == 0, said
    finally:
        for process in (chief, remote):
            process.kill()
    states = [json.loads(path.read_text()) for path in folder.glob("store/trial_*/trial.json")]
    assert len(states) == 6 and "winner.toml" in output
    records = [json.loads(path.read_text()) for path in folder.glob("store/trial_*/result.json")]
    assert {record["worker"] for record in records} == {"worker-1", "machine-2"}
    # no head phase was run twice: each belongs to a rate and a dropout
    keys = ("head_phase.learning_rate", "head.dropout")
    different = {tuple(record["values"][key] for key in keys) for record in records}
    assert sum(record["heads"] for record in records) <= len(different)
    assert not (folder / "workers.json").exists()


class Played:
    """In the place of worker processes: `play(number of the start)` is all that one does before it ends."""

    def __init__(self, play: Callable[[int], object] = lambda number: None) -> None:
        self.play = play
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **options: Any) -> Played:
        self.environments.append(env)
        self.play(len(self.environments))
        return self

    def poll(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("gpus", "visible", "dealt"),
    [
        (2, None, ["0", "1", "0"]),
        (2, "3, GPU-5a", ["3", "GPU-5a", "3"]),
        (1, "7", ["7", "7", "7"]),
        (0, None, [None] * 3),
        (0, "-1", ["-1"] * 3),
    ],
)
def test_each_worker_gets_a_gpu_of_its_own_where_there_are_enough(
    gpus: int, visible: str | None, dealt: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from kerastl.progress import Progress
    from kerastl.search import workers

    processes = Played()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] * gpus)
    monkeypatch.setattr(workers.subprocess, "Popen", processes)
    monkeypatch.delenv(workers.GPUS, raising=False)
    if visible is not None:
        monkeypatch.setenv(workers.GPUS, visible)
    workers.search_with_workers(opened(tmp_path, "random", LINE, 2), {}, 3, Progress())
    assert [environment.get(workers.GPUS) for environment in processes.environments] == dealt


@pytest.mark.slow
def test_the_trial_of_a_worker_that_is_silent_goes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.progress import Progress
    from kerastl.search import workers

    warned: list[str] = []

    class Listening(Progress):
        def warn(self, message: str) -> None:
            warned.append(message)

    oracle = opened(tmp_path, "random", LINE, 2)
    lost: list[Any] = []

    def finish(tuner_id: str) -> Any:
        trial = oracle.create_trial(tuner_id)
        oracle.update_trial(trial.trial_id, {"score": 0.5})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        return trial

    def play(start: int) -> None:
        # The other machine takes a trial and is lost; the worker here does the other one and is told to end.
        if start == 1:
            lost.append(oracle.create_trial("machine 2/ü"))
            assert [finish("worker-1").trial_id, oracle.create_trial("worker-1").status] == ["1", "STOPPED"]
        else:
            assert finish("worker-1").trial_id == "0"

    processes = Played(play)
    monkeypatch.setattr(workers.subprocess, "Popen", processes)
    monkeypatch.setattr(workers, "SILENT_SECONDS", 0.5)
    workers.search_with_workers(oracle, {}, 1, Listening())
    assert len(processes.environments) == 2 and oracle.end_order == ["1", "0"]
    assert len(warned) == 1 and "machine 2/ü was silent" in warned[0] and "trial 0" in warned[0]
    # if it lives after all, what it says of a trial that has ended changes nothing
    late = copy.copy(lost[0])
    late.status = "FAILED"
    oracle.end_trial(late)
    assert oracle.trials["0"].status == "COMPLETED" and oracle.end_order == ["1", "0"]


def test_a_worker_that_is_heard_of_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerastl.search import workers
    from kerastl.search.search_folder import SearchFolder

    clock = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    folder = SearchFolder(tmp_path)
    silence = workers.Silence(folder)
    for minute in range(20):
        clock[0] += 60
        # its clock may be years behind
        workers.life_file(folder, "a/b").write_text("x")
        os.utime(workers.life_file(folder, "a/b"), (minute, minute))
        assert silence.lost(["a/b", "never"]) == (["never"] if minute in (6, 13) else [])
    clock[0] += workers.SILENT_SECONDS + 1
    assert silence.lost(["a/b"]) == ["a/b"]


def test_a_worker_waits_for_its_chief_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.search import worker
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.workers import NAME, worker_file

    folder = SearchFolder(tmp_path / "search")
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(worker, "WAIT_SECONDS", 0.2)
    with pytest.raises(UserError, match="No chief asked for workers"):
        worker.await_chief(folder)
    monkeypatch.setattr(worker, "WAIT_SECONDS", 60.0)
    folder.path.mkdir()
    chief = threading.Timer(0.3, lambda: worker_file(folder).write_text("{}"))
    chief.start()
    assert worker.await_chief(folder)
    chief.join()
    # after the end there is nothing to wait for
    worker_file(folder).unlink()
    folder.result_json.write_text("{}")
    assert not worker.await_chief(folder)
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(UserError, match=f"{NAME} is not set"):
        worker.main(str(folder.path))


def test_a_worker_with_other_data_is_refused(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.jobs.prepare import open_splits
    from kerastl.search import worker
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same
    from kerastl.search.workers import NAME, worker_file

    recipe, folder = tiny(solid_colours, tmp_path / "store"), SearchFolder(tmp_path / "search")
    spec = SearchSpec(recipe, *open_splits(recipe)[:1], LINE, SearchSettings(), open_splits(recipe)[1])
    folder.path.mkdir()
    check_same(folder, spec)
    worker_file(folder).write_text(json.dumps(spec.to_dict()))
    known = json.loads(folder.search_json.read_text())
    folder.search_json.write_text(json.dumps({**known, "data": "of the chief"}))
    monkeypatch.setenv(NAME, "machine-2")
    with pytest.raises(UserError, match="other than there: data"):
        worker.main(str(folder.path))


def test_a_search_goes_on_under_another_name_and_not_with_another_seed(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.jobs.prepare import open_splits
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same

    def asked(**sets: Any) -> SearchSpec:
        recipe = tiny(solid_colours, tmp_path / "store", **sets)
        resolved, splits = open_splits(recipe)
        return SearchSpec(recipe, resolved, LINE, SearchSettings(), splits)

    folder = SearchFolder(tmp_path)
    for name in (None, "flowers", "other"):
        check_same(folder, asked(name=name))
    with pytest.raises(UserError, match="other than there: recipe"):
        check_same(folder, asked(seed=7))


def test_a_search_does_not_go_on_with_another_file_of_weights_under_the_same_name(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.jobs.prepare import open_splits
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same

    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"some")
    recipe = tiny(solid_colours, tmp_path / "store", **{"backbone.weights": str(weights)})
    resolved, splits = open_splits(recipe)
    spec = SearchSpec(recipe, resolved, LINE, SearchSettings(), splits)
    folder = SearchFolder(tmp_path / "search")
    folder.path.mkdir()
    for _ in range(2):
        check_same(folder, spec)
    weights.write_bytes(b"other")
    with pytest.raises(UserError, match="other than there: files"):
        check_same(folder, spec)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "my flowers"], "name = 'my flowers': expected"),
        (["--budget", "soon"], "Expected one such as 90s, 30m or 1.5h"),
        (["--tuner", "bayes"], "bayesian"),
        (["--space", "defualt"], "Did you mean 'default'?"),
        (["--folds", "3", "--augment", "strong"], "the augmentation mixes images"),
        (["--folds", "3", "--space", "augment"], "the augmentation mixes images (augment.level = strong)"),
        (["--folds", "1"], "--folds"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, kerastl: Kerastl) -> None:
    done = kerastl("tune", "digits", *words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_values_are_checked_as_the_recipes_own() -> None:
    with pytest.raises(RecipeError, match=r"head\.dropout"):
        with_values(load_recipe("digits"), {"head.dropout": 1.5})


def test_a_folder_that_holds_something_else_is_no_search(tmp_path: Path) -> None:
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import check_same

    class Asked:
        def identity(self) -> dict[str, str]:
            return {"recipe": "any"}

    asked: Any = Asked()
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="not the folder of a search and holds other files \\('cat'\\)"):
        check_same(SearchFolder(tmp_path / "photos"), asked)
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["cat"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".lock").touch()
    for _ in range(2):
        check_same(SearchFolder(tmp_path / "new"), asked)
