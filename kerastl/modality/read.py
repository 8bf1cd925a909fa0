"""Decodes many raw examples once, and finds the ones that cannot be read before training starts.

What TensorFlow cannot decode is converted first (`Modality.servable`): then the one decoder of training and serving reads that.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kerastl.modality import Batch, Modality, RawExample, bytes_of, count_of
from kerastl.modality.cuts import CUT, Cutting, noted
from kerastl.pipeline import usable_cores

# A task of a thread are so many examples, fewer where all threads would not have one, or where they take more bytes than this
# when they are decoded. It decodes them together, by one call of a graph, as soon as it has read the second number of bytes: a
# call takes half a millisecond beside the decoding.
TAKEN_AT_ONCE, TAKEN_BYTES = 32, 1 << 23
DECODED_BYTES = 1 << 20
# Examples between two reports of progress: few enough for one a second.
REPORTED = 64


@dataclass(frozen=True)
class Decoded:
    """Some neighbouring examples.

    Attributes:
        start: position of the first.
        inputs: named inputs, [m, ...]; zeros where an example cannot be read.
        reasons: for each unreadable example its position and a short reason.
        notes: for each example that was converted first, or is cut, its position and `kerastl.modality.cuts.noted`.
    """

    start: int
    inputs: Batch
    reasons: dict[int, str]
    notes: dict[int, str]

    @property
    def count(self) -> int:
        """Number of examples, the unreadable ones included."""
        return count_of(self.inputs)


def decode_in_chunks(
    modality: Modality,
    raw: Iterable[RawExample],
    lengths: Sequence[int],
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Decoded]:
    """Decode examples in parallel, chunk by chunk; an unreadable one does not end the pass.

    Threads read files and call a graph for each kind of example. In a `tf.data` pipeline each pass would set these up anew,
    for as long as a thousand small images take, and decode no faster.

    Args:
        modality: decodes.
        raw: the examples.
        lengths: examples in each chunk; their sum is the number of examples.
        advance: called with the number of examples that were done since its last call.

    Yields:
        The chunks, in order.

    Raises:
        ValueError: there are fewer or more examples than the chunks hold.
        Exception: whatever `raw` raises.
    """
    with contextlib.closing(_in_order(modality, raw, sum(lengths))) as results:
        for start, length in zip(np.cumsum([0, *lengths])[:-1].tolist(), lengths, strict=True):
            yield _chunk(modality, results, start, length, advance)
        if next(results, None) is not None:
            raise ValueError(f"there are more examples than the {sum(lengths)} that the chunks hold.")


def decode_each(modality: Modality, raw: Sequence[bytes]) -> Batch:
    """A few examples, all of which `decode` takes, as named inputs [n, ...].

    Raises:
        tf.errors.OpError: one cannot be decoded.
    """
    return {name: values.numpy() for name, values in modality.decode_all(tf.constant(list(raw))).items()}


def why_unread(modality: Modality, error: Exception) -> str:
    """Why an example could not be read or decoded, in one short line without the framing of TensorFlow or the system."""
    said = error.message if isinstance(error, tf.errors.OpError) else getattr(error, "strerror", None)
    return modality.reason_of(said or "") or type(error).__name__


# Named inputs of an example and what there is to note of it; or why it cannot be read.
_Result = tuple[dict[str, np.ndarray], str] | str
_Decode = Callable[[tf.Tensor], dict[str, tf.Tensor]]
_tracing = threading.Lock()


def _chunk(
    modality: Modality, results: Iterator[_Result], start: int, length: int, advance: Callable[[int], None]
) -> Decoded:
    """The next `length` results as arrays; `start` is the position of the first."""
    inputs = {name: np.zeros((length, *each.shape), each.dtype) for name, each in modality.spec.items()}
    reasons: dict[int, str] = {}
    notes: dict[int, str] = {}
    for at in range(length):
        if (result := next(results, None)) is None:
            raise ValueError(f"there are {start + at} examples; the chunks hold more.")
        if isinstance(result, str):
            reasons[start + at] = result
        else:
            for name, value in result[0].items():
                inputs[name][at] = value
            notes |= {start + at: result[1]} if result[1] else {}
        if (at + 1) % REPORTED == 0:
            advance(REPORTED)
    if length % REPORTED:
        advance(length % REPORTED)
    return Decoded(start, inputs, reasons, notes)


def _in_order(modality: Modality, raw: Iterable[RawExample], count: int) -> Generator[_Result]:
    threads = usable_cores()
    waiting: deque[Future[list[_Result]]] = deque()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(threads)
    try:
        for examples in _tasks(modality, raw, -(-count // threads)):
            waiting.append(pool.submit(_results, modality, examples, stopped))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _tasks(modality: Modality, raw: Iterable[RawExample], most: int) -> Iterator[list[RawExample]]:
    """Examples for a thread to decode at a time."""
    bytes_each = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in modality.spec.values())
    most = max(1, min(most, TAKEN_AT_ONCE, TAKEN_BYTES // bytes_each))
    taken: list[RawExample] = []
    size = 0
    for each in raw:
        taken.append(each)
        size += len(each) if isinstance(each, bytes) else 0
        if len(taken) >= most or size >= DECODED_BYTES:
            yield taken
            taken, size = [], 0
    if taken:
        yield taken


def _results(modality: Modality, examples: list[RawExample], stopped: threading.Event) -> list[_Result]:
    """Results of some examples; of fewer once nobody waits for them."""
    results: list[_Result] = []
    read: list[bytes] = []
    for each in examples:
        if stopped.is_set():
            return results
        try:
            read.append(bytes_of(each))
        except OSError as error:
            results += [*_decoded(modality, read), why_unread(modality, error)]
            read = []
        if sum(map(len, read)) >= DECODED_BYTES:
            results += _decoded(modality, read)
            read = []
    return [*results, *_decoded(modality, read)]


def _decoded(modality: Modality, raw: list[bytes]) -> list[_Result]:
    """Results of some examples, those of one kind by one call of a graph."""
    kinds = [modality.kind_of(each) for each in raw]
    found: dict[str, Iterator[_Result]] = {}
    for kind in set(kinds):
        alike = [each for each, its in zip(raw, kinds, strict=True) if its == kind]
        found[kind] = iter(_of_kind(modality, kind, alike))
    return [next(found[kind]) for kind in kinds]


def _of_kind(modality: Modality, kind: str, raw: list[bytes]) -> list[_Result]:
    """Results of some examples of one kind. Where one of them cannot be decoded it is looked for, and converted."""
    if kind:
        decode = _decoder(modality, kind)
        with contextlib.suppress(tf.errors.OpError):
            return _called(decode, raw, "")
    if len(raw) > 1:
        middle = len(raw) // 2
        return _of_kind(modality, kind, raw[:middle]) + _of_kind(modality, kind, raw[middle:])
    try:
        served, converted = modality.servable(raw[0])
    except ValueError as error:
        return [str(error)]
    decode = _decoder(modality, modality.kind_of(served))
    try:
        return _called(decode, [served], converted)
    except tf.errors.OpError as error:
        return [why_unread(modality, error)]


def _called(decode: _Decode, raw: list[bytes], converted: str) -> list[_Result]:
    inputs = {name: values.numpy() for name, values in decode(tf.constant(raw, tf.string)).items()}
    cut = inputs.pop(CUT, np.zeros(len(raw), bool))
    return [
        ({name: values[at] for name, values in inputs.items()}, noted(converted, bool(cut[at])))
        for at in range(len(raw))
    ]


def _decoder(modality: Modality, kind: str) -> _Decode:
    with _tracing:
        return _traced_decode(modality, kind)


@lru_cache
def _traced_decode(modality: Modality, kind: str) -> _Decode:
    """`decode_all` for string [n], all of one kind, as one graph for all splits of a run: tracing takes as long as a thousand
    small examples.

    On the processor also where there is a GPU, whose resizing may round otherwise; and without autograph, which finds
    nothing to convert in it and takes three seconds of a run to find that out.
    """

    def decode(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.device("CPU:0"):
            if not isinstance(modality, Cutting):
                return modality.decode_all(raw, kind)
            inputs, cut = modality.decode_noting(raw)
            return {**inputs, CUT: cut}

    function = tf.function(decode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    traced = function.get_concrete_function()
    # Sets it up once; threads that called it at the same time would each do so.
    traced(tf.constant([], tf.string))
    return traced
