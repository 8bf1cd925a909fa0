"""Validation metrics of each epoch, by which an epoch, a phase or a trial is chosen."""

from __future__ import annotations

import numpy as np

from kerastl.errors import TrainingError
from kerastl.evaluation.calibration import fit_temperature, log_loss_at, losses_at
from kerastl.task import MONITORS, Task
from kerastl.task.classification import CLASSIFICATION
from kerastl.task.tags import code_spans


def validation_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    task: Task = CLASSIFICATION,
    weights: np.ndarray | None = None,
    words: np.ndarray | None = None,
) -> dict[str, float]:
    """The task's metrics of `MONITORS`, in time and memory that grow with the logits alone.

    Args:
        logits: float [n, classes].
        labels: int [n], or 0 and 1, [n, classes], for multi-label.
        task: what the logits answer.
        weights: of each example in the log-losses and their temperature, float [n]; all alike without it.
        words: int [documents], how many of the examples belong to each, where they are words with tags.

    Returns:
        Log-loss in nats without label smoothing (of a label, for multi-label), the same at the best temperature,
        accuracy (multi-label: of examples in which all labels are right), mean F1 and, for exclusive classes, mean recall of
        the classes that there are; of words the strict F1 of entities.

    Raises:
        TrainingError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"{(~np.isfinite(logits)).any(axis=1).sum()} of {len(logits)} answers are not finite."
        )
    temperature = fit_temperature(logits, labels, task, weights)
    decided = task.decide(logits)
    right, support, predicted = task.counts(decided, labels, logits.shape[1])
    present = support > 0
    found = {
        "val_loss": log_loss_at(logits, labels, 1.0, task, weights),
        "val_calibrated_loss": log_loss_at(logits, labels, temperature, task, weights),
        "val_accuracy": float(task.is_right(decided, labels).mean()),
        "val_macro_f1": _mean(2 * right[present] / (support + predicted)[present]),
        "val_balanced_accuracy": _mean(right[present] / support[present]),
    }
    if words is not None:
        found["val_entity_f1"] = -float(_entity_parts(decided, labels, words).mean())
    return {name: found[name] for name in found if name in task.monitors}


def is_better(monitor: str, candidate: dict[str, float], best: dict[str, float] | None) -> bool:
    """True if `candidate` beats `best` on the monitored metric; ties of counted ones are broken by calibrated log-loss."""
    if best is None:
        return True
    if MONITORS[monitor] and candidate[monitor] != best[monitor]:
        return candidate[monitor] > best[monitor]
    loss = "val_calibrated_loss" if MONITORS[monitor] else monitor
    return candidate[loss] < best[loss]


def example_losses(
    monitor: str,
    logits: np.ndarray,
    labels: np.ndarray,
    task: Task = CLASSIFICATION,
    weights: np.ndarray | None = None,
    words: np.ndarray | None = None,
) -> np.ndarray:
    """Part of each example in the monitored metric, float64 [n]: their mean is the metric, or less it where more is better.

    Means over classes are none over examples; to first order they are, with each example's influence on them (Hampel 1974, "The
    influence curve and its role in robust estimation").

    Args:
        monitor: one of the task's monitors.
        logits: float [n, classes].
        labels: int [n], or 0 and 1, [n, classes], for multi-label.
        task: what the logits answer.
        weights: of each example in the log-losses and their temperature, float [n]; all alike without it.
        words: int [documents], how many of the examples belong to each, where they are words with tags.
    """
    if not MONITORS[monitor]:
        calibrated = monitor == "val_calibrated_loss"
        temperature = fit_temperature(logits, labels, task, weights) if calibrated else 1.0
        losses = losses_at(logits, labels, temperature, task)
        return losses if weights is None else losses * weights / weights.mean()
    decided = task.decide(logits)
    if monitor == "val_entity_f1":
        return _entity_parts(decided, labels, words)
    is_right = task.is_right(decided, labels).astype(np.float64)
    if monitor == "val_accuracy":
        return -is_right
    right, support, predicted = task.counts(decided, labels, logits.shape[1]).astype(np.float64)
    present, count = support > 0, len(logits)
    if monitor == "val_balanced_accuracy":
        recall = right / np.maximum(support, 1)
        influence = count / present.sum() / support[labels] * (is_right - recall[labels])
        return -(_mean(recall[present]) + influence)
    # Of an absent class only the wrong predictions would count, and it is in no mean.
    share = np.divide(count, support + predicted, out=np.zeros(len(support)), where=present) / present.sum()
    score = np.divide(2 * right, support + predicted, out=np.zeros(len(support)), where=present)
    lost = task.class_sums(share * score, labels) + task.class_sums(share * score, decided)
    return -(score.sum() / present.sum() + task.right_sums(2 * share, decided, labels) - lost)


def _entity_parts(decided: np.ndarray, labels: np.ndarray, words: np.ndarray | None) -> np.ndarray:
    """Part of each word in the strict F1 of entities, 2 right / (answered + true), to first order: float64 [n], their mean is less
    the F1. An entity counts where it begins; without any F1 is 0.
    """
    answered, true = code_spans(decided, words), code_spans(labels, words)
    number = len(answered) + len(true)
    gained, found = np.zeros((2, len(labels)))
    np.add.at(found, answered[:, 0], 1)
    np.add.at(found, true[:, 0], 1)
    right = {tuple(span) for span in answered.tolist()} & {tuple(span) for span in true.tolist()}
    gained[[start for start, _, _ in right]] = 2
    score = 2 * len(right) / number if number else 0.0
    return -(score + len(labels) / max(number, 1) * (gained - score * found))


def _mean(values: np.ndarray) -> float:
    """The mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
