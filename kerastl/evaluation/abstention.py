"""When a model had better not answer: a threshold on its confidence, chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerastl.evaluation.metrics import wilson_interval


@dataclass(frozen=True)
class Accepted:
    """The images whose confidence reaches a threshold.

    Attributes:
        count: all images.
        accepted: those that reach it.
        precision: share of these whose best class is the label; None where there is none.
        precision_interval: its 95 % Wilson interval; None likewise.
    """

    count: int
    accepted: int
    precision: float | None
    precision_interval: tuple[float, float] | None

    @property
    def coverage(self) -> float:
        """Share of all images that reach the threshold."""
        return self.accepted / self.count


def choose_threshold(
    probabilities: np.ndarray,
    labels: np.ndarray,
    precision: float | None = None,
    coverage: float | None = None,
) -> float | None:
    """The confidence below which a model should not answer.

    Args:
        probabilities: float [n, classes], of images that were not trained on.
        labels: int [n].
        precision: share of the accepted images that have to be right; as many as possible are accepted.
        coverage: share of all images to accept; the surest ones are taken. Exactly one of both is given.

    Returns:
        Halfway between the confidence of the last accepted image and the next lower one; 0 where all are
        accepted; None where no threshold reaches the precision.
    """
    if (precision is None) == (coverage is None):
        raise ValueError("expected either a precision or a coverage")
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    # Images of one confidence are accepted together: only the last of them can be the last accepted one.
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    accepted = ends + 1
    if precision is not None:
        right = np.cumsum(probabilities.argmax(axis=1)[order] == np.asarray(labels)[order])
        good = np.flatnonzero(right[ends] >= precision * accepted)
        if not len(good):
            return None
        last = int(ends[good[-1]])
    else:
        assert coverage is not None
        last = int(ends[np.flatnonzero(accepted >= coverage * len(falling))[0]])
    if last + 1 == len(falling):
        return 0.0
    return float((falling[last] + falling[last + 1]) / 2)


def accepted_at(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> Accepted:
    """How many images reach a threshold, and how many of them are right.

    Args:
        probabilities: float [n, classes], n at least 1.
        labels: int [n].
        threshold: lowest confidence that is accepted.
    """
    accepted = probabilities.max(axis=1) >= threshold
    number = int(accepted.sum())
    right = int((probabilities.argmax(axis=1) == np.asarray(labels))[accepted].sum())
    return Accepted(
        count=len(probabilities),
        accepted=number,
        precision=right / number if number else None,
        precision_interval=wilson_interval(right, number) if number else None,
    )
