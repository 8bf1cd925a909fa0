"""Arrays that lie on disk, so that memory does not grow with the number of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kerastl.writing import explain_write_errors


def new_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """A new memory-mapped array, with its space on disk reserved.

    Raises:
        NoSpaceError: the disk has no room for it. A sparse file would end the process later, by a signal
            that cannot be caught, in the middle of writing.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if array.nbytes and hasattr(os, "posix_fallocate"):
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                path.unlink()
                raise
    return array
