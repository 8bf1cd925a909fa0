"""Sketches of examples, few bytes of each, by which nearly equal ones are found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Looks:
    """Sketches of examples, added while these are decoded, which is when all of them is at hand.

    Attributes:
        sketches: position of an example -> its sketch, as `Modality.sketches` makes it.
    """

    sketches: dict[int, bytes] = field(default_factory=dict)

    def add(self, positions: np.ndarray, sketches: np.ndarray) -> None:
        """Remember the sketches uint8 [b, k] of examples at int [b]."""
        pairs = zip(positions.tolist(), sketches, strict=True)
        self.sketches.update((position, sketch.tobytes()) for position, sketch in pairs)

    def unseen(self, positions: np.ndarray) -> np.ndarray:
        """Places in `positions` of those examples that were never added."""
        return np.array(
            [at for at, each in enumerate(positions.tolist()) if each not in self.sketches], np.int64
        )

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Sketches of examples that were added, uint8 [n, k]."""
        joined = b"".join(self.sketches[position] for position in positions.tolist())
        return np.frombuffer(joined, np.uint8).reshape(len(positions), -1)
