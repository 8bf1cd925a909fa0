"""Intervals of an accuracy where examples come in groups, of which each tells less than as many single examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from kerastl.evaluation.metrics import Metrics, wilson_interval
from kerastl.task import task_named


def grouped_interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of a share whose examples come in groups, which are alike within.

    Wilson's score interval for as many independent examples as would vary as much as these groups do, with Student's
    quantile for their number (N. Dean and M. Pagano 2015, "Evaluating confidence interval methods for binomial
    proportions in clustered surveys", J. Surv. Stat. Methodol. 3:484). Few groups tell little of their own variance,
    least where errors are rare: one more group is counted that varies as groups do whose examples are all alike. In draws of
    5 to 40 groups the truth lies in 0.87 (rare errors) to 1.00 (few groups) of the intervals, mostly in 0.94 to 0.98
    (`python benchmarks/coverage.py`).

    Args:
        right: bool [n].
        groups: [n], equal for examples of one group; at least two of them.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes).astype(np.float64)
    number, count = len(sizes), len(right)
    share = float(np.mean(right))
    # As many groups of equal size would vary as much, were all examples of a group alike (L. Kish 1965, Survey Sampling).
    alike = count**2 / float((sizes**2).sum())
    if 0 < share < 1:
        between = np.bincount(codes, np.asarray(right, np.float64)) - share * sizes
        seen = number / (number - 1) * float((between**2).sum()) / count**2
        variance = (number * seen + share * (1 - share) / alike) / (number + 1)
        effective = min(share * (1 - share) / variance, float(count))
    else:
        effective = alike
    return wilson_interval(share * effective, effective, float(stdtrit(number - 1, 0.975)))


def group_numbers(groups: np.ndarray) -> np.ndarray:
    """Groups int [n], counted from 0, from their names, object [n] of str; '' is a group of its own."""
    codes: dict[str | int, int] = {}
    return np.array([codes.setdefault(group or row, len(codes)) for row, group in enumerate(groups)])


def over_groups(metrics: Metrics, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Metrics:
    """The metrics with the interval that their groups leave; as they are where no two examples share one.

    Args:
        metrics: of these logits and labels.
        logits: float [n, k].
        labels: int [n], or 0 and 1, [n, k].
        groups: object [n] of str; '' for an example of its own.
    """
    numbers = group_numbers(groups)
    count = int(numbers.max()) + 1
    if count in (1, len(groups)):
        return metrics
    task = task_named(metrics.task)
    right = task.is_right(task.decide(np.asarray(logits)), labels)
    return replace(metrics, accuracy_interval=grouped_interval(right, numbers), groups=count)
