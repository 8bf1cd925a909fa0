"""Metrics from logits and labels, in float64 and with the number of examples behind each figure.

Computed here, not with Keras' metrics: those average over batches, work in the network's precision and
answer 0 where nothing can be said. What is undefined is `None` here, so that nobody averages it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from kerastl.errors import DataError, TrainingError

_ROWS_AT_ONCE = 8192  # bounds the float64 copies where there are a million examples
_NORMAL_QUANTILE_95 = 1.959963984540054  # two-sided


@dataclass(frozen=True)
class ClassMetrics:
    """One class, or one label of a multi-label task.

    Attributes:
        name: of the class.
        support: number of examples that have it.
        predicted: number of examples for which it was predicted.
        precision: None where it was never predicted.
        recall: None where support is 0.
        f1: 2 TP / (support + predicted); None where support is 0. A class that is there and was never
            predicted has 0: leaving it out would reward a model for ignoring it.
        average_precision: area under the precision-recall curve as a step function; multi-label only, and
            None where support is 0.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None = None


@dataclass(frozen=True)
class Metrics:
    """How well logits agree with labels.

    Attributes:
        count: number of examples behind all figures.
        multi_label: whether an example may have several labels, or none.
        accuracy: share of examples whose best class is the label; multi-label: of those in which every label
            is right (subset accuracy).
        accuracy_interval: its 95 % Wilson interval.
        top5_accuracy: share of examples whose label is among the best five; None for fewer than six classes
            and for multi-label tasks.
        log_loss: mean negative log-likelihood in nats, of an example; multi-label: of one label.
        macro_f1: mean F1 over the classes with support; None where there is none.
        micro_f1: F1 of all labels pooled; multi-label only (single-label it equals accuracy).
        hamming_loss: share of wrong labels; multi-label only.
        mean_average_precision: mean over the labels with support; multi-label only.
        classes: one row a class, in the order of the logits.
        confusion: [true][predicted] counts; None for multi-label tasks.
    """

    count: int
    multi_label: bool
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5_accuracy: float | None
    log_loss: float
    macro_f1: float | None
    micro_f1: float | None
    hamming_loss: float | None
    mean_average_precision: float | None
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON takes; `from_dict` turns them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metrics:
        """The metrics that `to_dict` gave, also after a way through JSON."""
        confusion = values["confusion"]
        low, high = values["accuracy_interval"]
        changed = {
            "accuracy_interval": (low, high),
            "classes": tuple(ClassMetrics(**row) for row in values["classes"]),
            "confusion": None if confusion is None else tuple(tuple(row) for row in confusion),
        }
        return cls(**{**values, **changed})


