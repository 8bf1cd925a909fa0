"""Calibration: temperatures for logits, fitted on validation, and what they change.

A temperature divides logits. One for all classes leaves every answer as it is and only sets right how sure it is;
one for each class can also repair a class that is over- or underrated, where there are examples enough to tell.

Both are fitted with a prior, (log T)² nats beside the sum of all log-losses. Where all validation examples are right, the
log-loss alone makes a model as sure as it can be, and the next wrong answer costs more than all others gain. On logits
that were calibrated (four classes, 83 % right, 1,000 draws), the temperature of 10 / 14 / 20 / 40 / 100 examples raised the
log-loss of others by 0.62 / 0.33 / 0.15 / 0.024 / 0.006 nats without it, by 0.021 / 0.021 / 0.019 / 0.013 / 0.005 with it
(`benchmarks/temperature.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from kerastl.data.examples import label_counts
from kerastl.evaluation.metrics import blocks
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
FOLDS = 5
# Below this many validation examples a class, temperatures of its own say more of the examples than of the class.
EXAMPLES_PER_CLASS = 20
# By this many standard errors temperatures of their own have to win in cross-validation.
STANDARD_ERRORS = 2.0
BINS = 15
# Float64 logits that are worked on together: two megabytes, so that they stay in the processor's cache.
BLOCK_ENTRIES = 1 << 18


@dataclass(frozen=True)
class Calibration:
    """Temperatures that were fitted.

    Attributes:
        kind: `temperature` (one for all classes), `per_class`, or `none`.
        temperatures: one a class; the logits are divided by them.
        count: examples that they were fitted on.
    """

    kind: str
    temperatures: tuple[float, ...]
    count: int


@dataclass(frozen=True)
class Reliability:
    """Change by the temperatures, on examples that they were not fitted on.

    Attributes:
        count: examples behind all figures.
        error_before: expected calibration error of the logits as trained.
        error_after: the same after calibration.
        log_loss_before: in nats, of the logits as trained.
        log_loss_after: the same after calibration.
    """

    count: int
    error_before: float
    error_after: float
    log_loss_before: float
    log_loss_after: float


def log_loss_at(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float | np.ndarray,
    task: Task = CLASSIFICATION,
    weights: np.ndarray | None = None,
) -> float:
    """Mean log-loss in nats of the logits divided by a temperature.

    Args:
        logits: float [n, classes].
        labels: int [n]; or 0 and 1, [n, classes], for multi-label, where the mean is over labels as well.
        temperature: above 0, one or one a class; 1 leaves the logits as they are.
        task: what the logits answer.
        weights: of each example in the mean, float [n]; all alike without it.
    """
    return float(np.average(losses_at(logits, labels, temperature, task), weights=weights))


def losses_at(
    logits: np.ndarray, labels: np.ndarray, temperature: float | np.ndarray, task: Task = CLASSIFICATION
) -> np.ndarray:
    """Log-loss of each example in nats, float64 [n]; see `log_loss_at`."""
    losses = np.empty(len(logits))
    for rows, exact, targets in _blocks(logits, labels):
        exact /= temperature
        losses[rows] = task.log_losses(exact, targets)
    return losses


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, task: Task = CLASSIFICATION, weights: np.ndarray | None = None
) -> float:
    """The temperature at which the log-loss (Guo et al. 2017, "On calibration of modern neural networks") and the prior are least.

    Args:
        logits: float [n, classes], of examples that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        task: what the logits answer.
        weights: of each example in the mean, float [n]; all alike without it.

    Returns:
        Between 0.05 and 20: above 1 where the model is too sure of itself.
    """
    prior = 1 / _effective_count(labels, weights)
    found = minimize_scalar(
        lambda log: log_loss_at(logits, labels, float(np.exp(log)), task, weights) + prior * log**2,
        bounds=(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))


def fit_temperatures(
    logits: np.ndarray, labels: np.ndarray, task: Task = CLASSIFICATION, weights: np.ndarray | None = None
) -> np.ndarray:
    """A temperature for each class, at which the log-loss is least; vector scaling without biases (Guo et al. 2017).

    The prior holds each near the one for all classes.

    Args:
        logits: float [n, classes], of examples that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        task: what the logits answer.
        weights: of each example in the mean, float [n]; all alike without it.

    Returns:
        float64 [classes], each between 0.05 and 20.
    """
    prior = 1 / _effective_count(labels, weights)
    shares = np.full(len(logits), 1 / len(logits)) if weights is None else weights / weights.sum()
    common = np.log(fit_temperature(logits, labels, task, weights))

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = 0.0, np.zeros(len(logs))
        for rows, exact, targets in _blocks(logits, labels):
            exact /= np.exp(logs)
            value += float(shares[rows] @ losses_at(exact, targets, 1.0, task))
            slope -= shares[rows] @ (task.log_loss_gradients(exact, targets) * exact)
        apart = logs - common
        return value + prior * float(apart @ apart), slope + 2 * prior * apart

    bounds = [(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))] * np.shape(logits)[1]
    start = np.full(len(bounds), common)
    return np.exp(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    kind: str = "auto",
    task: Task = CLASSIFICATION,
    weights: np.ndarray | None = None,
) -> Calibration:
    """Fit temperatures on validation.

    Args:
        logits: float [n, classes], of examples that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        kind: `temperature`, `per_class`, `none`; or `auto`: one for each class where five-fold cross-validation
            shows by two standard errors that this is better than one for all, and each class has 20 examples.
        task: what the logits answer.
        weights: of each example, float [n]; all alike without it.
    """
    count, classes = np.shape(logits)
    if kind == "auto":
        kind = "per_class" if _helps_by_class(logits, labels, task, weights) else "temperature"
    if kind == "none":
        fitted = np.ones(classes)
    elif kind == "per_class":
        fitted = fit_temperatures(logits, labels, task, weights)
    else:
        fitted = np.full(classes, fit_temperature(logits, labels, task, weights))
    return Calibration(kind, tuple(float(value) for value in fitted), count)


def reliability(
    logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray, task: Task = CLASSIFICATION
) -> Reliability:
    """Measures what dividing logits [n, classes] by temperatures changes; see `Reliability`."""
    before = np.asarray(logits)
    after = before / temperatures
    return Reliability(
        count=len(before),
        error_before=calibration_error(before, labels, task),
        error_after=calibration_error(after, labels, task),
        log_loss_before=log_loss_at(before, labels, 1.0, task),
        log_loss_after=log_loss_at(after, labels, 1.0, task),
    )


def calibration_error(logits: np.ndarray, labels: np.ndarray, task: Task = CLASSIFICATION) -> float:
    """Expected calibration error: how far accuracy and confidence lie apart, in 15 bins of equal width, 0..1.

    Naeini et al. 2015, as Guo et al. 2017 use it: of the best class. Multi-label: of each example's most probable label and
    of every other that is given, with a probability above one half. Over all labels the many that are surely absent
    would hide the rest.

    Args:
        logits: float [n, classes].
        labels: int [n]; 0 and 1, [n, classes], for multi-label.
        task: what the logits answer.
    """
    gaps, count = np.zeros(BINS), 0
    for rows in blocks(logits):
        confidence, right = task.confidences(task.probabilities(logits[rows]), np.asarray(labels[rows]))
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        gaps += np.bincount(bins, confidence - right, BINS)
        count += len(confidence)
    return float(np.abs(gaps).sum() / count)


def _helps_by_class(logits: np.ndarray, labels: np.ndarray, task: Task, weights: np.ndarray | None) -> bool:
    count, classes = np.shape(logits)
    if label_counts(labels, classes).min() < EXAMPLES_PER_CLASS:
        return False
    gains = np.empty(count)
    for fold in range(FOLDS):
        held = np.arange(count) % FOLDS == fold
        seen = logits[~held], labels[~held], task, None if weights is None else weights[~held]
        single, fitted = (
            losses_at(logits[held], labels[held], fit(*seen), task)
            for fit in (fit_temperature, fit_temperatures)
        )
        gains[held] = single - fitted
    if weights is not None:
        gains *= weights / weights.mean()
    return bool(gains.mean() > STANDARD_ERRORS * gains.std(ddof=1) / np.sqrt(count))


def _effective_count(labels: np.ndarray, weights: np.ndarray | None) -> float:
    """Number of log-losses of equal weight that tell as much (Kish 1965, Survey sampling); an example of k labels has k."""
    count = np.size(labels)
    return count if weights is None else count * float(weights.mean() ** 2 / (weights**2).mean())


def _blocks(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some rows at a time: where they lie, their logits as float64 to be written over, and their labels."""
    length = max(1, BLOCK_ENTRIES // np.shape(logits)[1])
    for start in range(0, len(logits), length):
        rows = slice(start, start + length)
        yield rows, np.array(logits[rows], np.float64), np.asarray(labels[rows])
