"""Sketches of examples, few bytes of each, by which nearly equal ones are found."""

from __future__ import annotations

import numpy as np


class Looks:
    """Sketches of some of `count` examples, as `Modality.sketches` makes them, added when the examples are decoded."""

    def __init__(self, count: int) -> None:
        self._seen = np.zeros(count, bool)
        self._sketches: np.ndarray | None = None

    def add(self, positions: np.ndarray, sketches: np.ndarray) -> None:
        """Remember the sketches uint8 [b, k] of examples at int [b]."""
        if self._sketches is None:
            self._sketches = np.zeros((len(self._seen), sketches.shape[1]), np.uint8)
        self._sketches[positions], self._seen[positions] = sketches, True

    def unseen(self, positions: np.ndarray) -> np.ndarray:
        """Places in `positions` of those examples that were never added."""
        return np.flatnonzero(~self._seen[positions])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Sketches of examples that were added, uint8 [n, k]."""
        assert self._sketches is not None and self._seen[positions].all(), "they were never added"
        return self._sketches[positions]
