"""What is measured on validation after every epoch, so that an epoch, a phase or a trial can be chosen by it."""

from __future__ import annotations

import numpy as np

from kerastl.errors import TrainingError
from kerastl.evaluation.calibration import fit_temperature, log_loss_at, losses_at
from kerastl.recipe.schema import MONITORS


def validation_metrics(
    logits: np.ndarray, labels: np.ndarray, multi_label: bool = False, weights: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of `MONITORS`, in time and memory that grow with the logits alone.

    Args:
        logits: float [n, classes].
        labels: int [n], or 0 and 1, [n, classes], for multi-label.
        multi_label: sigmoid and a threshold of one half instead of softmax and the best class; balanced accuracy is left
            out.
        weights: of each image in the log-losses and their temperature, float [n]; all alike without it.

    Returns:
        Log-loss in nats without label smoothing (of a label, for multi-label), the same at the best temperature,
        accuracy (multi-label: of images in which all labels are right), mean F1 and mean recall of the classes that
        there are.

    Raises:
        TrainingError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(f"The answer to {(~np.isfinite(logits)).any(axis=1).sum()} images is not finite.")
    temperature = fit_temperature(logits, labels, multi_label, weights)
    right, support, predicted = _counts(logits, labels, multi_label)
    present = support > 0
    found = {
        "val_loss": log_loss_at(logits, labels, 1.0, multi_label, weights),
        "val_calibrated_loss": log_loss_at(logits, labels, temperature, multi_label, weights),
        "val_accuracy": float(_is_right(logits, labels, multi_label).mean()),
        "val_macro_f1": _mean(2 * right[present] / (support + predicted)[present]),
    }
    if not multi_label:
        found["val_balanced_accuracy"] = _mean(right[present] / support[present])
    return found


def is_better(monitor: str, candidate: dict[str, float], best: dict[str, float] | None) -> bool:
    """Whether `candidate` beats `best` on the monitored metric; ties of counted ones are broken by calibrated log-loss."""
    if best is None:
        return True
    if MONITORS[monitor] and candidate[monitor] != best[monitor]:
        return candidate[monitor] > best[monitor]
    loss = "val_calibrated_loss" if MONITORS[monitor] else monitor
    return candidate[loss] < best[loss]


def image_losses(
    monitor: str,
    logits: np.ndarray,
    labels: np.ndarray,
    multi_label: bool = False,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """What each image adds to the monitored metric, float64 [n]: their mean is the metric, or less it where more is better.

    Means over classes are none over images; to first order they are, with each image's influence on them (Hampel 1974, "The
    influence curve and its role in robust estimation").

    Args:
        monitor: one of `MONITORS`.
        logits: float [n, classes].
        labels: int [n], or 0 and 1, [n, classes], for multi-label.
        multi_label: sigmoid instead of softmax.
        weights: of each image in the log-losses and their temperature, float [n]; all alike without it.
    """
    if not MONITORS[monitor]:
        calibrated = monitor == "val_calibrated_loss"
        temperature = fit_temperature(logits, labels, multi_label, weights) if calibrated else 1.0
        losses = losses_at(logits, labels, temperature, multi_label)
        return losses if weights is None else losses * weights / weights.mean()
    is_right = _is_right(logits, labels, multi_label).astype(np.float64)
    if monitor == "val_accuracy":
        return -is_right
    right, support, predicted = _counts(logits, labels, multi_label)
    present, count = support > 0, len(logits)
    if monitor == "val_balanced_accuracy":
        recall = right / np.maximum(support, 1)
        influence = count / present.sum() / support[labels] * (is_right - recall[labels])
        return -(_mean(recall[present]) + influence)
    # Of an absent class only the wrong predictions would count, and it is in no mean.
    share = np.divide(count, support + predicted, out=np.zeros(len(support)), where=present) / present.sum()
    score = np.divide(2 * right, support + predicted, out=np.zeros(len(support)), where=present)
    lost = share * score
    if multi_label:
        answers = logits > 0
        influence = (answers & (labels > 0)) @ (2 * share) - (answers.astype(int) + labels) @ lost
    else:
        influence = 2 * is_right * share[labels] - lost[labels] - lost[logits.argmax(axis=1)]
    return -(score.sum() / present.sum() + influence)


def _is_right(logits: np.ndarray, labels: np.ndarray, multi_label: bool) -> np.ndarray:
    return ((logits > 0) == (labels > 0)).all(axis=1) if multi_label else logits.argmax(axis=1) == labels


def _counts(
    logits: np.ndarray, labels: np.ndarray, multi_label: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class: right predictions, images that have it, images for which it was predicted; float64 [classes]."""
    counts: list[np.ndarray]
    if multi_label:
        answers = logits > 0
        counts = [(answers & (labels > 0)).sum(axis=0), labels.sum(axis=0), answers.sum(axis=0)]
    else:
        classes, best = logits.shape[1], logits.argmax(axis=1)
        counts = [np.bincount(of, minlength=classes) for of in (labels[best == labels], labels, best)]
    right, support, predicted = (np.asarray(each, np.float64) for each in counts)
    return right, support, predicted


def _mean(values: np.ndarray) -> float:
    """The mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
