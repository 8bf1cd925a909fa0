"""Reads the bytes of files, for the two sources that point at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def encoded_files(root: str, ids: np.ndarray) -> Callable[[np.ndarray], tf.data.Dataset]:
    """The reader of `Examples.encoded` for examples that are files.

    Args:
        root: folder that relative ids start from.
        ids: object [n] of str, paths.
    """
    base = os.path.abspath(root)

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        import tensorflow as tf

        # Paths are joined here and not while indexing: the columns hold no second copy of them.
        paths = [os.path.join(base, path) for path in ids[np.asarray(indices, dtype=np.int64)]]
        files = tf.data.Dataset.from_tensor_slices(tf.constant(paths, dtype=tf.string, shape=len(paths)))
        return files.map(tf.io.read_file, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return encoded
