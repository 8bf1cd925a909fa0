"""How far probabilities can be trusted: temperatures for logits, fitted on validation, and what they change.

A temperature divides logits. One for all classes leaves every answer as it is and only sets right how sure it is;
one for each class can also repair a class that is over- or underrated, where there are images enough to tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from kerastl.evaluation.metrics import probabilities_of

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
FOLDS = 5
# Below this many validation images a class, temperatures of its own say more of the images than of the class.
IMAGES_PER_CLASS = 20
# By this many standard errors temperatures of their own have to win in cross-validation.
STANDARD_ERRORS = 2.0
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Temperatures that were fitted.

    Attributes:
        kind: `temperature` (one for all classes), `per_class`, or `none`.
        temperatures: one a class; the logits are divided by them.
        count: images that they were fitted on.
    """

    kind: str
    temperatures: tuple[float, ...]
    count: int


@dataclass(frozen=True)
class Reliability:
    """What the temperatures changed, on images that they were not fitted on.

    Attributes:
        count: images behind all figures.
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
    logits: np.ndarray, labels: np.ndarray, temperature: float | np.ndarray, multi_label: bool = False
) -> float:
    """Mean log-loss in nats of the logits divided by a temperature.

    Args:
        logits: float [n, classes].
        labels: int [n]; or 0 and 1, [n, classes], for multi-label, where the mean is over labels as well.
        temperature: above 0, one or one a class; 1 leaves the logits as they are.
        multi_label: sigmoid instead of softmax.
    """
    return float(_losses(np.asarray(logits, np.float64) / temperature, labels, multi_label).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> float:
    """The temperature at which the log-loss is least (Guo et al. 2017, "On calibration of modern neural networks").

    Args:
        logits: float [n, classes], of images that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        multi_label: sigmoid instead of softmax.

    Returns:
        Between 0.05 and 20: above 1 where the model is too sure of itself.
    """
    found = minimize_scalar(
        lambda exponent: log_loss_at(logits, labels, float(np.exp(exponent)), multi_label),
        bounds=(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def fit_temperatures(logits: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """A temperature for each class, at which the log-loss is least; vector scaling without biases (Guo et al. 2017).

    Args:
        logits: float [n, classes], of images that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        multi_label: sigmoid instead of softmax.

    Returns:
        float64 [classes], each between 0.05 and 20.
    """
    scaled = np.asarray(logits, np.float64)
    targets = np.asarray(labels, np.float64) if multi_label else np.eye(scaled.shape[1])[np.asarray(labels)]
    entries = scaled.size if multi_label else len(scaled)

    def loss(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        divided = scaled / np.exp(exponents)
        slope = ((targets - probabilities_of(divided, multi_label)) * divided).sum(axis=0) / entries
        return float(_losses(divided, labels, multi_label).mean()), slope

    start = np.full(scaled.shape[1], np.log(fit_temperature(scaled, labels, multi_label)))
    bounds = [(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))] * len(start)
    return np.exp(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def calibrate(
    logits: np.ndarray, labels: np.ndarray, kind: str = "auto", multi_label: bool = False
) -> Calibration:
    """Fit temperatures on validation.

    Args:
        logits: float [n, classes], of images that were not trained on.
        labels: int [n], or [n, classes] for multi-label.
        kind: `temperature`, `per_class`, `none`; or `auto`: one for each class where five-fold cross-validation
            shows by two standard errors that this is better than one for all, and a class has 20 images.
        multi_label: sigmoid instead of softmax.
    """
    count, classes = np.shape(logits)
    if kind == "auto":
        kind = "per_class" if _helps_by_class(logits, labels, multi_label) else "temperature"
    if kind == "none":
        fitted = np.ones(classes)
    elif kind == "per_class":
        fitted = fit_temperatures(logits, labels, multi_label)
    else:
        fitted = np.full(classes, fit_temperature(logits, labels, multi_label))
    return Calibration(kind, tuple(float(value) for value in fitted), count)


def reliability(
    logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray, multi_label: bool = False
) -> Reliability:
    """What dividing logits [n, classes] by temperatures changes; see `Reliability`."""
    before = np.asarray(logits, np.float64)
    after = before / temperatures
    return Reliability(
        count=len(before),
        error_before=calibration_error(before, labels, multi_label),
        error_after=calibration_error(after, labels, multi_label),
        log_loss_before=log_loss_at(before, labels, 1.0, multi_label),
        log_loss_after=log_loss_at(after, labels, 1.0, multi_label),
    )


def calibration_error(logits: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> float:
    """Expected calibration error: how far accuracy and confidence lie apart, in 15 bins of equal width, 0..1.

    Naeini et al. 2015, as Guo et al. 2017 use it: of the best class. Multi-label: of each image's most probable label and
    of every other that is given, with a probability above one half. Over all labels the many that are surely absent
    would hide the rest.

    Args:
        logits: float [n, classes].
        labels: int [n]; 0 and 1, [n, classes], for multi-label.
        multi_label: sigmoid instead of softmax.
    """
    probabilities = probabilities_of(logits, multi_label)
    if multi_label:
        given = probabilities > 0.5
        given[np.arange(len(given)), probabilities.argmax(axis=1)] = True
        confidence, right = probabilities[given], np.asarray(labels)[given] > 0
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(places, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _losses(logits: np.ndarray, labels: np.ndarray, multi_label: bool) -> np.ndarray:
    """Log-loss of each image; multi-label: of each label."""
    if multi_label:
        signs = np.where(np.asarray(labels) > 0, 1.0, -1.0)
        return np.logaddexp(0.0, -signs * logits)
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def _helps_by_class(logits: np.ndarray, labels: np.ndarray, multi_label: bool) -> bool:
    exact, labels = np.asarray(logits, np.float64), np.asarray(labels)
    count, classes = exact.shape
    positives = labels.sum(axis=0) if multi_label else np.bincount(labels, minlength=classes)
    if positives.min() < IMAGES_PER_CLASS:
        return False
    gains = np.empty(count)
    for fold in range(FOLDS):
        held = np.arange(count) % FOLDS == fold
        fitted = fit_temperatures(exact[~held], labels[~held], multi_label)
        single = fit_temperature(exact[~held], labels[~held], multi_label)
        gain = _losses(exact[held] / single, labels[held], multi_label) - _losses(
            exact[held] / fitted, labels[held], multi_label
        )
        gains[held] = gain.mean(axis=1) if multi_label else gain
    return bool(gains.mean() > STANDARD_ERRORS * gains.std(ddof=1) / np.sqrt(count))
