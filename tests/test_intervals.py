"""Intervals over groups: the truth lies in them as often as they say, and single images keep Wilson's."""

from __future__ import annotations

import numpy as np
import pytest

from kerastl.data.examples import text_column
from kerastl.evaluation.intervals import grouped_interval, over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits, wilson_interval
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL


def coverage(groups: int, alike: bool, truth: float, draws: int = 400) -> tuple[float, float]:
    """How often Wilson's interval, and the one over groups of 25, hold the truth."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), 25)
    held = np.zeros(2)
    for _ in range(draws):
        chance = generator.random(groups)[group] if alike else generator.random(len(group))
        right = chance < truth
        for row, (low, high) in enumerate(
            (wilson_interval(int(right.sum()), len(right)), grouped_interval(right, group))
        ):
            held[row] += low - 1e-9 <= truth <= high + 1e-9
    return float(held[0] / draws), float(held[1] / draws)


@pytest.mark.parametrize("groups, truth", [(5, 0.7), (5, 0.9), (10, 0.8), (40, 0.6), (40, 0.9)])
def test_the_truth_lies_in_the_interval_of_groups_that_are_alike(groups: int, truth: float) -> None:
    single, grouped = coverage(groups, True, truth)
    assert grouped >= 0.92
    assert single < 0.6, "the control: images counted one by one claim too much"


def test_groups_that_tell_nothing_widen_the_interval_little() -> None:
    assert coverage(40, False, 0.9)[1] >= 0.93
    right, group = np.random.default_rng(0).permutation(1000) >= 100, np.arange(1000) % 40
    low, high = grouped_interval(right, group)
    assert high - low < 1.5 * np.subtract(*wilson_interval(900, 1000)[::-1])


def test_none_or_all_right_counts_the_groups() -> None:
    group = np.repeat(np.arange(12), 25)
    low, high = grouped_interval(np.ones(300, bool), group)
    assert (
        high == 1.0 and low < wilson_interval(12, 12)[0] + 1e-9 and low < wilson_interval(300, 300)[0] - 0.2
    )
    assert grouped_interval(np.zeros(300, bool), group)[0] == 0.0


@pytest.mark.parametrize("task", [CLASSIFICATION, MULTI_LABEL])
def test_metrics_say_how_many_groups_stand_behind_the_interval(task: Task) -> None:
    logits = np.random.default_rng(1).normal(size=(60, 3))
    labels = np.arange(60) % 3 if task.exclusive else (logits > 0.1).astype(int)
    metrics = evaluate_logits(logits, labels, ["a", "b", "c"], task)
    grouped = over_groups(
        metrics, logits, labels, text_column([f"g{row // 10}" if row < 50 else "" for row in range(60)])
    )
    assert grouped.groups == 15 and grouped.accuracy == metrics.accuracy
    assert grouped.accuracy_interval != metrics.accuracy_interval
    assert Metrics.from_dict(grouped.to_dict()).to_dict() == grouped.to_dict()
    for alone in ([""] * 60, [f"{row}" for row in range(60)], ["one"] * 60):
        assert over_groups(metrics, logits, labels, text_column(alone)).to_dict() == metrics.to_dict()
