"""Threshold on a model's confidence, below which it does not answer; chosen on validation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from kerastl.evaluation.intervals import grouped_interval
from kerastl.evaluation.metrics import wilson_interval

# How sure a promised precision has to be: the observed share alone is more than the truth about half of the time.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Accepted:
    """The examples whose confidence reaches a threshold.

    Attributes:
        count: all examples.
        accepted: those that reach it.
        precision: share of these whose best class is the label; None where there is none.
        precision_interval: its 95 % interval, over groups where there are any; None likewise.
    """

    count: int
    accepted: int
    precision: float | None
    precision_interval: tuple[float, float] | None

    @property
    def coverage(self) -> float:
        """Share of all examples that reach the threshold."""
        return self.accepted / self.count


def choose_threshold(
    probabilities: np.ndarray,
    labels: np.ndarray,
    precision: float | None = None,
    coverage: float | None = None,
    groups: np.ndarray | None = None,
) -> float | None:
    """The confidence below which a model should not answer.

    Args:
        probabilities: float [n, classes], of examples that were not trained on.
        labels: int [n].
        precision: share of the accepted examples that have to be right, below 1. As many are accepted as the lower bound
            of `lowest_precision` allows.
        coverage: share of all examples to accept; the surest ones are taken. Exactly one of both is given.
        groups: int [n], equal for examples of one group, which are taken for alike; each by itself without it.

    Returns:
        Halfway between the confidence of the last accepted example and the next lower one, as a number of 32 bits, in which
        served models compare; 0 where all are accepted; None where no threshold is known to reach the precision.
    """
    if (precision is None) == (coverage is None):
        raise ValueError("expected either a precision or a coverage")
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    # Examples of one confidence are accepted together: only the last of them can be the last accepted one.
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
    accepted = ends + 1
    if precision is not None:
        right = np.cumsum(probabilities.argmax(axis=1)[order] == np.asarray(labels)[order])
        share = independent_share(groups)
        good = np.flatnonzero(lowest_precision(right[ends] * share, accepted * share) >= precision)
        if not len(good):
            return None
        last = int(ends[good[-1]])
    else:
        assert coverage is not None
        last = int(ends[np.flatnonzero(accepted >= coverage * len(falling))[0]])
    if last + 1 == len(falling):
        return 0.0
    return float(np.float32((falling[last] + falling[last + 1]) / 2))


def lowest_precision(right: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """The precision that is reached with 95 % confidence: the one-sided bound of Clopper and Pearson (1934, Biometrika 26:404).

    Args:
        right: [m], how many accepted examples have the label as their best class.
        accepted: [m], above 0. Both count independent examples, so they need not be whole.

    Returns:
        float64 [m], 0..1.
    """
    some = np.where(
        right > 0, right, accepted
    )  # the bound of none right is 0; the function is not defined there
    return np.where(right > 0, betaincinv(some, accepted - some + 1, 1 - CONFIDENCE), 0.0)


def independent_share(groups: np.ndarray | None) -> float:
    """Share of independent examples that grouped ones are worth, were all of a group alike (Kish 1965, Survey Sampling); 1 without groups."""
    if groups is None:
        return 1.0
    sizes = np.bincount(groups).astype(np.float64)
    return len(groups) / float((sizes**2).sum())


def fewest_for(precision: float) -> int:
    """Smallest number of accepted examples, all of them right, by which a precision is known to be reached.

    Args:
        precision: above 0 and below 1.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(precision))


def accepted_at(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float, groups: np.ndarray | None = None
) -> Accepted:
    """Counts of the examples that reach a threshold, and of those that are right.

    Args:
        probabilities: float [n, classes], n at least 1.
        labels: int [n].
        threshold: lowest confidence that is accepted.
        groups: int [n], equal for examples of one group; each by itself without it.
    """
    accepted = probabilities.max(axis=1) >= threshold
    number = int(accepted.sum())
    hits = (probabilities.argmax(axis=1) == np.asarray(labels))[accepted]
    right = int(hits.sum())
    interval = wilson_interval(right, number) if number else None
    if groups is not None and 1 < len(np.unique(groups[accepted])) < number:
        interval = grouped_interval(hits, groups[accepted])
    return Accepted(
        count=len(probabilities),
        accepted=number,
        precision=right / number if number else None,
        precision_interval=interval,
    )
