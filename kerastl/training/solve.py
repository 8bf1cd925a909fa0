"""Linear heads in closed form: ridge regression on stored features, with the penalty that leave-one-out chooses.

Least squares on targets of 0 and 1 is as good a classifier here as the logistic regression that gradients find, and better where
many features are read (`benchmarks/README.md`); leaving out each example in turn costs nothing beside the solution itself. Its
scores become logits by one scale and a bias for each class, fitted on the scores that each example gets while it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from kerastl.data.step_labels import answered
from kerastl.features.readers import Features
from kerastl.task import Task
from kerastl.training.ridge import CHUNK, LEFT_OUT, PENALTIES, RidgeProblem, sample

# Rows (of all views) that a head is solved on, and their bytes, at most.
SOLVED_ROWS, SOLVED_BYTES = 4_096, 1 << 29
# Of logits beside scores of 0 and 1, where examples cannot tell.
USUAL_SCALE = 5.0


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

    def problem_of(at: np.ndarray, views: int) -> RidgeProblem:
        targets = np.concatenate([features.views.labels(at, view) for view in range(views)])
        groups = np.tile(features.views.leave_out(at), views)
        return RidgeProblem(targets, None if weights is None else np.tile(weights[at], views), groups)

    rows, problem = standardised(positions, 0), problem_of(positions, 1)
    kernel = problem.kernel(rows)
    best = problem.left_out(kernel, penalties)
    labels = answered(features.views.classes)[positions]
    scale, bias, log_loss = logits_of_scores(best.scores, labels, task, problem.weights)
    most = min(SOLVED_ROWS, SOLVED_BYTES // (4 * len(mean)))
    # Another example says more than another view of one.
    views = min(features.view_count, max(1, most // features.count))
    every = sample(features.count, most // views)
    if views > 1 or len(every) > len(positions):
        del rows, kernel
        rows = np.concatenate([standardised(every, view) for view in range(views)])
        problem = problem_of(every, views)
        kernel = problem.kernel(rows)
    coefficients, offset = problem.solution(kernel, rows, best.penalty * views)
    return Solution(
        (scale * coefficients).astype(np.float32),
        (scale * offset + bias).astype(np.float32),
        best.penalty,
        log_loss,
        len(positions),
    )


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
