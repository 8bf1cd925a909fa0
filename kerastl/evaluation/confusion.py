"""Which classes are taken for which, without a matrix that grows with the square of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# The name of what is no entity, in the confusion of types.
NOTHING = "none"
# Up to so many classes JSON holds the whole confusion matrix; of more, so many of its cells off the diagonal.
WHOLE_UP_TO = 200
MOST_PAIRS = 1000
# More classes have no room for their cells in a picture.
DRAWN_UP_TO = 1000


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix as its cells that are not 0: how often one class was taken for another.

    There are as many as examples at most, where the matrix itself grows with the square of the classes.

    Attributes:
        size: number of classes.
        cells: int64 [m, 3], each true class, predicted class and count above 0; row by row of the matrix.
        pairs: how many cells lie off the diagonal. Of more than 200 classes JSON keeps the 1,000 largest of these.
    """

    size: int
    cells: np.ndarray
    pairs: int

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, size: int) -> Confusion:
        """Count labels int [n] against predictions int [n]."""
        places, counts = np.unique(labels.astype(np.int64) * size + predicted, return_counts=True)
        cells = np.stack([*np.divmod(places, size), counts], axis=1)
        return cls(size, cells, int((cells[:, 0] != cells[:, 1]).sum()))

    def dense(self) -> np.ndarray:
        """The matrix, int64 [size, size], [true][predicted]."""
        matrix = np.zeros((self.size, self.size), np.int64)
        matrix[self.cells[:, 0], self.cells[:, 1]] = self.cells[:, 2]
        return matrix

    def largest(self, most: int | None = None) -> np.ndarray:
        """The largest cells off the diagonal, int64 [<= most, 3], largest first; all of them without a number."""
        wrong = self.cells[self.cells[:, 0] != self.cells[:, 1]]
        return wrong[np.argsort(-wrong[:, 2], kind="stable")][:most]

    def to_plain(self) -> list[list[int]] | dict[str, Any]:
        """Plain values for JSON: the matrix, or the largest cells; `from_plain` reads either."""
        if self.size <= WHOLE_UP_TO:
            return self.dense().tolist()
        return {"size": self.size, "pairs": self.pairs, "largest": self.largest(MOST_PAIRS).tolist()}

    @classmethod
    def from_plain(cls, values: Sequence[Sequence[int]] | Mapping[str, Any]) -> Confusion:
        """The confusion that `to_plain` gave; of its largest cells alone where that is all there was."""
        if isinstance(values, Mapping):
            cells = np.array(values["largest"], np.int64).reshape(-1, 3)
            order = np.lexsort((cells[:, 1], cells[:, 0]))
            return cls(values["size"], cells[order], values["pairs"])
        matrix = np.array(values, np.int64)
        true, predicted = np.nonzero(matrix)
        cells = np.stack([true, predicted, matrix[true, predicted]], axis=1)
        return cls(len(matrix), cells, int((true != predicted).sum()))
