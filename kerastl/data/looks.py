"""Sketches of examples, few bytes of each, by which nearly equal ones are found."""

from __future__ import annotations

import numpy as np


class Looks:
    """Sketches of examples, as `Modality.sketches` makes them, added while these are decoded, which is when all of them is at hand."""

    def __init__(self) -> None:
        self._sketches, self._seen = np.zeros((0, 1), np.uint8), np.zeros(0, bool)

    def add(self, positions: np.ndarray, sketches: np.ndarray) -> None:
        """Remember the sketches uint8 [b, k] of examples at int [b]."""
        if (count := int(positions.max(initial=-1)) + 1) > len(self._seen):
            # One column for all examples would be made before one knows how far they go; this is copied a few times.
            length = max(count, 2 * len(self._seen))
            before = self._sketches.reshape(len(self._seen), sketches.shape[1])
            self._sketches = np.pad(before, ((0, length - len(before)), (0, 0)))
            self._seen = np.pad(self._seen, (0, length - len(before)))
        self._sketches[positions], self._seen[positions] = sketches, True

    def unseen(self, positions: np.ndarray) -> np.ndarray:
        """Places in `positions` of those examples that were never added."""
        seen = np.zeros(len(positions), bool)
        inside = positions < len(self._seen)
        seen[inside] = self._seen[positions[inside]]
        return np.flatnonzero(~seen)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Sketches of examples that were added, uint8 [n, k]."""
        return self._sketches[positions]
