"""Readers of features, wherever they are: positions and views in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kerastl.features.frozen import BATCH_SIZE
from kerastl.features.views import Views
from kerastl.modality import Batch
from kerastl.store.array import Rows

# Positions int [b] and one view, or each its own (int [b]), in; rows out.
Reader = Callable[[np.ndarray, int | np.ndarray], np.ndarray]
# The same for what a suffix takes: activations, or with carried inputs several arrays by name.
InputReader = Callable[[np.ndarray, int | np.ndarray], np.ndarray | Batch]


@dataclass(frozen=True, eq=False)
class Features:
    """A split's features, ready to be trained on.

    Attributes:
        views: the examples that the features are made from, with their labels.
        view_count: how many views there are.
        pooled_batch: reads float32 [b, features].
        activations: reads what the suffix takes: activations at the unfreeze point [b, ...], and inputs of the same rows and
            views by name where the cut carries any; None where nothing is thawed.
        outputs: reads each output of the prefix that was asked for, by name.
    """

    views: Views
    view_count: int
    pooled_batch: Reader
    activations: InputReader | None = None
    outputs: Mapping[str, Reader] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.views.count

    def activation_batch(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray | Batch:
        """Inputs of the suffix, all in one view or each in its own (int [b])."""
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
