"""Decoded examples in memory, for tests that need no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerastl.modality import Batch


@dataclass(frozen=True, eq=False)
class Held:
    """Named inputs that are read at positions, as `kerastl.features.inputs.Inputs` are."""

    arrays: Batch

    def __getitem__(self, positions: np.ndarray | slice) -> Batch:
        return {name: values[positions] for name, values in self.arrays.items()}
