"""Steps of sequences: which of them are real and which only fill up, and pooling over the real ones alone."""

from __future__ import annotations

import keras
from keras import ops

# The state of the first step, which BERT's family trains to stand for the whole example.
FIRST_STEP = "first"
LOWEST = -3.4e38


def step_numbers(like: keras.KerasTensor) -> keras.KerasTensor:
    """Numbers of steps from 1 on, int32 of the shape [batch, steps] of a tensor; by a sum, as the number of steps may be open."""
    return ops.cumsum(ops.ones_like(like, dtype="int32"), axis=1)


def steps_seen(states: keras.KerasTensor, length: keras.KerasTensor) -> keras.KerasTensor:
    """Of each step of some examples, whether it is real: bool [batch, steps].

    Args:
        states: [batch, steps, width]; of these, only how many steps there are.
        length: int32 [batch], numbers of real steps, from the first on.
    """
    return ops.less_equal(step_numbers(ops.take(states, 0, axis=-1)), ops.expand_dims(length, 1))


def mean_of_steps(states: keras.KerasTensor, length: keras.KerasTensor) -> keras.KerasTensor:
    """The mean of the real steps, float32 [batch, width]; zeros where there is none.

    Args:
        states: float32 [batch, steps, width].
        length: int32 [batch], numbers of real steps.
    """
    seen = ops.expand_dims(steps_seen(states, length), 2)
    count = ops.cast(ops.expand_dims(ops.maximum(length, 1), 1), "float32")
    return ops.sum(ops.where(seen, states, 0.0), axis=1) / count


def maximum_of_steps(states: keras.KerasTensor, length: keras.KerasTensor) -> keras.KerasTensor:
    """The maximum of the real steps, float32 [batch, width]; zeros where there is none.

    Args:
        states: float32 [batch, steps, width].
        length: int32 [batch], numbers of real steps.
    """
    seen = ops.expand_dims(steps_seen(states, length), 2)
    highest = ops.max(ops.where(seen, states, LOWEST), axis=1)
    return ops.where(ops.expand_dims(length > 0, 1), highest, 0.0)


def first_step(states: keras.KerasTensor) -> keras.KerasTensor:
    """The states of the first step, [batch, width] of [batch, steps, width]."""
    return ops.take(states, 0, axis=1)
