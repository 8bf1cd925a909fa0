"""Decodes every image of a split once, and finds the ones that cannot be read before training starts.

What TensorFlow cannot decode goes through Pillow first, which makes a PNG of it: then the one decoder of training and
serving reads that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from kerastl.encoded import as_png, format_of, reason_of
from kerastl.modality.image.decode import decode, is_served
from kerastl.pipeline import untuned

# How many images travel from TensorFlow to Python at a time: few enough for one report of progress a second.
BATCH_SIZE = 64
CHUNK = 1024
# Beyond this many unreadable files the run stops anyway; looking into each would only keep the user waiting.
REASONS_AT_MOST = 1000


@dataclass(frozen=True)
class Decoded:
    """Some neighbouring images.

    Attributes:
        start: position of the first.
        pixels: uint8 [m, image_size, image_size, 3]; zeros where an image cannot be read.
        reasons: for each unreadable image its position and a short reason.
        converted: for each image that went through Pillow its position and its format.
    """

    start: int
    pixels: np.ndarray
    reasons: dict[int, str]
    converted: dict[int, str]


def decode_in_chunks(
    encoded: Callable[[np.ndarray], tf.data.Dataset],
    indices: np.ndarray,
    image_size: int,
    resize: str,
    lengths: Sequence[int],
    advance: Callable[[int], None] | None = None,
    significant_bits: int = 16,
) -> Iterator[Decoded]:
    """Decode images in parallel, chunk by chunk; an unreadable one does not end the pass.

    One pipeline runs through all chunks: to set one up takes as long as to decode a thousand small images.

    Args:
        encoded: from sorted indices, a dataset of (int64 index, string scalar: encoded bytes) in that
            order. The index has to be attached before anything that may fail, such as reading the file.
        indices: sorted int64 [n], no value twice.
        image_size: side of the square in pixels.
        resize: `stretch`, `crop` or `pad`; see `decode`.
        lengths: images in each chunk; their sum is n.
        advance: called with the number of images that were done since its last call.
        significant_bits: of PNG files of 16 bits; see `decode`.

    Yields:
        The chunks, in order.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if sum(lengths) != len(indices):
        raise ValueError(f"the chunks hold {sum(lengths)} images; expected {len(indices)}.")

    decode_one = _traced_decode(image_size, resize, significant_bits)

    def pixels_of(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Where Pillow cannot read it either, this fails and is explained below.
        data, kind = tf.cond(
            is_served(data),
            lambda: (data, tf.constant(b"")),
            lambda: tuple(tf.numpy_function(as_png, [data], [tf.string, tf.string])),
        )
        return index, decode_one(tf.ensure_shape(data, [])), tf.ensure_shape(kind, [])

    dataset = encoded(indices).map(pixels_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batched = untuned(dataset.ignore_errors().batch(BATCH_SIZE).prefetch(2))
    batches = iter(batched.as_numpy_iterator())
    found, pixels = np.empty(0, np.int64), np.empty((0, image_size, image_size, 3), np.uint8)
    kinds = np.empty(0, object)
    explained = 0
    for start, length in zip(np.cumsum([0, *lengths])[:-1].tolist(), lengths, strict=True):
        chunk = np.zeros((length, image_size, image_size, 3), np.uint8)
        missing = np.ones(length, dtype=bool)
        converted: dict[int, str] = {}
        stop = start + length
        while True:
            inside = found < stop
            chunk[found[inside] - start] = pixels[inside]
            missing[found[inside] - start] = False
            converted |= {
                int(at): kind.decode() for at, kind in zip(found[inside], kinds[inside], strict=True) if kind
            }
            if advance is not None and inside.any():
                advance(int(inside.sum()))
            found, pixels, kinds = found[~inside], pixels[~inside], kinds[~inside]
            batch = None if len(found) else next(batches, None)
            if batch is None:
                break
            found, pixels, kinds = np.searchsorted(indices, batch[0]), batch[1], batch[2]
        reasons, more = _explain(
            encoded,
            indices,
            start + np.flatnonzero(missing),
            image_size,
            resize,
            chunk,
            start,
            explained,
            advance,
            significant_bits,
        )
        explained += len(reasons)
        yield Decoded(start, chunk, reasons, converted | more)


def decode_all(
    encoded: Callable[[np.ndarray], tf.data.Dataset],
    indices: np.ndarray,
    image_size: int,
    resize: str,
    out: np.ndarray,
    advance: Callable[[int], None] | None = None,
) -> dict[int, str]:
    """Decode images into an array; see `decode_in_chunks`.

    Args:
        encoded: see there.
        indices: see there.
        image_size: side of the square in pixels.
        resize: `stretch`, `crop` or `pad`.
        out: uint8 [n, image_size, image_size, 3], written to.
        advance: see there.

    Returns:
        For each unreadable image its position 0..n-1 and a short reason; its pixels are zeros.
    """
    expected = (len(indices), image_size, image_size, 3)
    if out.shape != expected or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}; expected uint8 {expected}.")
    reasons: dict[int, str] = {}
    lengths = [min(CHUNK, len(indices) - start) for start in range(0, len(indices), CHUNK)]
    for part in decode_in_chunks(encoded, indices, image_size, resize, lengths, advance):
        out[part.start : part.start + len(part.pixels)] = part.pixels
        reasons |= part.reasons
    return reasons


@lru_cache
def _traced_decode(image_size: int, resize: str, significant_bits: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """`decode` as one graph for all splits of a run: tracing takes as long as a thousand small images.

    Without autograph, which finds nothing to convert in it and takes three seconds of a run to find that out.
    """
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(
        lambda data: decode(data, image_size, resize, significant_bits),
        input_signature=signature,
        autograph=False,
    )


def _explain(
    encoded: Callable[[np.ndarray], tf.data.Dataset],
    indices: np.ndarray,
    positions: np.ndarray,
    image_size: int,
    resize: str,
    chunk: np.ndarray,
    start: int,
    explained: int,
    advance: Callable[[int], None] | None,
    significant_bits: int,
) -> tuple[dict[int, str], dict[int, str]]:
    """Try once more what the fast pass skipped, one by one, because skipping tells no reason; then through Pillow.

    Returns:
        Reasons, and formats of what Pillow could read; see `Decoded`.
    """
    reasons: dict[int, str] = {}
    converted: dict[int, str] = {}
    for position in positions.tolist():
        if explained + len(reasons) >= REASONS_AT_MOST:
            reasons[position] = f"cannot be read (reasons are given for the first {REASONS_AT_MOST:,} only)"
        else:
            try:
                for _, data in encoded(indices[position : position + 1]):
                    served, kind = servable(data.numpy())
                    chunk[position - start] = decode(
                        tf.constant(served), image_size, resize, significant_bits
                    ).numpy()
                    if kind:
                        converted[position] = kind
                    break
                else:
                    reasons[position] = "the source yields nothing for it"
            except tf.errors.OpError as error:
                reasons[position] = describe_failure(error)
            except ValueError as error:
                reasons[position] = str(error)
        if advance is not None:
            advance(1)
    return reasons, converted


def servable(data: bytes) -> tuple[bytes, str]:
    """An image as bytes that `decode` takes.

    Args:
        data: a whole file.

    Returns:
        The file itself and '', or a PNG that Pillow made of it and its format in a word.

    Raises:
        ValueError: neither TensorFlow nor Pillow can read it; the text says why in a few words.
    """
    encoded = tf.constant(data)
    if not is_served(encoded):
        return as_png(data)
    try:
        decode(encoded, 8, "stretch")
    except tf.errors.OpError as error:
        try:
            return as_png(data)
        except ValueError:
            # Of the formats that it knows, TensorFlow's reason is the one that a served model gives.
            raise ValueError(describe_failure(error)) from error
    return data, ""


def bits_used(images: Iterable[bytes]) -> int:
    """How many bits the brightest level among images of 16 bits takes, 8..16; 16 where no image has 16 bits.

    Args:
        images: whole files of any format. Only PNG, TIFF and JPEG 2000 are looked into, the ones that instruments write.
    """
    brightest = []
    for data in images:
        with contextlib.suppress(ValueError, tf.errors.OpError):  # what cannot be read is reported elsewhere
            if format_of(data) in ("tiff", "jpeg 2000"):
                data, _ = as_png(data)
            if format_of(data) == "png" and data[24:25] == b"\x10":
                levels = tf.io.decode_png(data, channels=3, dtype=tf.uint16)
                brightest.append(int(tf.reduce_max(levels)))
    return max(8, max(brightest).bit_length()) if brightest else 16


def describe_failure(error: tf.errors.OpError) -> str:
    """Why an image could not be read or decoded, in a few words.

    Args:
        error: what TensorFlow raised.

    Returns:
        One short line without TensorFlow's own framing.
    """
    return reason_of(error.message or "") or type(error).__name__
