"""What is measured after an epoch: scikit-learn's figures, weights that count, and each image's part in them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as theirs

from kerastl.errors import TrainingError
from kerastl.evaluation.calibration import fit_temperature
from kerastl.evaluation.monitors import example_losses, is_better, validation_metrics
from kerastl.task import Task, sign_of
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL


def one_label(count: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that say something of unbalanced labels; the last class is never there."""
    generator = np.random.default_rng(0)
    labels = generator.choice(classes - 1, count, p=[0.6, 0.3, 0.08, 0.02])
    return generator.normal(size=(count, classes)) + 2 * np.eye(classes)[labels], labels


def several_labels(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(count, 4)) * 2 - 1
    return logits, (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)


def test_the_figures_are_scikit_learns() -> None:
    logits, labels = one_label()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    best, present = logits.argmax(axis=1), [0, 1, 2, 3]
    found = validation_metrics(logits, labels)
    assert found["val_loss"] == pytest.approx(theirs.log_loss(labels, probabilities, labels=range(5)))
    assert found["val_accuracy"] == theirs.accuracy_score(labels, best)
    assert found["val_macro_f1"] == pytest.approx(
        theirs.f1_score(labels, best, average="macro", labels=present)
    )
    assert found["val_balanced_accuracy"] == pytest.approx(
        theirs.recall_score(labels, best, average="macro", labels=present)
    )
    assert set(found) == set(CLASSIFICATION.monitors)


def test_the_figures_of_several_labels_are_scikit_learns() -> None:
    logits, labels = several_labels()
    found = validation_metrics(logits, labels, MULTI_LABEL)
    assert found["val_macro_f1"] == pytest.approx(theirs.f1_score(labels, logits > 0, average="macro"))
    assert found["val_accuracy"] == theirs.accuracy_score(labels, logits > 0)
    assert "val_balanced_accuracy" not in found


def test_weights_count_in_losses_and_temperature() -> None:
    logits, labels = one_label()
    weights = np.where(labels == 2, 10.0, 1.0)
    twice = np.repeat(np.arange(300), np.where(labels == 2, 10, 1))
    weighted = validation_metrics(logits, labels, weights=weights)
    repeated = validation_metrics(logits[twice], labels[twice])
    assert weighted["val_loss"] == pytest.approx(repeated["val_loss"])
    # Ten copies of an image are ten images to the prior, ten times its weight are not: nearly the same temperature.
    assert weighted["val_calibrated_loss"] == pytest.approx(repeated["val_calibrated_loss"], rel=1e-3)
    assert fit_temperature(logits, labels, weights=weights) != pytest.approx(fit_temperature(logits, labels))
    assert weighted["val_accuracy"] == validation_metrics(logits, labels)["val_accuracy"]


@pytest.mark.parametrize(
    ("monitor", "task"),
    [
        *((monitor, CLASSIFICATION) for monitor in CLASSIFICATION.monitors),
        *((monitor, MULTI_LABEL) for monitor in MULTI_LABEL.monitors),
    ],
)
def test_what_images_add_is_the_metric(monitor: str, task: Task) -> None:
    logits, labels = one_label() if task.exclusive else several_labels()
    losses = example_losses(monitor, logits, labels, task)
    metric = validation_metrics(logits, labels, task)[monitor]
    assert losses.shape == (300,) and losses.mean() == pytest.approx(sign_of(monitor) * metric)


@pytest.mark.parametrize("monitor", ["val_macro_f1", "val_balanced_accuracy"])
def test_an_images_part_is_what_changes_with_its_weight(monitor: str) -> None:
    for task, (logits, labels) in ((CLASSIFICATION, one_label()), (MULTI_LABEL, several_labels())):
        if monitor not in task.monitors:
            continue
        losses = example_losses(monitor, logits, labels, task)
        whole = validation_metrics(logits, labels, task)[monitor]
        for place in (0, 1, int(labels.argmax()) if task.exclusive else 7):
            copies = np.append(np.repeat(np.arange(300), 200), place)  # one image counts a little more
            change = validation_metrics(logits[copies], labels[copies], task)[monitor] - whole
            influence = -(losses[place] - losses.mean()) / len(copies)
            assert change == pytest.approx(influence, rel=0.02, abs=1e-9)


def test_weighted_parts_are_the_weighted_loss() -> None:
    logits, labels = one_label()
    weights = np.where(labels == 2, 10.0, 1.0)
    for monitor in ("val_loss", "val_calibrated_loss"):
        losses = example_losses(monitor, logits, labels, weights=weights)
        assert losses.mean() == pytest.approx(validation_metrics(logits, labels, weights=weights)[monitor])


def test_memory_grows_with_the_logits_and_not_with_classes_squared() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 20_000)).astype(np.float32)
    labels = generator.integers(0, 20_000, 200)
    tracemalloc.start()
    validation_metrics(logits, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * logits.nbytes, "a confusion matrix alone would take 3.2 GB"


def test_an_answer_that_is_not_finite_is_refused() -> None:
    logits, labels = one_label()
    logits[3, 0] = np.nan
    with pytest.raises(TrainingError, match="answers are not finite"):
        validation_metrics(logits, labels)


@pytest.mark.parametrize(
    ("monitor", "candidate", "best", "expected"),
    [
        ("val_loss", (0.5, 0.8), (0.6, 0.9), True),
        ("val_loss", (0.6, 0.9), (0.6, 0.8), False),
        ("val_accuracy", (0.6, 0.9), (0.5, 0.8), True),
        ("val_accuracy", (0.5, 0.8), (0.6, 0.8), True),
        ("val_accuracy", (0.4, 0.7), (0.6, 0.8), False),
        ("val_macro_f1", (0.6, 0.9), (0.5, 0.8), True),
        ("val_macro_f1", (0.4, 0.7), (0.6, 0.8), False),
        ("val_calibrated_loss", (0.5, 0.8), (0.6, 0.9), True),
        ("val_calibrated_loss", (0.6, 0.9), (0.6, 0.8), False),
    ],
)
def test_better_means_better_on_the_monitored_metric(
    monitor: str, candidate: tuple[float, float], best: tuple[float, float], expected: bool
) -> None:
    one, two = (
        {"val_loss": loss, "val_calibrated_loss": loss, "val_accuracy": accuracy, "val_macro_f1": accuracy}
        for loss, accuracy in (candidate, best)
    )
    assert is_better(monitor, one, two) is expected
