"""Scores of frozen features for examples with several labels each, which `kerastl rank` measures."""

from __future__ import annotations

import numpy as np

from kerastl.evaluation.transferability import (
    INVERSE_PENALTIES,
    MOST_FOLDS,
    SMALLEST_PROBABILITY,
    Folds,
    ProbeScore,
    column_evidence,
    group_units,
    judged,
    probe_of,
    probe_rows,
)


def label_folds(count: int, groups: np.ndarray, seed: int = 0) -> Folds:
    """Divide examples into five folds, or fewer where there are fewer examples or groups; no group is in two of them.

    Args:
        count: of examples.
        groups: object [n] of str; examples of one group stay together; '' is a group of its own.
        seed: of the division.
    """
    from sklearn.model_selection import GroupKFold

    units = group_units(groups)
    folds = max(2, min(MOST_FOLDS, len(set(units))))
    parts = GroupKFold(folds, shuffle=True, random_state=seed).split(np.zeros(count), groups=units)
    return [(np.asarray(train), np.asarray(held_out)) for train, held_out in parts]


def label_probe(features: np.ndarray, labels: np.ndarray, folds: Folds) -> ProbeScore:
    """Mean average precision of one logistic regression a label, on the folds left out.

    Labels are fitted apart (binary relevance, Tsoumakas and Katakis 2007, "Multi-label classification: an overview").
    A label's average precision is the area under its precision over recall; the score of a fold is the mean over
    the labels that its examples have (Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) challenge"), so that rare
    labels count as much as frequent ones. Each fold is judged with the penalty whose log-loss is lowest on the
    other folds, one penalty for all labels.

    Args:
        features: float [n, d].
        labels: 0 and 1, [n, labels].
        folds: from `label_folds`.

    Returns:
        The score, with the mean average precision in the place of accuracy.
    """
    rows = probe_rows(features)
    losses = np.empty((len(INVERSE_PENALTIES), len(folds)))
    precisions = np.empty_like(losses)
    for index, inverse_penalty in enumerate(INVERSE_PENALTIES):
        for number, (train, held_out) in enumerate(folds):
            found = _probabilities(rows[train], labels[train], rows[held_out], inverse_penalty)
            known = labels[held_out]
            own = np.where(known == 1, found, 1 - found)
            losses[index, number] = -np.log(np.maximum(own, SMALLEST_PROBABILITY)).mean()
            precisions[index, number] = mean_average_precision(known, found)
    return judged(losses, precisions)


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the labels that occur, of the average precision of their examples in the order of their scores.

    Args:
        labels: 0 and 1, [n, labels].
        scores: float [n, labels], higher for what is more likely.

    Returns:
        0..1; a constant score reaches the mean share of examples that have a label; 0 where no label occurs.
    """
    from sklearn.metrics import average_precision_score

    present = np.flatnonzero(labels.any(axis=0))
    found = [average_precision_score(labels[:, label], scores[:, label]) for label in present]
    return float(np.mean(found)) if found else 0.0


def label_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME of several labels an example: the evidence of each label's 0/1 column, averaged over those that vary.

    The evidence is that of a linear model of one column of numbers, whatever they are: You et al. 2021 take the
    columns of a one-hot matrix for classes and the targets themselves for regression (arXiv:2102.11005).
    With several labels an example the columns are no longer exclusive, which no step of it asks for.

    Args:
        features: float [n, d], not standardised.
        labels: 0 and 1, [n, labels].

    Returns:
        In nats an example.
    """
    columns = labels.astype(np.float64)
    return column_evidence(features, columns[:, columns.min(axis=0) != columns.max(axis=0)])


def _probabilities(
    rows: np.ndarray, labels: np.ndarray, asked: np.ndarray, inverse_penalty: float
) -> np.ndarray:
    """Probability of each label, float [asked, labels], from a fit to other rows."""
    found = np.empty((len(asked), labels.shape[1]))
    with probe_of(inverse_penalty) as probe:
        for label, column in enumerate(labels.T):
            if column.min() == column.max():  # nothing to tell apart here
                found[:, label] = column[0]
                continue
            found[:, label] = probe.fit(rows, column).predict_proba(asked)[:, 1]
    return found
