"""Heads in closed form: leave-one-out without leaving out, penalties, logits of scores, and the choice of joins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_phase import features

from kerastl.features.readers import Features
from kerastl.model.cut import cut
from kerastl.model.head_input import HeadInput
from kerastl.recipe import FinetunePhaseRecipe, Recipe, resolve
from kerastl.store.store import Store
from kerastl.store.store_folder import Folder
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL
from kerastl.training import choose
from kerastl.training.choose import WAYS, Choice
from kerastl.training.ridge import PENALTIES, RidgeProblem, sample
from kerastl.training.solve import logits_of_scores, solve
from kerastl.training.two_phase import soften_head, transfer
from kerastl.writing import WriteError

COUNT, WIDTH = 60, 12


def rows_and_targets(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, COUNT)
    rows = generator.normal(size=(COUNT, WIDTH)) + 2 * np.eye(3, WIDTH)[labels]
    return rows.astype(np.float32), np.eye(3)[labels]


def by_hand(rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float) -> tuple[Any, Any]:
    """Weighted ridge regression with an intercept that is not penalised, by its normal equations."""
    wide = np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
    ridge = np.diag([penalty] * rows.shape[1] + [0.0])
    solution = np.linalg.solve(
        wide.T @ (weights[:, None] * wide) + ridge, wide.T @ (weights[:, None] * targets)
    )
    return solution[:-1], solution[-1]


@pytest.fixture(params=[False, True], ids=["alike", "weighted"])
def case(
    request: pytest.FixtureRequest,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, RidgeProblem, np.ndarray, float]:
    """Rows, targets, weights; the problem of these, its kernel, and a penalty of 0.3 in the size of the rows."""
    rows, targets = rows_and_targets()
    weights = np.random.default_rng(1).uniform(0.2, 3.0, COUNT) if request.param else np.ones(COUNT)
    weights /= weights.mean()
    problem = RidgeProblem(targets, weights)
    kernel = problem.kernel(rows)
    return rows, targets, weights, problem, kernel, 0.3 * np.trace(kernel) / COUNT


def test_the_solution_is_that_of_the_normal_equations(case: Any) -> None:
    rows, targets, weights, problem, kernel, penalty = case
    coefficients, intercept = problem.solution(kernel, rows, 0.3)
    expected, offset = by_hand(rows, targets, weights, penalty)
    np.testing.assert_allclose(coefficients, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(intercept, offset, rtol=1e-6)


def test_leave_one_out_is_what_comes_of_leaving_each_out(case: Any) -> None:
    rows, targets, weights, problem, kernel, penalty = case
    found = problem.left_out(kernel, np.array([0.3]))
    expected = []
    for place in range(COUNT):
        others = np.arange(COUNT) != place
        kept, offset = by_hand(rows[others], targets[others], weights[others], penalty)
        expected.append(rows[place] @ kept + offset)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-8)
    assert found.error == pytest.approx(np.mean(weights * ((np.array(expected) - targets) ** 2).sum(axis=1)))
    fitted = by_hand(rows, targets, weights, penalty)
    assert found.error > 1.1 * np.mean(weights * ((rows @ fitted[0] + fitted[1] - targets) ** 2).sum(axis=1))


def test_groups_are_left_out_whole(case: Any) -> None:
    rows, targets, weights, _, kernel, penalty = case
    groups = np.arange(COUNT) // 4 % 7 * (np.arange(COUNT) < 50) + np.arange(COUNT) * (np.arange(COUNT) >= 50)
    found = RidgeProblem(targets, weights, groups).left_out(kernel, np.array([0.3]))
    expected = []
    for place in range(COUNT):
        others = groups != groups[place]
        kept, offset = by_hand(rows[others], targets[others], weights[others], penalty)
        expected.append(rows[place] @ kept + offset)
    assert len(np.unique(groups)) == 7 + 10
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-8)


def test_of_a_group_that_holds_a_class_each_row_is_left_out_alone() -> None:
    rows, targets = rows_and_targets()
    whole = RidgeProblem(targets, None, targets.argmax(axis=1))
    alone = RidgeProblem(targets, None)
    kernel = alone.kernel(rows)
    assert whole.left_out(kernel, PENALTIES).error == alone.left_out(kernel, PENALTIES).error


def test_a_solution_is_made_of_all_examples_before_further_views_and_of_soft_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kerastl.training.solve.SOLVED_ROWS", 200)
    monkeypatch.setattr("kerastl.training.solve.LEFT_OUT", 50)
    train, seen = features(120, seed=0), dict[int, set[int]]()
    rows = train.pooled_batch(np.arange(120), 0)

    def read(at: np.ndarray, view: int) -> np.ndarray:
        seen.setdefault(view, set()).update(at.tolist())
        return rows[at]

    def solved(given: Features) -> np.ndarray:
        seen.clear()
        return solve(given, rows.mean(0), rows.var(0) + 1, CLASSIFICATION, None).kernel

    given = dataclasses.replace(train, pooled_batch=read, view_count=3)
    one = solved(given)
    assert seen == {0: set(range(120))}, "one view of all, rather than two of most"
    monkeypatch.setattr("kerastl.training.solve.SOLVED_ROWS", 240)
    two = solved(given)
    assert seen == {view: set(range(120)) for view in (0, 1)}
    np.testing.assert_allclose(two, one, rtol=0.1, atol=0.02)
    turned = np.roll(np.eye(3, dtype=np.float32), 1, axis=0)[train.views.classes]
    labels = type(train.views).labels

    def blended(views: Any, at: np.ndarray, view: int) -> np.ndarray:
        return turned[at] if view else labels(views, at, view)

    monkeypatch.setattr(type(train.views), "labels", blended)
    assert np.abs(solved(given) - two).max() > 0.5, "a view has labels of its own"


def test_scores_become_logits_of_the_least_log_loss() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 2000)
    scores = 0.2 * generator.normal(size=(2000, 3)) + 0.4 * np.eye(3)[labels] + [0.3, 0.0, 0.0]
    scale, bias, log_loss = logits_of_scores(scores, labels, CLASSIFICATION, np.ones(2000))
    # Of normal scores it is known: the distance of the means over the variance.
    assert scale == pytest.approx(10.0, rel=0.1) and bias[0] < bias[1] - 2
    assert log_loss < np.mean(CLASSIFICATION.log_losses(scores * 10, labels)) - 0.05


def test_labels_that_are_rare_are_not_given_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((400, 2)) < [0.1, 0.5]).astype(np.uint8)
    scores = labels + 0.4 * generator.normal(size=(400, 2))
    scale, bias, log_loss = logits_of_scores(scores, labels, MULTI_LABEL, np.ones(400))
    decided = MULTI_LABEL.decide(scale * scores + bias)
    assert 0.03 < decided[:, 0].mean() < 0.15 and bias[0] < bias[1] and log_loss < 0.4


def test_a_solved_head_classifies_and_its_penalty_follows_the_noise() -> None:
    train = features(120, seed=0)
    rows = train.pooled_batch(np.arange(120), 0)
    found = solve(train, rows.mean(0), rows.var(0) + 1, CLASSIFICATION, None)
    logits = ((rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1)) @ found.kernel + found.bias
    assert (logits.argmax(1) == train.views.classes).mean() > 0.9 and found.log_loss < 0.9
    shuffled = np.random.default_rng(0).permutation(train.views.classes)
    noise = dataclasses.replace(train, views=dataclasses.replace(train.views, classes=shuffled))
    blind = solve(noise, rows.mean(0), rows.var(0) + 1, CLASSIFICATION, None)
    assert blind.penalty == PENALTIES[-1] and blind.log_loss == pytest.approx(np.log(3), abs=0.05)
    heavy = solve(train, rows.mean(0), rows.var(0) + 1, CLASSIFICATION, None, np.array([300.0]))
    direction = [each / np.linalg.norm(each, axis=0) for each in (heavy.kernel, found.kernel)]
    means = np.stack([rows[train.views.classes == k].mean(0) for k in range(3)], axis=1)
    means = (means - rows.mean(0)[:, None]) / np.sqrt(rows.var(0) + 1)[:, None]
    along = [np.mean((each * means / np.linalg.norm(means, axis=0)).sum(0)) for each in direction]
    assert along[0] > 0.99 and along[0] > along[1], "under a heavy penalty: the means of the classes"


def test_few_examples_and_constant_features_have_a_solution() -> None:
    train = features(6, seed=0)
    rows = train.pooled_batch(np.arange(6), 0)
    constant = dataclasses.replace(train, pooled_batch=lambda at, view: np.ones((len(at), 4), np.float32))
    for each, mean, variance in ((train, rows.mean(0), rows.var(0) + 1), (constant, np.ones(4), np.ones(4))):
        found = solve(each, mean, variance, CLASSIFICATION, None)
        assert (
            np.isfinite(found.kernel).all() and np.isfinite(found.bias).all() and np.isfinite(found.log_loss)
        )


def of_joins(
    informative: tuple[str, ...], names: tuple[str, ...], count: int = 200
) -> tuple[Features, HeadInput]:
    """Features of joins of eight channels each, of which some tell the classes apart and the others are noise."""
    base = features(count, seed=0)
    generator = np.random.default_rng(3)
    hot = np.eye(3)[base.views.classes]
    blocks = []
    for name in names:
        block = generator.normal(size=(count, 2, 8))
        if name in informative:
            block[:, 0, :3] += 1.2 * hot
            block[:, 1, :3] += 1.2 * hot
        blocks.append(block)
    stored = np.concatenate(blocks, axis=2).astype(np.float32)
    reads = HeadInput("avg", ("backbone",), dict.fromkeys(names, 8))
    return dataclasses.replace(base, outputs=lambda asked, at, view: {"joins": stored[at]}), reads


def choice_of(
    given: Features,
    reads: HeadInput,
    poolings: tuple[str, ...],
    weights: np.ndarray | None,
    store: Store | None = None,
) -> Choice:
    return choose.choose_reads(given, reads, poolings, weights, store or Store(None))


def test_as_many_joins_are_read_as_leave_one_out_finds_worth_reading() -> None:
    names = ("a", "b", "c", "d", "e", "f", "g", "backbone")
    deep, reads = of_joins(("g", "f", "e", "backbone"), names)
    chosen = choice_of(deep, reads, ("avg",), None)
    assert chosen.reads.names == ("e", "f", "g", "backbone") and chosen.error < 0.9 * chosen.last_error
    last, reads = of_joins(("backbone",), names)
    alone = choice_of(last, reads, ("avg",), None)
    assert alone.reads.names == ("backbone",) and alone.error == alone.last_error


@pytest.mark.parametrize(("way", "expected"), [(0, ("avg", "avgmax")), (1, ("avgmax",)), (2, ("first",))])
def test_the_pooling_is_the_one_that_tells_the_classes_apart(way: int, expected: tuple[str, ...]) -> None:
    base, reads = of_joins((), ("a", "backbone"))
    stored = np.random.default_rng(4).normal(size=(200, 3, 16)).astype(np.float32)
    stored[:, way, 8:11] += 1.2 * np.eye(3)[base.views.classes]
    given = dataclasses.replace(base, outputs=lambda asked, at, view: {"joins": stored[at]})
    chosen = choice_of(given, reads, ("avg", "avgmax", "first"), None)
    assert chosen.reads.pooling in expected
    features = chosen.reads.of(stored)
    assert features.shape == (200, 8 * len(chosen.reads.names) * len(WAYS[chosen.reads.pooling]))
    if way == 2:
        np.testing.assert_array_equal(features[:, -8:], stored[:, 2, 8:])
        without = choice_of(given, reads, ("avg", "avgmax"), None)
        assert chosen.error < 0.9 * without.error, "the control: the others do not tell them apart"


def test_a_pooling_is_weighed_without_the_one_that_chose_the_depth() -> None:
    base, reads = of_joins((), ("backbone",))
    stored = np.random.default_rng(4).normal(size=(200, 3, 8)).astype(np.float32)
    stored[:, 2, :3] += 1.2 * np.eye(3)[base.views.classes]
    given = dataclasses.replace(base, outputs=lambda asked, at, view: {"joins": stored[at]})
    chosen, alone = (choice_of(given, reads, ways, None) for ways in (("avg", "first"), ("first",)))
    assert chosen.reads.pooling == "first" and chosen.error == pytest.approx(alone.error, rel=1e-9)
    with_average = choice_of(given, reads, ("avg", "avgmax"), None).error
    assert with_average > 1.1 * chosen.error
    stored[:, 0, :3] += 1.2 * np.eye(3)[base.views.classes]
    fewer, alone = (choice_of(given, reads, ways, None) for ways in (("avgmax", "avg"), ("avg",)))
    assert fewer.reads.pooling == "avg" and fewer.error == pytest.approx(alone.error, rel=1e-9)


def test_a_first_step_that_is_always_the_same_is_not_chosen() -> None:
    base, reads = of_joins((), ("a", "backbone"))
    stored = np.ones((200, 3, 16), np.float32)
    stored[:, :2] = np.random.default_rng(4).normal(size=(200, 2, 16))
    stored[:, 0, 8:11] += 1.2 * np.eye(3)[base.views.classes]
    given = dataclasses.replace(base, outputs=lambda asked, at, view: {"joins": stored[at]})
    chosen = choice_of(given, reads, ("avg", "avgmax", "first"), None)
    assert chosen.reads.pooling != "first" and np.isfinite(chosen.error)


def test_examples_that_are_all_told_apart_do_not_make_the_head_as_sure_as_it_can_be() -> None:
    labels = np.arange(60) % 3
    scale, _, log_loss = logits_of_scores(np.eye(3)[labels], labels, CLASSIFICATION, np.ones(60))
    # Without a prior the scale runs into its bound of exp(7), and answers are 1 in 32 bits.
    assert 5 < scale < 15 and 0 < log_loss < 0.05


def test_rows_of_a_sample_are_the_same_in_every_call() -> None:
    assert np.array_equal(sample(5, 10), np.arange(5))
    some = sample(1000, 100)
    assert len(set(some)) == 100 and np.array_equal(some, sample(1000, 100)) and (np.diff(some) > 0).all()


def widened(train: Features, width: int) -> Features:
    """The same points with constant features beside them, as many as a backbone gives."""
    read = train.pooled_batch
    return dataclasses.replace(
        train,
        pooled_batch=lambda at, view: np.pad(read(at, view), ((0, 0), (0, width - 8)), constant_values=1.0),
    )


@pytest.mark.parametrize("informative", [True, False])
def test_a_solution_that_validation_finds_no_better_than_the_shares_is_not_kept(informative: bool) -> None:
    from test_features import Said, new_network

    network, said = new_network(), Said()
    train, validation = (widened(features(60, seed=seed), network.feature_count) for seed in (1, 2))
    if not informative:  # every example says another class than those beside it
        turned = (validation.views.classes + 1) % 3
        validation = dataclasses.replace(
            validation, views=dataclasses.replace(validation.views, classes=turned)
        )
    recipe = resolve(Recipe(finetune_phase=FinetunePhaseRecipe(unfreeze_from="backbone")), 60, 3)
    before = network.head.get_weights()
    parts = cut(network, "backbone")
    (phase,) = transfer(network, parts, train, validation, recipe, progress=said).phases
    kept = all(np.array_equal(one, other) for one, other in zip(before, phase.weights, strict=True))
    assert phase.history == () and bool(phase.solved) == informative and kept != informative
    assert any("better on validation" in line for line in said.warnings) != informative
    assert phase.best["val_calibrated_loss"] <= np.log(3) + 1e-6


def test_trials_begin_fine_tuning_with_one_solution_of_the_same_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from test_features import new_network

    from kerastl.training import two_phase

    network, made, real = new_network(), [], two_phase.solve
    monkeypatch.setattr(two_phase, "solve", lambda *some: made.append(1) or real(*some))
    train, other = (widened(features(60, seed=seed), network.feature_count) for seed in (1, 2))
    recipe = resolve(Recipe(), 60, 3)
    soften_head(network, train, recipe)
    first = network.logits.get_weights()
    network.logits.kernel.assign(np.zeros(network.logits.kernel.shape))
    later = dataclasses.replace(
        recipe, finetune_phase=dataclasses.replace(recipe.finetune_phase, learning_rate=1e-5)
    )
    soften_head(network, train, later)
    for one, again in zip(first, network.logits.get_weights(), strict=True):
        np.testing.assert_array_equal(one, again)
    assert made == [1]
    balanced = dataclasses.replace(recipe.head_phase, class_weights="balanced")
    soften_head(network, train, dataclasses.replace(recipe, head_phase=balanced))
    soften_head(network, other, recipe)
    assert (network.logits.get_weights()[0] != first[0]).any()
    network.normalization.mean = network.normalization.mean + 1
    soften_head(network, other, recipe)
    assert len(made) == 4, "other weights, other features, other statistics"


def test_a_choice_is_made_once_for_the_same_features_and_anew_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, reads = of_joins(("g", "backbone"), ("f", "g", "backbone"))
    made, real = [], choose._choose
    monkeypatch.setattr(choose, "_choose", lambda *some: made.append(1) or real(*some))
    weights = np.ones(given.count)
    with Store(Folder(tmp_path, 1 << 30)) as store:
        first = choice_of(given, reads, ("avg", "avgmax"), weights, store)
    with Store(Folder(tmp_path, 1 << 30)) as store:  # of another run
        assert choice_of(given, reads, ("avg", "avgmax"), None, store) == first and made == [1]
        choice_of(given, reads, ("avg",), weights, store)
        weights[3] = 2
        choice_of(given, reads, ("avg", "avgmax"), weights, store)
        stored = given.outputs(["joins"], np.arange(given.count), 0)["joins"].copy()
        stored[5, 0, 0] += 1e-3
        other = dataclasses.replace(given, outputs=lambda asked, at, view: {"joins": stored[at]})
        choice_of(other, reads, ("avg", "avgmax"), None, store)
        groups = np.repeat([f"scene {number}" for number in range(given.count // 4)], 4).astype(object)
        of_scenes = dataclasses.replace(given, views=dataclasses.replace(given.views, groups=groups))
        choice_of(of_scenes, reads, ("avg", "avgmax"), None, store)
    assert len(made) == 5, "other poolings, other weights, other features, groups"


def test_copies_of_one_group_do_not_choose_what_is_read() -> None:
    names = ("a", "backbone")
    base, reads = of_joins(("backbone",), names, count=60)
    copies, noise = 5, np.random.default_rng(8)
    plain = base.outputs(["joins"], np.arange(60), 0)["joins"]
    stored = np.repeat(plain, copies, axis=0) + 0.05 * noise.normal(size=(60 * copies, 2, 16)).astype(
        np.float32
    )
    views = dataclasses.replace(base.views, classes=np.repeat(base.views.classes, copies))
    views = dataclasses.replace(views, ids=np.array([f"{at}" for at in range(60 * copies)], object))
    groups = np.repeat([f"scene {number}" for number in range(60)], copies).astype(object)
    given = dataclasses.replace(base, views=views, outputs=lambda asked, at, view: {"joins": stored[at]})
    leaked = choice_of(given, reads, ("avg",), None)
    grouped = dataclasses.replace(given, views=dataclasses.replace(views, groups=groups))
    sound = choice_of(grouped, reads, ("avg",), None)
    assert sound.reads.names == ("backbone",) and sound.error > 1.3 * leaked.error
    assert leaked.reads.names == names, "the control: noise tells copies apart from others"


def test_a_choice_that_cannot_be_remembered_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, reads = of_joins(("g", "backbone"), ("f", "g", "backbone"))
    expected = choice_of(given, reads, ("avg",), None)
    store = Store(Folder(tmp_path, 1 << 30))

    def fails(*some: Any, **more: Any) -> None:
        raise WriteError("the disk may only be read")

    monkeypatch.setattr(store, "open", fails)
    assert choice_of(given, reads, ("avg",), None, store) == expected


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_the_penalty_found_downhill_is_the_best_of_all(noise: float) -> None:
    rows, targets = rows_and_targets()
    rows = rows + noise * np.random.default_rng(2).normal(size=rows.shape)
    problem = RidgeProblem(targets, None)
    kernel = problem.kernel(rows)
    found = problem.left_out(kernel, PENALTIES)
    errors = [problem.left_out(kernel, PENALTIES[at : at + 1]).error for at in range(len(PENALTIES))]
    assert found.error == min(errors) and found.penalty == PENALTIES[int(np.argmin(errors))]
    for near in (PENALTIES[0], PENALTIES[-1]):
        assert problem.left_out(kernel, PENALTIES, near).penalty == found.penalty
