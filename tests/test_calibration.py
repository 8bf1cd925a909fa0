"""The temperature: undoes a known error, leaves the order of classes alone, never makes validation worse."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from kerastl.evaluation.calibration import fit_temperature, log_loss_at


def honest_logits(count: int = 4000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: each label is drawn from it."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, classes)) * 2
    labels = np.array([generator.choice(classes, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_logits_that_are_too_large_or_too_small_are_set_right(factor: float) -> None:
    logits, labels = honest_logits()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.06)


def test_the_log_loss_is_scikit_learns() -> None:
    logits, labels = honest_logits(200)
    probabilities = np.exp(logits / 2.0) / np.exp(logits / 2.0).sum(axis=1, keepdims=True)
    assert log_loss_at(logits, labels, 2.0) == pytest.approx(log_loss(labels, probabilities))


def test_no_temperature_is_better_than_the_fitted_one() -> None:
    logits, labels = honest_logits(300)
    best = fit_temperature(logits * 5, labels)
    losses = [log_loss_at(logits * 5, labels, best * step) for step in (0.5, 0.9, 1.0, 1.1, 2.0)]
    assert min(losses) == losses[2] < losses[1]


def test_labels_of_their_own_are_calibrated_one_by_one() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3000, 3)) * 2
    labels = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    assert fit_temperature(logits * 4, labels, multi_label=True) == pytest.approx(4.0, rel=0.08)


def test_extreme_logits_give_finite_numbers() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert np.isfinite(log_loss_at(logits, np.array([1, 1]), 1.0))
    assert 0.05 <= fit_temperature(logits, np.array([0, 1])) <= 20
