"""Ridge regression on a kernel, in closed form: the error of rows that are left out, for each penalty, and the solution.

All in float64: the small eigenvalues of a kernel in float32 are noise, and leave-one-out lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, lapack

# Of the mean squared length of a row.
PENALTIES = np.geomspace(0.01, 30.0, 15)
# Examples on which penalties, and what a head reads, are chosen, at most; the time grows with their third power.
LEFT_OUT = 2_048
# Of the identity, beside which a group's part of the hat matrix may have no inverse.
TINY = 1e-9
# Features of which products are summed at a time.
CHUNK = 1_024
SEED = 0


class LeftOut(NamedTuple):
    """A penalty, the mean squared error of rows that are left out with it, and their scores [n, classes]."""

    error: float
    penalty: float
    scores: np.ndarray


class RidgeProblem:
    """Weighted ridge regression of targets with an intercept, on a kernel.

    Args:
        targets: float [n, classes].
        weights: float [n], or None.
        groups: int [n], equal for rows that are left out together, such as frames of one scene; None where each is left out alone.
    """

    def __init__(
        self, targets: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None = None
    ) -> None:
        given = np.ones(len(targets)) if weights is None else np.asarray(weights, np.float64)
        self.weights = given / given.mean()
        self._root = np.sqrt(self.weights)[:, None]
        self._targets = np.asarray(targets, np.float64)
        self._mean = self.weights @ self._targets / len(targets)
        self._centred = self._root * (self._targets - self._mean)
        self._groups = _left_out_together(self._targets, groups)

    def kernel(self, rows: np.ndarray) -> np.ndarray:
        """Products of rows [n, features], centred and weighted, float64 [n, n]."""
        total = np.zeros((len(rows), len(rows)))
        for _, part in self._parts(rows):
            total += part @ part.T
        return total

    def left_out(self, kernel: np.ndarray, penalties: np.ndarray, near: float | None = None) -> LeftOut:
        """The penalty with which rows, or groups of them, that are left out have the smallest error, reached downhill from a first one.

        A factorisation for each of the four or so that are looked at takes half as long as eigenvectors, which serve all.

        Args:
            kernel: of the rows.
            penalties: to choose from, increasing.
            near: the first of them; that in the middle without it.
        """
        place = len(penalties) // 2 if near is None else int(np.abs(penalties - near).argmin())
        best, ahead = self._left_out_with(kernel, float(penalties[place])), {*range(len(penalties))} - {place}
        for step in (4, -4, 1, -1) if near is None else (1, -1):
            while place + step in ahead:
                ahead.remove(place + step)
                found = self._left_out_with(kernel, float(penalties[place + step]))
                if found.error >= best.error:
                    break
                best, place = found, place + step
        return best

    def _left_out_with(self, kernel: np.ndarray, penalty: float) -> LeftOut:
        total = penalty * _size(kernel)
        shifted = kernel.copy(order="F")
        shifted[np.diag_indices_from(shifted)] += total
        factor = cholesky(shifted, lower=True, overwrite_a=True)
        dual = cho_solve((factor, True), self._centred)
        inverse, _ = lapack.dtrtri(factor, lower=1, overwrite_c=1)
        # What is left of the targets, and the same of each row while it is left out: with the hat matrix H, (I - H) of its group
        # goes over into the inverse of that.
        left = total * dual
        diagonal = np.einsum("ij,ij->j", inverse, inverse)  # of the inverse of `shifted`
        apart = left / np.maximum(total * diagonal - self.weights / len(kernel), TINY)[:, None]
        for rows in self._groups:
            part, root = inverse[:, rows], self._root[rows]
            inside = total * (part.T @ part) - root @ root.T / len(kernel)
            inside[np.diag_indices_from(inside)] += TINY
            apart[rows] = np.linalg.solve(inside, left[rows])
        scores = self._targets - apart / self._root
        error = float(np.mean(self.weights * ((scores - self._targets) ** 2).sum(axis=1)))
        return LeftOut(error, penalty, scores)

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


def _left_out_together(targets: np.ndarray, groups: np.ndarray | None) -> Sequence[np.ndarray]:
    """Positions of each group of several rows. Of a group that holds all there is of a class, each row is left out alone."""
    if groups is None:
        return ()
    order = np.argsort(groups, kind="stable")
    every = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    sums = np.maximum(targets.sum(axis=0), TINY)
    return [
        rows for rows in every if len(rows) > 1 and not (targets[rows].sum(axis=0) >= sums * (1 - TINY)).any()
    ]


def sample(count: int, most: int) -> np.ndarray:
    """Positions of at most so many of `count` examples, in order; the same in every call."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def _size(kernel: np.ndarray) -> float:
    """The mean squared length of a row; 1 where all rows are the same."""
    return float(np.trace(kernel)) / len(kernel) or 1.0
