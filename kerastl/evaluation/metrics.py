"""Metrics from logits and labels, in float64 and with the number of examples behind each figure.

Computed here, not with Keras' metrics: those average over batches, work in the network's precision and
answer 0 where nothing can be said. What is undefined is `None` here, so that nobody averages it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastl.errors import DataError, TrainingError
from kerastl.evaluation.confusion import NOTHING, Confusion
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION

if TYPE_CHECKING:
    from kerastl.evaluation.entity_metrics import EntityMetrics

# Bounds the float64 copies, whether there are a million examples or 20,000 classes.
_BYTES_AT_ONCE = 2**25
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
    """Metrics of logits against labels.

    Attributes:
        count: number of examples behind all figures.
        task: name of the task; see `kerastl.task.TASKS`.
        accuracy: share of examples whose best class is the label; multi-label: of those in which every label
            is right (subset accuracy).
        accuracy_interval: its 95 % Wilson interval; see `kerastl.evaluation.intervals` where there are groups.
        top5_accuracy: share of examples whose label is among the best five; None for fewer than six classes
            and for multi-label tasks.
        log_loss: mean negative log-likelihood in nats, of an example; multi-label: of one label.
        macro_f1: mean F1 over the classes with support; None where there is none.
        micro_f1: F1 of all labels pooled; multi-label only (single-label it equals accuracy).
        hamming_loss: share of wrong labels; multi-label only.
        mean_average_precision: mean over the labels with support; multi-label only.
        classes: one row a class, in the order of the logits.
        confusion: which classes were taken for which; None for multi-label tasks.
        groups: number of groups that the interval stands on; None where it stands on single examples.
        entities: figures of whole entities; of a task that finds such alone. Accuracy and log-loss are those of words then, classes and
            confusion those of entities.
    """

    count: int
    task: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    log_loss: float
    macro_f1: float | None
    classes: tuple[ClassMetrics, ...]
    top5_accuracy: float | None = None
    micro_f1: float | None = None
    hamming_loss: float | None = None
    mean_average_precision: float | None = None
    confusion: Confusion | None = None
    groups: int | None = None
    entities: EntityMetrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON takes; `from_dict` turns them back."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "classes": [vars(row).copy() for row in self.classes],
            "confusion": None if self.confusion is None else self.confusion.to_plain(),
            "entities": self.entities and self.entities.to_dict(),
        }

    @property
    def confused_names(self) -> tuple[str, ...]:
        """Names in the order of the confusion matrix: of the classes, and behind types of entities that of none."""
        return (*(each.name for each in self.classes), *[NOTHING] * (self.entities is not None))

    def worst_confusions(self) -> list[tuple[str, str, int, int]]:
        """(true class, predicted class, how often, examples of the true class), most frequent first.

        Of entities the last class is none: what was found there has no support but itself.
        """
        if self.confusion is None:
            return []
        of_none = self.confusion.cells[self.confusion.cells[:, 0] == len(self.classes), 2]
        names, supports = self.confused_names, [*(each.support for each in self.classes), int(of_none.sum())]
        pairs = [
            (names[true], names[predicted], count, supports[true])
            for true, predicted, count in self.confusion.largest().tolist()
        ]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[3]))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metrics:
        """The metrics that `to_dict` gave, also after a way through JSON."""
        values = dict(values)
        if "multi_label" in values:  # of a report that was written before tasks had names
            values["task"] = "multi_label" if values.pop("multi_label") else "classification"
        confusion = values["confusion"]
        if entities := values.get("entities"):
            from kerastl.evaluation.entity_metrics import EntityMetrics

            entities = EntityMetrics.from_dict(entities)
        low, high = values["accuracy_interval"]
        changed = {
            "accuracy_interval": (low, high),
            "classes": tuple(ClassMetrics(**row) for row in values["classes"]),
            "confusion": None if confusion is None else Confusion.from_plain(confusion),
            "entities": entities,
        }
        return cls(**{**values, **changed})


def evaluate_logits(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str], task: Task = CLASSIFICATION
) -> Metrics:
    """Measure logits against labels.

    Args:
        logits: float [n, k], any range.
        labels: int [n], 0..k-1; multi-label: 0 and 1, [n, k].
        class_names: k names, in the order of the logits.
        task: what the logits answer.

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
    count, classes = len(logits), len(class_names)
    if logits.shape != (count, classes):
        raise ValueError(f"Expected logits [n, {classes}] for {classes} classes, got {list(logits.shape)}.")
    task.check_labels(labels, count, classes)
    if count == 0:
        raise DataError("There is no example to evaluate: the split is empty.")
    finite = [np.isfinite(logits[rows]).all(axis=1) for rows in blocks(logits)]
    broken = np.flatnonzero(~np.concatenate(finite))
    if len(broken):
        raise TrainingError(
            f"The model's output is not a number for {len(broken)} of {count} examples (the first is number "
            f"{broken[0]}): training diverged, or the precision is too low. Lower the learning rate or use "
            "precision = 'float32'."
        )
    losses = np.empty(count)
    for rows in blocks(logits):
        losses[rows] = task.log_losses(logits[rows].astype(np.float64), labels[rows])
    decided = task.decide(logits)
    counts = task.counts(decided, labels, classes)
    hits = int(task.is_right(decided, labels).sum())
    measure = _exclusive if task.exclusive else _several_labels
    rows_of_classes, further = measure(logits, labels, decided, counts, class_names)
    return Metrics(
        count=count,
        task=task.name,
        accuracy=hits / count,
        accuracy_interval=wilson_interval(hits, count),
        log_loss=float(losses.mean()),
        macro_f1=mean_of([row.f1 for row in rows_of_classes]),
        classes=rows_of_classes,
        **further,
    )


