"""Answers of a model to single labelled examples: to find the examples behind the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerastl.evaluation.metrics import blocks
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION


@dataclass(frozen=True)
class LabelledAnswer:
    """Answer of a model to one example; its figures are rounded to six decimals.

    Attributes:
        split: that the example belongs to.
        id: of the example, as splits.csv has it.
        true: its class; of several labels all, separated by `|`.
        predicted: the most probable class; of several labels those above one half.
        probability: of that answer, 0..1; of several labels that all of them are as answered, as if one said nothing of another.
        loss: log-loss in nats; of several labels their mean.
    """

    split: str
    id: str
    true: str
    predicted: str
    probability: float
    loss: float


def answers_of(
    split: str,
    ids: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    task: Task = CLASSIFICATION,
) -> list[LabelledAnswer]:
    """Returns the answers to examples, those with the largest loss first.

    Args:
        split: name of the split.
        ids: of the examples, [n].
        logits: float [n, classes].
        labels: int [n]; 0 and 1, [n, classes], for multi-label.
        class_names: in the order of the logits.
        task: what the logits answer.
    """
    answers: list[LabelledAnswer] = []
    for rows in blocks(logits):
        part, truth = np.asarray(logits[rows], np.float64), np.asarray(labels[rows])
        decided = task.decide(part)
        probabilities, losses = task.answer_probabilities(part, decided), task.log_losses(part, truth)
        names = zip(task.names(truth, class_names), task.names(decided, class_names), strict=True)
        figures = zip(ids[rows], names, probabilities.tolist(), losses.tolist(), strict=True)
        answers += [
            LabelledAnswer(split, str(identity), *pair, round(p, 6), round(loss, 6))
            for identity, pair, p, loss in figures
        ]
    return sorted(answers, key=lambda answer: -answer.loss)