def probabilities_of(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Softmax, or for multi-label the sigmoid, of logits [n, classes], in float64."""
    exact = np.asarray(logits, np.float64)
    return expit(exact) if multi_label else softmax(exact, axis=1)


def evaluate_logits(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str], multi_label: bool = False
) -> Metrics:
    """Measure logits against labels.

    Args:
        logits: float [n, k], any range.
        labels: int [n], 0..k-1; multi-label: 0 or 1, [n, k].
        class_names: k names, in the order of the logits.
        multi_label: sigmoid and a threshold of one half for each label, instead of softmax and the best class.

    Returns:
        The metrics; classes without an example have support 0 and no recall.

    Raises:
        DataError: if there is no example.
        ValueError: if shapes or label values do not fit each other.
        TrainingError: if a logit is not finite.

    Example:
        >>> evaluate_logits(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), ["cat", "dog"]).accuracy
        0.5
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    classes = len(class_names)
    expected_labels = (len(logits), classes) if multi_label else (len(logits),)
    if logits.shape != (len(logits), classes) or labels.shape != expected_labels:
        raise ValueError(
            f"Expected logits [n, {classes}] and labels [n{f', {classes}' if multi_label else ''}] for "
            f"{classes} classes, got {list(logits.shape)} and {list(labels.shape)}."
        )
    if len(labels) == 0:
        raise DataError("There is no example to evaluate: the split is empty.")
    highest = 1 if multi_label else classes - 1
    if labels.min() < 0 or labels.max() > highest:
        raise ValueError(f"Labels must lie in 0..{highest}, got {labels.min()}..{labels.max()}.")
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        raise TrainingError(
            f"The model's output is not a number for {len(broken)} of {len(logits)} examples (the first is number "
            f"{broken[0]}): training diverged, or the precision is too low. Lower the learning rate or use "
            "precision = 'float32'."
        )
    measure = _multi_label if multi_label else _single_label
    return measure(logits, labels.astype(np.int64), tuple(class_names))


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """95 % score interval of a share.

    Unlike the normal approximation it stays inside 0..1 and is honest near both ends and for few examples
    (E. B. Wilson 1927, J. Am. Stat. Assoc. 22:209; Brown, Cai and DasGupta 2001, Statistical Science 16:101).
    """
    share, square = successes / count, _NORMAL_QUANTILE_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = (
        _NORMAL_QUANTILE_95
        / (1 + square / count)
        * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    )
    # rounding must not push the bound past a share of exactly 0 or 1
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _single_label(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Metrics:
    count, classes = logits.shape
    predicted = np.argmax(logits, axis=1)
    loss, within_five = 0.0, 0
    for part, part_labels in _parts(logits, labels):
        own = part[np.arange(len(part)), part_labels]
        shifted = part - part.max(axis=1, keepdims=True)  # exp must not overflow
        loss += float((np.log(np.exp(shifted).sum(axis=1)) + part.max(axis=1) - own).sum())
        # among equal logits the lower index comes first, as in argmax and tf.math.top_k
        earlier = np.arange(classes) < part_labels[:, None]
        ahead = (part > own[:, None]) | ((part == own[:, None]) & earlier)
        within_five += int((ahead.sum(axis=1) < 5).sum())
    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )
    right = np.diag(confusion)
    support, claimed = confusion.sum(axis=1), confusion.sum(axis=0)
    rows = tuple(
        _class_row(names[i], int(right[i]), int(support[i]), int(claimed[i])) for i in range(classes)
    )
    return Metrics(
        count=count,
        multi_label=False,
        accuracy=int(right.sum()) / count,
        accuracy_interval=wilson_interval(int(right.sum()), count),
        top5_accuracy=within_five / count if classes > 5 else None,
        log_loss=loss / count,
        macro_f1=_mean([row.f1 for row in rows]),
        micro_f1=None,
        hamming_loss=None,
        mean_average_precision=None,
        classes=rows,
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


def _multi_label(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Metrics:
    from sklearn.metrics import average_precision_score

    count, classes = logits.shape
    predicted = (logits > 0).astype(np.int64)  # a probability above one half
    loss = 0.0
    for part, part_labels in _parts(logits, labels):
        # log(1 + exp(x)) - x y, without overflow
        loss += float((np.logaddexp(0.0, part) - part * part_labels).sum())
    right = (predicted * labels).sum(axis=0)
    support, claimed = labels.sum(axis=0), predicted.sum(axis=0)
    rows = tuple(
        _class_row(
            names[i],
            int(right[i]),
            int(support[i]),
            int(claimed[i]),
            # ranked by logits: sigmoid would round large ones to the same probability
            float(average_precision_score(labels[:, i], logits[:, i])) if support[i] else None,
        )
        for i in range(classes)
    )
    exact = int((predicted == labels).all(axis=1).sum())
    pooled = int(support.sum() + claimed.sum())
    return Metrics(
        count=count,
        multi_label=True,
        accuracy=exact / count,
        accuracy_interval=wilson_interval(exact, count),
        top5_accuracy=None,
        log_loss=loss / (count * classes),
        macro_f1=_mean([row.f1 for row in rows]),
        micro_f1=2 * int(right.sum()) / pooled if pooled else None,
        hamming_loss=int((predicted != labels).sum()) / (count * classes),
        mean_average_precision=_mean([row.average_precision for row in rows]),
        classes=rows,
        confusion=None,
    )


def _class_row(
    name: str, right: int, support: int, predicted: int, average_precision: float | None = None
) -> ClassMetrics:
    return ClassMetrics(
        name=name,
        support=support,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted) if support else None,
        average_precision=average_precision,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _parts(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(logits), _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        yield logits[start:stop].astype(np.float64), labels[start:stop]
