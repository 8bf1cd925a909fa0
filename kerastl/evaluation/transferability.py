"""Scores of a pretrained network for labelled examples, from its pooled features alone.

Two scores that need one forward pass and no training of the network: the accuracy of a cross-validated
linear probe, and LogME, the evidence of linear models of the labels.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Folds = Sequence[tuple[np.ndarray, np.ndarray]]

MOST_FOLDS = 5
# Inverse penalties that the probe chooses from. Features count in hundreds or thousands, so the best one lies
# well below 1 unless there are many examples.
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SMALLEST_PROBABILITY = 1e-12
MOST_ITERATIONS = 1_000
# The noise that the evidence may come down to, as a share of the labels' squares: where features can say every
# label exactly there is no noise, and its estimate would be divided by.
SMALLEST_NOISE = 1e-12


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy of a linear classifier on frozen features, over examples that it was not fitted on.

    Attributes:
        accuracy: mean over the folds.
        spread: standard deviation over the folds.
        folds: how many there are.
        inverse_penalty: scikit-learn's `C` with the lowest log-loss over all folds.
    """

    accuracy: float
    spread: float
    folds: int
    inverse_penalty: float


def probe_folds(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> Folds:
    """Divide examples into folds with the same share of each class, and no group in two of them.

    Args:
        labels: int [n].
        groups: object [n] of str; examples of one group stay together; '' is a group of its own.
        seed: of the division.

    Returns:
        For each fold the positions to fit on and the positions to measure on. There are five, or as many as the
        rarest class has examples or groups, but at least two.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    grouped, units = groups != "", group_units(groups)
    rarest = min(len(set(units[labels == label])) for label in np.unique(labels))
    count = max(2, min(MOST_FOLDS, rarest))
    places = np.zeros(len(labels))
    with warnings.catch_warnings():
        # A class of one group cannot be in every fold; it counts as missed where it was not learnt.
        warnings.filterwarnings("ignore", message="The least populated class")
        if grouped.any():
            by_group = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
            return list(by_group.split(places, labels, units))
        return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(places, labels))


def group_units(groups: np.ndarray) -> np.ndarray:
    """Parts that folds keep together: the groups, and each example without one by itself; str [n]."""
    return np.where(groups != "", groups, [f"\0{index}" for index in range(len(groups))]).astype(str)


def linear_probe(features: np.ndarray, labels: np.ndarray, folds: Folds) -> ProbeScore:
    """Accuracy of multinomial logistic regression on standardised features, on the folds left out.

    Each fold is judged with the penalty whose log-loss is lowest on the other folds, so that the choice adds
    nothing to the score.

    Args:
        features: float [n, d].
        labels: int [n].
        folds: from `probe_folds`.
    """
    known, codes = np.unique(labels, return_inverse=True)
    rows = probe_rows(features)
    losses = np.empty((len(INVERSE_PENALTIES), len(folds)))
    accuracies = np.empty_like(losses)
    for index, inverse_penalty in enumerate(INVERSE_PENALTIES):
        probabilities = _out_of_fold(rows, codes, folds, inverse_penalty, len(known))
        own = probabilities[np.arange(len(codes)), codes]
        right = probabilities.argmax(axis=1) == codes
        for number, (_, held_out) in enumerate(folds):
            losses[index, number] = -np.log(np.maximum(own[held_out], SMALLEST_PROBABILITY)).mean()
            accuracies[index, number] = right[held_out].mean()
    return judged(losses, accuracies)


def judged(losses: np.ndarray, scores: np.ndarray) -> ProbeScore:
    """The score of each fold at the penalty whose log-loss is lowest on the others: mean and standard deviation.

    Args:
        losses: float [penalties, folds], of `INVERSE_PENALTIES`.
        scores: the same for what is reported.
    """
    others = losses.sum(axis=1, keepdims=True) - losses
    of_folds = scores[others.argmin(axis=0), np.arange(losses.shape[1])]
    best = INVERSE_PENALTIES[int(losses.mean(axis=1).argmin())]
    return ProbeScore(float(of_folds.mean()), float(of_folds.std(ddof=1)), losses.shape[1], best)


def probe_rows(features: np.ndarray) -> np.ndarray:
    """Features [n, d] as a probe is fitted to them, float32 [n, at most n]."""
    return _compact(_standardized(features))


def _standardized(features: np.ndarray) -> np.ndarray:
    """Standardises as the head does: the mean variance is added to each, or features that hardly vary are all noise."""
    rows = np.asarray(features, np.float64)
    variance = rows.var(axis=0)
    scale = np.sqrt(variance + variance.mean())
    return (rows - rows.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def _compact(rows: np.ndarray) -> np.ndarray:
    """The same rows in as many coordinates as there are examples: a penalised fit does not depend on the axes."""
    count, width = rows.shape
    return (np.asarray(np.linalg.qr(rows.T, mode="r")).T if count < width else rows).astype(np.float32)


def _out_of_fold(
    rows: np.ndarray, codes: np.ndarray, folds: Folds, inverse_penalty: float, classes: int
) -> np.ndarray:
    """Probabilities float [n, classes] of each example, from a fit without its fold."""
    from sklearn.model_selection import cross_val_predict

    with probe_of(inverse_penalty) as probe:
        # A class whose only group is left out gets no probability, which is what it deserves.
        warnings.filterwarnings("ignore", message="Number of classes in training fold")
        return np.asarray(cross_val_predict(probe, rows, codes, cv=folds, method="predict_proba"))


@contextlib.contextmanager
def probe_of(inverse_penalty: float) -> Iterator[LogisticRegression]:
    """A logistic regression, to be fitted inside: in one thread, and quietly where it ends early."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Steps this small wait for their threads more than they compute: on two busy cores, 1,200 rows of 256 features
    # took 1.6 s a fit with two threads and 0.1 s with one.
    with threadpool_limits(1), warnings.catch_warnings():
        # A fit that ends early is a fit with a little more penalty, and the penalty is chosen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield LogisticRegression(C=inverse_penalty, max_iter=200)


def log_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME: the largest log evidence of linear models of each class, per example, averaged over the classes.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML,
    arXiv:2102.11005). For features F and the 0/1 column y of a class, the weights have the prior N(0, I/α) and y the
    noise 1/β; α and β are what makes y likeliest once the weights are integrated out. Higher is better; it compares
    networks on the same examples only.

    Args:
        features: float [n, d], not standardised.
        labels: int [n].

    Returns:
        In nats an example.
    """
    return column_evidence(features, (labels[:, None] == np.unique(labels)).astype(np.float64))


def column_evidence(features: np.ndarray, columns: np.ndarray) -> float:
    """The same of any columns of numbers, float [n, columns], averaged over them."""
    rows = np.asarray(features, np.float64)
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    present = singular > singular.max() * max(rows.shape) * np.finfo(np.float64).eps
    left, singular = left[:, present], singular[present]
    projected = left.T @ columns
    # What no weights can explain; a difference of squares, so rounding may take it below zero.
    outside = np.maximum((columns**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
    return float(np.mean(_largest_evidence(singular**2, projected**2, outside, len(rows))))


def _largest_evidence(
    squares: np.ndarray, explained: np.ndarray, outside: np.ndarray, count: int
) -> np.ndarray:
    """The evidence of each column at the fixed point of α and β (equations 4 and 5 of the paper), over `count`.

    Args:
        squares: of the singular values above zero, [r]. The others change nothing: their share of the prior and of
            the determinant cancel.
        explained: squares of the columns' coordinates along them, [r, columns].
        outside: squares of what lies across them, [columns].
        count: examples, n.
    """
    total = explained.sum(axis=0) + outside
    alpha, beta = np.ones(len(total)), np.ones(len(total))
    best = np.full(len(total), -np.inf)
    spectrum = squares[:, None]
    for _ in range(MOST_ITERATIONS):
        precision = alpha + beta * spectrum
        weights = (beta**2 * spectrum * explained / precision**2).sum(axis=0)
        residual = (alpha**2 * explained / precision**2).sum(axis=0) + outside
        evidence = 0.5 * (
            count * np.log(beta / (2 * np.pi))
            - beta * residual
            - alpha * weights
            - np.log1p(beta * spectrum / alpha).sum(axis=0)
        )
        settled = np.abs(evidence - best) <= 1e-10 * np.abs(evidence)
        best = np.maximum(best, evidence)
        if settled.all():
            break
        # n − γ as a sum of what is not determined: the difference would lose its digits where γ is close to n.
        free = (count - len(squares)) + (alpha / precision).sum(axis=0)
        determined = (beta * spectrum / precision).sum(axis=0)
        alpha = np.divide(determined, weights, out=alpha, where=weights > 0)
        beta = free / np.maximum(residual, SMALLEST_NOISE * total)
    return best / count
