"""What holds for every task, whatever it answers."""

from __future__ import annotations

import numpy as np
import pytest

from kerastl.errors import RecipeError
from kerastl.recipe import recipe_from_dict, recipe_to_dict
from kerastl.task import MONITORS, TASKS, Task, task_named
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL

both = pytest.mark.parametrize("task", [CLASSIFICATION, MULTI_LABEL], ids=lambda task: task.name)


def drawn(task: Task, count: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, classes)) * 3
    if task.exclusive:
        return logits, generator.integers(0, classes, count)
    return logits, generator.integers(0, 2, (count, classes)).astype(np.uint8)


@both
def test_gradients_are_those_of_the_log_loss(task: Task) -> None:
    logits, labels = drawn(task)
    step = 1e-6 * np.eye(logits.shape[1])
    by_difference = [
        (task.log_losses(logits + d, labels) - task.log_losses(logits - d, labels)) / 2e-6 for d in step
    ]
    assert task.log_loss_gradients(logits, labels) == pytest.approx(np.stack(by_difference, axis=1), abs=1e-7)


@both
def test_training_and_evaluation_have_one_loss(task: Task) -> None:
    logits, labels = drawn(task)
    trained = task.loss(0.0)(task.targets(labels, 4), logits.astype(np.float32))
    assert float(trained) == pytest.approx(task.log_losses(logits, labels).mean(), rel=1e-5)


@both
def test_training_and_evaluation_count_the_same_answers_as_right(task: Task) -> None:
    logits, labels = drawn(task)
    metric = task.accuracy()
    metric.update_state(task.targets(labels, 4), logits.astype(np.float32))
    assert float(metric.result()) == pytest.approx(task.is_right(task.decide(logits), labels).mean())


@both
def test_log_losses_are_those_of_the_probabilities(task: Task) -> None:
    logits, labels = drawn(task)
    probabilities, targets = task.probabilities(logits), task.targets(labels, 4)
    if task.exclusive:
        expected = -np.log((probabilities * targets).sum(axis=1))
    else:
        expected = -np.log(np.where(targets > 0, probabilities, 1 - probabilities)).mean(axis=1)
    assert task.log_losses(logits, labels) == pytest.approx(expected)


@both
def test_a_huge_logit_costs_what_it_says_and_no_more(task: Task) -> None:
    logits = np.array([[1e4, -1e4]])
    labels = np.array([1]) if task.exclusive else np.array([[0, 1]], np.uint8)
    assert task.log_losses(logits, labels) == pytest.approx([2e4 if task.exclusive else 1e4])


@both
def test_class_sums_count_what_the_classes_are_worth(task: Task) -> None:
    logits, labels = drawn(task)
    values, decided = np.array([1.0, 10.0, 100.0, 1000.0]), task.decide(logits)
    own, given = task.targets(labels, 4), task.targets(decided, 4)
    assert task.class_sums(values, labels) == pytest.approx(own @ values)
    assert task.right_sums(values, decided, labels) == pytest.approx((own * given) @ values)
    assert task.counts(decided, labels, 4).tolist() == [
        each.sum(axis=0).tolist() for each in (own * given, own, given)
    ]


@both
def test_the_constant_guess_has_the_frequencies_of_the_labels(task: Task) -> None:
    _, labels = drawn(task, 6000)
    counts = task.counts(labels, labels, 4)[1]
    guess = task.probabilities(task.first_bias(counts, 6000)[None])[0]
    assert guess == pytest.approx(counts / 6000, abs=1e-3)


@both
def test_labels_that_do_not_fit_are_refused(task: Task) -> None:
    _, labels = drawn(task)
    task.check_labels(labels, 60, 4)
    for wrong, count in ((labels + 4, 60), (labels[:59], 60), (labels[..., None], 60)):
        with pytest.raises(ValueError, match=r"labels|Labels"):
            task.check_labels(wrong, count, 4)


def test_every_task_is_found_by_its_name_and_has_known_monitors() -> None:
    assert [task_named(name).name for name in TASKS] == list(TASKS)
    for name in TASKS:
        assert set(task_named(name).monitors) <= set(MONITORS)
    assert "val_balanced_accuracy" not in MULTI_LABEL.monitors


@pytest.mark.parametrize(("old", "task"), [(True, "multi_label"), (False, "classification")])
def test_recipes_from_before_there_were_tasks_are_read(old: bool, task: str) -> None:
    recipe = recipe_from_dict({"data": {"multi_label": old}})
    assert recipe.data.task == task and recipe.task.name == task
    assert recipe_to_dict(recipe)["data"]["task"] == task


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"multi_label": True, "task": "classification"}, "expected data.task alone"),
        ({"multi_label": "yes"}, "data.multi_label = 'yes': expected true or false"),
        ({"task": "multilabel"}, "Did you mean 'multi_label'"),
    ],
)
def test_a_task_that_is_not_clear_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict({"data": data})
