"""Decodes many raw examples once, and finds the ones that cannot be read before training starts.

What TensorFlow cannot decode is converted first (`Modality.servable`): then the one decoder of training and serving reads that.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from kerastl.modality import Batch, Modality, count_of
from kerastl.pipeline import untuned

# Raw examples that are read at a time, and how many wait for each thread: enough to keep all busy, and few where each has 20 MB.
READ_AT_ONCE = 8
AHEAD_A_THREAD = 4
# Of files that cannot be opened. Beyond this many the run stops anyway; looking at each would only keep the user waiting.
REASONS_AT_MOST = 1000
# Examples between two reports of progress: few enough for one a second.
REPORTED = 64

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
        """Number of examples, the unreadable ones included."""
        return count_of(self.inputs)


def decode_in_chunks(
    modality: Modality,
    raw: Raw,
    indices: np.ndarray,
    lengths: Sequence[int],
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Decoded]:
    """Decode examples in parallel, chunk by chunk; an unreadable one does not end the pass.

    Threads call one graph. In a `tf.data` pipeline each pass would set that graph up anew, for as long as a thousand small
    images take, and decode no faster.

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
    results = _in_order(modality, raw, indices)
    ahead = next(results, None)
    left_out = 0
    for start, length in zip(np.cumsum([0, *lengths])[:-1].tolist(), lengths, strict=True):
        chunk = {name: np.zeros((length, *each.shape), each.dtype) for name, each in modality.spec.items()}
        reasons: dict[int, str] = {}
        converted: dict[int, str] = {}
        done = 0
        for position in range(start, start + length):
            if ahead is not None and ahead[0] == position:
                result, ahead = ahead[1], next(results, None)
            elif (left_out := left_out + 1) <= REASONS_AT_MOST:
                result = _read_alone(modality, raw, indices[position : position + 1])
            else:
                result = f"cannot be read (reasons are given for the first {REASONS_AT_MOST:,} only)"
            if isinstance(result, str):
                reasons[position] = result
            else:
                for name, value in result[0].items():
                    chunk[name][position - start] = value
                converted |= {position: result[1]} if result[1] else {}
            if (position + 1 - start) % REPORTED == 0:
                advance(REPORTED)
                done += REPORTED
        if length > done:
            advance(length - done)
        yield Decoded(start, chunk, reasons, converted)


def decode_each(modality: Modality, raw: Sequence[bytes]) -> Batch:
    """A few examples, all of which `decode` takes, as named inputs [n, ...].

    Raises:
        tf.errors.OpError: one cannot be decoded.
    """
    decoded = [modality.decode(tf.constant(each)) for each in raw]
    return {name: np.stack([each[name].numpy() for each in decoded]) for name in decoded[0]}


# Named inputs of an example and the format that it was converted from, '' where it was not; or why it cannot be read.
_Result = tuple[dict[str, np.ndarray], str] | str


def _in_order(modality: Modality, raw: Raw, indices: np.ndarray) -> Iterator[tuple[int, _Result]]:
    """Position and result of each example that the source yields, in order; a file that cannot be opened is left out."""
    decode_one = _traced_decode(modality)
    threads = os.cpu_count() or 1
    batches = untuned(raw(indices).ignore_errors().batch(READ_AT_ONCE).prefetch(2)).as_numpy_iterator()
    waiting: deque[tuple[int, Future[_Result]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for numbers, examples in batches:
            for position, data in zip(np.searchsorted(indices, numbers).tolist(), examples, strict=True):
                waiting.append((position, pool.submit(_result_of, modality, decode_one, data)))
            while len(waiting) > AHEAD_A_THREAD * threads:
                position, future = waiting.popleft()
                yield position, future.result()
        while waiting:
            position, future = waiting.popleft()
            yield position, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _result_of(modality: Modality, decode_one: Callable[[tf.Tensor], Any], data: bytes) -> _Result:
    try:
        return {name: value.numpy() for name, value in decode_one(tf.constant(data)).items()}, ""
    except tf.errors.OpError:
        pass  # what else can read it, or why nothing can
    try:
        served, kind = modality.servable(data)
        return {name: value.numpy() for name, value in decode_one(tf.constant(served)).items()}, kind
    except ValueError as error:
        return str(error)
    except tf.errors.OpError as error:
        return describe_failure(modality, error)


@lru_cache
def _traced_decode(modality: Modality) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """`decode` as one graph for all splits of a run: tracing takes as long as a thousand small images.

    On the processor also where there is a GPU, whose resizing may round otherwise; and without autograph, which finds
    nothing to convert in it and takes three seconds of a run to find that out.
    """

    def decode(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        # What has to be converted first fails in the check.
        with tf.device("CPU:0"), tf.control_dependencies([modality.check(raw[tf.newaxis])]):
            return modality.decode(tf.identity(raw))

    traced = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    return traced.get_concrete_function()


def _read_alone(modality: Modality, raw: Raw, index: np.ndarray) -> _Result:
    """An example that the source left out, because leaving out tells no reason."""
    try:
        for _, data in raw(index):
            return _result_of(modality, _traced_decode(modality), data.numpy())
    except tf.errors.OpError as error:
        return describe_failure(modality, error)
    return "the source yields nothing for it"


def describe_failure(modality: Modality, error: tf.errors.OpError) -> str:
    """Why an example could not be read or decoded, in one short line without TensorFlow's own framing."""
    return modality.reason_of(error.message or "") or type(error).__name__