def wilson_interval(
    successes: float, count: float, quantile: float = _NORMAL_QUANTILE_95
) -> tuple[float, float]:
    """95 % score interval of a share.

    Unlike the normal approximation it stays inside 0..1 and is honest near both ends and for few examples
    (E. B. Wilson 1927, J. Am. Stat. Assoc. 22:209; Brown, Cai and DasGupta 2001, Statistical Science 16:101).
    """
    share, square = successes / count, quantile**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # rounding must not push the bound past a share of exactly 0 or 1
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _exclusive(
    logits: np.ndarray, labels: np.ndarray, decided: np.ndarray, counts: np.ndarray, names: Sequence[str]
) -> tuple[tuple[ClassMetrics, ...], dict[str, Any]]:
    count, classes = logits.shape
    within_five = 0
    for rows in blocks(logits) if classes > 5 else ():
        part, part_labels = logits[rows], labels[rows]
        own = part[np.arange(len(part)), part_labels][:, None]
        # among equal logits the lower index comes first, as in argmax and tf.math.top_k
        earlier = np.arange(classes) < part_labels[:, None]
        ahead = (part > own) | ((part == own) & earlier)
        within_five += int((ahead.sum(axis=1) < 5).sum())
    rows_of_classes = tuple(map(class_row, names, *counts.tolist()))
    return rows_of_classes, {
        "top5_accuracy": within_five / count if classes > 5 else None,
        "confusion": Confusion.of(labels, decided, classes),
    }


def _several_labels(
    logits: np.ndarray, labels: np.ndarray, decided: np.ndarray, counts: np.ndarray, names: Sequence[str]
) -> tuple[tuple[ClassMetrics, ...], dict[str, Any]]:
    from sklearn.metrics import average_precision_score

    right, support, claimed = counts
    precisions = [
        # ranked by logits: sigmoid would round large ones to the same probability
        float(average_precision_score(labels[:, code], logits[:, code])) if support[code] else None
        for code in range(len(names))
    ]
    pooled = int(support.sum() + claimed.sum())
    return tuple(map(class_row, names, *counts.tolist(), precisions)), {
        "micro_f1": 2 * int(right.sum()) / pooled if pooled else None,
        "hamming_loss": int((decided != labels).sum()) / logits.size,
        "mean_average_precision": mean_of(precisions),
    }


def class_row(
    name: str, right: int, support: int, predicted: int, average_precision: float | None = None
) -> ClassMetrics:
    """The figures of one class from the numbers of right answers, labels and answers."""
    return ClassMetrics(
        name=name,
        support=support,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted) if support else None,
        average_precision=average_precision,
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def blocks(logits: np.ndarray) -> Iterator[slice]:
    """Rows [n, classes] a few at a time, so many that a float64 copy of them stays small."""
    length = max(1, _BYTES_AT_ONCE // (8 * logits.shape[1]))
    for start in range(0, len(logits), length):
        yield slice(start, start + length)
