"""Options of tf.data, and the cores that work is spread over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same dataset, without tf.data's thread that tunes buffers and parallel calls while it runs.

    Each sleep of that thread is twice as long as the one before, and a pipeline that is let go of waits, now and then, until
    it wakes: TensorFlow 2.21 did so for 0 to 24 s after phases of 16 s. Without it `tf.data.AUTOTUNE` stands for a call a core.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def usable_cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
