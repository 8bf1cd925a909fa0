"""Decodes many raw examples once, and finds the ones that cannot be read before training starts.

What TensorFlow cannot decode is converted first (`Modality.servable`): then the one decoder of training and serving reads that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kerastl.modality import Batch, Modality
from kerastl.pipeline import untuned

# How many examples travel from TensorFlow to Python at a time: few enough for one report of progress a second.
BATCH_SIZE = 64
# Beyond this many unreadable files the run stops anyway; looking into each would only keep the user waiting.
REASONS_AT_MOST = 1000

# From sorted indices, a dataset of (int64 index, string scalar: raw bytes) in that order. The index has to be attached
# before anything that may fail, such as reading the file.
Raw = Callable[[np.ndarray], tf.data.Dataset]


@dataclass(frozen=True)
class Decoded:
    """Some neighbouring examples.

    Attributes:
        start: position of the first.
        inputs: named inputs, [m, ...]; zeros where an example cannot be read.
        reasons: for each unreadable example its position and a short reason.
        converted: for each example that was converted first its position and its format.
    """

    start: int
    inputs: Batch
    reasons: dict[int, str]
    converted: dict[int, str]

    @property
    def count(self) -> int:
        """How many examples there are, the unreadable ones included."""
        return len(next(iter(self.inputs.values())))


def decode_in_chunks(
    modality: Modality,
    raw: Raw,
    indices: np.ndarray,
    lengths: Sequence[int],
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Decoded]:
    """Decode examples in parallel, chunk by chunk; an unreadable one does not end the pass.

    One pipeline runs through all chunks: to set one up takes as long as to decode a thousand small images.

    Args:
        modality: decodes.
        raw: where the examples come from.
        indices: sorted int64 [n], no value twice.
        lengths: examples in each chunk; their sum is n.
        advance: called with the number of examples that were done since its last call.

    Yields:
        The chunks, in order.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if sum(lengths) != len(indices):
        raise ValueError(f"the chunks hold {sum(lengths)} examples; expected {len(indices)}.")
    decode_one, spec = _traced_decode(modality), modality.spec

    def decoded(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
        # Where it cannot be converted either, this fails and is explained below.
        data, kind = tf.cond(
            modality.is_served(data),
            lambda: (data, tf.constant(b"")),
            lambda: tuple(tf.numpy_function(modality.servable, [data], [tf.string, tf.string])),
        )
        return index, decode_one(tf.ensure_shape(data, [])), tf.ensure_shape(kind, [])

    dataset = raw(indices).map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batched = untuned(dataset.ignore_errors().batch(BATCH_SIZE).prefetch(2))
    batches = iter(batched.as_numpy_iterator())
    found, kinds = np.empty(0, np.int64), np.empty(0, object)
    inputs: Batch = {name: np.empty((0, *each.shape), each.dtype) for name, each in spec.items()}
    explained = 0
    for start, length in zip(np.cumsum([0, *lengths])[:-1].tolist(), lengths, strict=True):
        chunk = {name: np.zeros((length, *each.shape), each.dtype) for name, each in spec.items()}
        missing = np.ones(length, dtype=bool)
        converted: dict[int, str] = {}
        while True:
            inside = found < start + length
            for name, values in inputs.items():
                chunk[name][found[inside] - start] = values[inside]
            missing[found[inside] - start] = False
            pairs = zip(found[inside], kinds[inside], strict=True)
            converted |= {int(at): kind.decode() for at, kind in pairs if kind}
            if inside.any():
                advance(int(inside.sum()))
            found, kinds = found[~inside], kinds[~inside]
            inputs = {name: values[~inside] for name, values in inputs.items()}
            batch = None if len(found) else next(batches, None)
            if batch is None:
                break
            found, inputs, kinds = np.searchsorted(indices, batch[0]), batch[1], batch[2]
        reasons: dict[int, str] = {}
        for position in (start + np.flatnonzero(missing)).tolist():
            if explained + len(reasons) >= REASONS_AT_MOST:
                reasons[position] = (
                    f"cannot be read (reasons are given for the first {REASONS_AT_MOST:,} only)"
                )
            else:
                try:
                    alone, kind = _read_alone(modality, raw, indices[position : position + 1])
                    for name, value in alone.items():
                        chunk[name][position - start] = value
                    converted |= {position: kind} if kind else {}
                except ValueError as error:
                    reasons[position] = str(error)
            advance(1)
        explained += len(reasons)
        yield Decoded(start, chunk, reasons, converted)


@lru_cache
def _traced_decode(modality: Modality) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """`decode` as one graph for all splits of a run: tracing takes as long as a thousand small images.

    Without autograph, which finds nothing to convert in it and takes three seconds of a run to find that out.
    """
    return tf.function(modality.decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _read_alone(modality: Modality, raw: Raw, index: np.ndarray) -> tuple[dict[str, np.ndarray], str]:
    """Inputs and format of an example that the fast pass skipped, because skipping tells no reason.

    Raises:
        ValueError: it cannot be read; the text says why in a few words.
    """
    try:
        for _, data in raw(index):
            served, kind = modality.servable(data.numpy())
            values = modality.decode(tf.constant(served))
            return {name: value.numpy() for name, value in values.items()}, kind
    except tf.errors.OpError as error:
        raise ValueError(describe_failure(modality, error)) from error
    raise ValueError("the source yields nothing for it")


def describe_failure(modality: Modality, error: tf.errors.OpError) -> str:
    """Why an example could not be read or decoded, in one short line without TensorFlow's own framing."""
    return modality.reason_of(error.message or "") or type(error).__name__
