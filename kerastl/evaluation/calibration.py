"""How far probabilities can be trusted: one temperature for all logits, fitted on validation."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


def log_loss_at(
    logits: np.ndarray, labels: np.ndarray, temperature: float, multi_label: bool = False
) -> float:
    """Mean log-loss in nats of the logits divided by a temperature.

    Args:
        logits: float [n, classes].
        labels: int [n]; or 0 and 1, [n, classes], for multi-label, where the mean is over labels as well.
        temperature: above 0; 1 leaves the logits as they are.
        multi_label: sigmoid instead of softmax.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if multi_label:
        signs = np.where(np.asarray(labels) > 0, 1.0, -1.0)
        return float(np.logaddexp(0.0, -signs * scaled).mean())
    return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())


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
