"""Linear heads in closed form: ridge regression on stored features, which leave-one-out chooses the features and the penalty of.

Least squares on targets of 0 and 1 is as good a classifier here as the logistic regression that gradients find, and better where
many features are read (`benchmarks/README.md`); leaving out each example in turn costs nothing beside the solution itself. Its
scores become logits by one scale and a bias for each class, fitted on the scores that each example gets while it is left out.

All in float64: the small eigenvalues of a kernel in float32 are noise, and leave-one-out lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from kerastl.data.step_labels import answered
from kerastl.features.readers import Features, pooled_output
from kerastl.model.head_input import STEPS, HeadInput
from kerastl.task import Task

# Training examples on which joins and penalties are chosen, at most; the time grows with their third power.
LEFT_OUT = 2_048
# Rows (of all views) that a head is solved on, and their bytes, at most.
SOLVED_ROWS, SOLVED_BYTES = 4_096, 1 << 28
# Of the mean squared length of a row.
PENALTIES = np.geomspace(0.01, 30.0, 15)
# Joins from the last activation down, and all of them after these, as long as the error falls.
DEPTHS = (1, 2, 4, 7)
# Vectors of features that a pooling gives.
WAYS = {"avg": ("avg",), "max": ("max",), "avgmax": ("avg", "max"), "first": ("first",), STEPS: (STEPS,)}
CHUNK = 1_024
# Of logits beside scores of 0 and 1, where examples cannot tell.
USUAL_SCALE = 5.0
SEED = 0


@dataclass(frozen=True)
class Choice:
    """The input of a head, chosen by leave-one-out.

    Attributes:
        reads: that.
        error: mean squared error of examples that are left out, summed over the classes.
        last_error: the same of the last activation alone.
        examples: on which it was chosen.
    """

    reads: HeadInput
    error: float
    last_error: float
    examples: int


@dataclass(frozen=True)
class Solution:
    """A linear head.

    Attributes:
        kernel: float32 [features, classes].
        bias: float32 [classes].
        penalty: of the squared weights, in parts of the mean squared length of a row.
        log_loss: mean log-loss in nats of training examples that are left out.
        examples: on which the penalty was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    log_loss: float
    examples: int


