"""Options of tf.data."""

from __future__ import annotations

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
