"""How features are read, wherever they are: positions and views in, rows out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kerastl.features.frozen import BATCH_SIZE
from kerastl.features.views import Views
from kerastl.modality import Batch
from kerastl.store.array import Rows

Reader = Callable[[np.ndarray, int | np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Features:
    """A split's features, ready to be trained on.

    Attributes:
        views: the examples that the features are made from, with their labels.
        view_count: how many views there are.
        pooled_batch: positions int [b] and one view, or each its own (int [b]) -> float32 [b, features].
        activations: the same -> [b, ...] at the unfreeze point; None where nothing is thawed.
    """

    views: Views
    view_count: int
    pooled_batch: Reader
    activations: Reader | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.views.count

    def activation_batch(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Activations at the unfreeze point, [b, ...], all in one view or each in its own (int [b])."""
        assert self.activations is not None, "nothing is thawed"
        return self.activations(positions, view)


def reader_of(rows: Rows, start: int, count: int) -> Reader:
    """Reads rows that are kept view by view, each of `count` examples, from `start` on."""
    return lambda positions, view: rows[start + np.asarray(view) * count + positions]


def live_reader(views: Views, compute: Callable[[Batch], np.ndarray]) -> Reader:
    """Computes what is read, a few examples at a time: what they are augmented in takes several times their bytes."""

    def read(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(positions), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            parts.append(
                compute(views.batch(positions[part], np.asarray(view)[part] if np.ndim(view) else view))
            )
        return np.concatenate(parts)

    return read