def choose_reads(
    features: Features, reads: HeadInput, poolings: Sequence[str], weights: np.ndarray | None
) -> Choice:
    """Choose how many joins a head reads beside the last activation, and their pooling.

    Args:
        features: of the training examples, with what is stored of all joins.
        reads: of the recipe; its channels name all joins.
        poolings: to choose from, of `avg`, `max`, `avgmax` and, where it is stored, `first`; the depth is chosen by the first of them. Or
            `steps` alone.
        weights: float [n], of the examples; None where all weigh the same.
    """
    assert features.outputs is not None and reads.channels is not None
    names, width = tuple(reads.channels), sum(reads.channels.values())
    positions = sample(features.count, min(LEFT_OUT, SOLVED_BYTES // (8 * width)))
    output = pooled_output(reads)
    stored = features.outputs([output], positions, 0)[output]
    problem = _Problem(features.views.targets(positions), None if weights is None else weights[positions])

    def kernel(depth: int, ways: Sequence[str]) -> np.ndarray:
        """The sum over the join at that depth, 1 for the last activation."""
        of = [HeadInput(way, (names[-depth],), reads.channels).of(stored) for way in ways]
        return sum(map(problem.kernel, map(_equalised, of)), np.zeros(()))

    def error(total: np.ndarray, count: int) -> float:
        return problem.left_out(total / count, PENALTIES[::2]).error

    first, *others = poolings
    total, best, errors = np.zeros(()), np.zeros(()), dict[int, float]()
    for depth in range(1, len(names) + 1):
        total = total + kernel(depth, WAYS[first])
        if depth in DEPTHS or depth == len(names):
            errors[depth] = error(total, depth * len(WAYS[first]))
            if errors[depth] > min(errors.values()):
                break  # deeper ones are further from what the task needs
            best = total
    depth = min(errors, key=errors.__getitem__)
    found = {first: errors[depth]}
    # Another pooling at that depth alone: the best depth hardly depends on it.
    for pooling in others:
        shared = set(WAYS[first]) <= set(WAYS[pooling])
        more = [way for way in WAYS[pooling] if not shared or way not in WAYS[first]]
        total = sum((kernel(place, more) for place in range(1, depth + 1)), best if shared else np.zeros(()))
        found[pooling] = error(total, depth * len(WAYS[pooling]))
    pooling = min(found, key=found.__getitem__)
    chosen = HeadInput(pooling, names[-depth:], reads.channels)
    return Choice(chosen, found[pooling], errors[1], len(positions))


def solve(
    features: Features,
    mean: np.ndarray,
    variance: np.ndarray,
    task: Task,
    weights: np.ndarray | None,
    penalties: np.ndarray = PENALTIES,
) -> Solution:
    """The linear head with the least squared error on the training examples, and a penalty on its weights.

    Args:
        features: of the training examples, all views.
        mean: float [features], by which the head standardises them.
        variance: float [features].
        task: what the logits answer.
        weights: float [n], of the examples; None where all weigh the same.
        penalties: to choose from, in parts of the mean squared length of a row.
    """
    positions = sample(features.count, LEFT_OUT)
    deviation = np.sqrt(variance)

    def standardised(at: np.ndarray, view: int) -> np.ndarray:
        rows = np.empty((len(at), len(mean)), np.float32)
        for start in range(0, len(at), CHUNK):
            rows[start : start + CHUNK] = features.pooled_batch(at[start : start + CHUNK], view)
        rows -= mean
        rows /= deviation
        return rows

    def problem_of(at: np.ndarray) -> _Problem:
        return _Problem(features.views.targets(at), None if weights is None else weights[at])

    rows, problem = standardised(positions, 0), problem_of(positions)
    kernel = problem.kernel(rows)
    best = problem.left_out(kernel, penalties)
    labels = answered(features.views.classes)[positions]
    scale, bias, log_loss = logits_of_scores(best.scores, labels, task, problem.weights)
    most = min(SOLVED_ROWS, SOLVED_BYTES // (4 * len(mean)))
    views = min(features.view_count, max(1, most // len(positions)))
    every = sample(features.count, most // views)
    if views > 1 or len(every) > len(positions):
        del rows, kernel
        rows = np.concatenate([standardised(every, view) for view in range(views)])
        problem = problem_of(np.tile(every, views))
        kernel = problem.kernel(rows)
    coefficients, offset = problem.solution(kernel, rows, best.penalty * views)
    return Solution(
        (scale * coefficients).astype(np.float32),
        (scale * offset + bias).astype(np.float32),
        best.penalty,
        log_loss,
        len(positions),
    )


def sample(count: int, most: int) -> np.ndarray:
    """Positions of at most so many of `count` examples, in order; the same in every call."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def logits_of_scores(
    scores: np.ndarray, labels: np.ndarray, task: Task, weights: np.ndarray
) -> tuple[float, np.ndarray, float]:
    """The scale, and the bias of each class, by which scores become logits of the least log-loss.

    Both have to earn their place: the squared bias, and the squared log of the scale beside its usual value, count as much as a
    share of one example does. Without that, examples that are all told apart make a head as sure as it can be.

    Args:
        scores: float64 [n, classes], of examples that were left out.
        labels: of these examples.
        task: what is answered.
        weights: float64 [n], their mean is 1.

    Returns:
        Scale, bias [classes], and the mean log-loss with them.
    """
    count, classes = scores.shape
    usual = np.log(USUAL_SCALE)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias, apart = np.exp(parameters[0]), parameters[1:], parameters[0] - usual
        logits = scale * scores + bias
        prior = (apart**2 + bias @ bias) / (2 * count)
        value = np.mean(weights * task.log_losses(logits.copy(), labels)) + prior
        slopes = task.log_loss_gradients(logits, labels) * weights[:, None] / count
        along = scale * np.sum(slopes * scores) + apart / count
        return value, np.concatenate([[along], slopes.sum(axis=0) + bias / count])

    start = np.concatenate([[usual], np.zeros(classes)])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(-5.0, 7.0), *[(None, None)] * classes]
    )
    logits = np.exp(found.x[0]) * scores + found.x[1:]
    log_loss = float(np.mean(weights * task.log_losses(logits, labels)))
    return float(np.exp(found.x[0])), found.x[1:], log_loss


class _LeftOut(NamedTuple):
    """A penalty, the mean squared error of rows that are left out with it, and their scores [n, classes]."""

    error: float
    penalty: float
    scores: np.ndarray


class _Problem:
    """Weighted ridge regression of targets with an intercept, on a kernel.

    Args:
        targets: float [n, classes].
        weights: float [n], or None.
    """

    def __init__(self, targets: np.ndarray, weights: np.ndarray | None) -> None:
        given = np.ones(len(targets)) if weights is None else np.asarray(weights, np.float64)
        self.weights = given / given.mean()
        self._root = np.sqrt(self.weights)[:, None]
        self._targets = np.asarray(targets, np.float64)
        self._mean = self.weights @ self._targets / len(targets)
        self._centred = self._root * (self._targets - self._mean)

    def kernel(self, rows: np.ndarray) -> np.ndarray:
        """Products of rows [n, features], centred and weighted, float64 [n, n]."""
        total = np.zeros((len(rows), len(rows)))
        for _, part in self._parts(rows):
            total += part @ part.T
        return total

    def left_out(self, kernel: np.ndarray, penalties: np.ndarray) -> _LeftOut:
        """The penalty with which rows that are left out have the smallest error; scores of one penalty at a time are held."""
        values, vectors = np.linalg.eigh(kernel)
        values = np.maximum(values, 0.0)
        along, squares = vectors.T @ self._centred, vectors**2
        best: _LeftOut | None = None
        for penalty, share in zip(penalties * _size(kernel), penalties, strict=True):
            kept = values / (values + penalty)
            fitted = vectors @ (kept[:, None] * along) / self._root + self._mean
            leverage = np.minimum(squares @ kept + self.weights / len(kernel), 1 - 1e-9)[:, None]
            scores = (fitted - leverage * self._targets) / (1 - leverage)
            error = float(np.mean(self.weights * ((scores - self._targets) ** 2).sum(axis=1)))
            if best is None or error < best.error:
                best = _LeftOut(error, float(share), scores)
        assert best is not None, "no penalty to choose from"
        return best

    def solution(self, kernel: np.ndarray, rows: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [features, classes] of rows, and the intercept [classes]."""
        kernel[np.diag_indices_from(kernel)] += penalty * _size(kernel)
        dual = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), self._centred)
        coefficients, intercept = [], self._mean
        for mean, part in self._parts(rows):
            coefficients.append(part.T @ dual)
            intercept = intercept - mean @ coefficients[-1]
        return np.concatenate(coefficients), intercept

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Means of some features at a time, and the rows centred by them and weighted, float64."""
        for start in range(0, rows.shape[1], CHUNK):
            part = rows[:, start : start + CHUNK].astype(np.float64)
            mean = self.weights @ part / len(rows)
            yield mean, self._root * (part - mean)


def _size(kernel: np.ndarray) -> float:
    """The mean squared length of a row; 1 where all rows are the same."""
    return float(np.trace(kernel)) / len(kernel) or 1.0


def _equalised(rows: np.ndarray) -> np.ndarray:
    """Features of one join as a head standardises them, with a mean squared length of 1."""
    rows = rows.astype(np.float64)
    variance = rows.var(axis=0)
    scaled = rows - rows.mean(axis=0)
    scaled /= np.sqrt(np.maximum(variance + variance.mean(), np.finfo(np.float64).tiny))
    length = np.sqrt(np.maximum((scaled**2).sum(axis=1).mean(), np.finfo(np.float64).tiny))
    return scaled / length
