"""Decodes every image of a split once, and finds the ones that cannot be read before training starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerastl.image.decode import decode

# How many images travel from TensorFlow to Python at a time: few enough for one report of progress a second.
BATCH_SIZE = 64
# Beyond this many unreadable files the run stops anyway; looking into each would only keep the user waiting.
REASONS_AT_MOST = 1000

# Words of TensorFlow's messages, and what they mean to somebody who looks for a bad file.
MEANINGS = (
    ("input is empty", "empty file"),
    ("unknown image file format", "not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)"),
    ("no such file", "no such file"),
    ("is a directory", "a folder, not a file"),
    ("permission denied", "no permission to read it"),
    ("must be 1, 3 or 4, was", "bmp with 1, 4 or 16 bits a pixel; convert it to png"),
    ("os/2 header", "bmp with an OS/2 header; convert it to png"),
    ("invalid jpeg data", "truncated or damaged jpeg"),
    ("invalid png data", "truncated or damaged png"),
    ("invalid gif data", "truncated or damaged gif"),
    ("decode webp", "truncated or damaged webp"),
    ("input size should match", "truncated or damaged bmp"),
    ("incomplete bmp", "truncated or damaged bmp"),
)


def decode_all(
    encoded: Callable[[np.ndarray], tf.data.Dataset],
    indices: np.ndarray,
    image_size: int,
    resize: str,
    out: np.ndarray,
    advance: Callable[[int], None] | None = None,
) -> dict[int, str]:
    """Decode images in parallel into an array; an unreadable one does not end the pass.

    Args:
        encoded: from sorted indices, a dataset of (int64 index, string scalar: encoded bytes) in that
            order. The index has to be attached before anything that may fail, such as reading the file.
        indices: sorted int64 [n], no value twice.
        image_size: side of the square in pixels.
        resize: `stretch`, `crop` or `pad`; see `decode`.
        out: uint8 [n, image_size, image_size, 3], written to; may be a memory map.
        advance: called with the number of images that were done since its last call.

    Returns:
        For each unreadable image its position 0..n-1 and a short reason; its pixels are zeros.
    """
    indices = np.asarray(indices, dtype=np.int64)
    expected = (len(indices), image_size, image_size, 3)
    if out.shape != expected or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}; expected uint8 {expected}.")
    if not len(indices):
        return {}

    def pixels_of(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, decode(data, image_size, resize)

    dataset = encoded(indices).map(pixels_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    missing = np.ones(len(indices), dtype=bool)
    for found, pixels in dataset.ignore_errors().batch(BATCH_SIZE).prefetch(2).as_numpy_iterator():
        positions = np.searchsorted(indices, found)
        out[positions] = pixels
        missing[positions] = False
        if advance is not None:
            advance(len(positions))
    return _explain(encoded, indices, np.flatnonzero(missing), image_size, resize, out, advance)


def _explain(
    encoded: Callable[[np.ndarray], tf.data.Dataset],
    indices: np.ndarray,
    positions: np.ndarray,
    image_size: int,
    resize: str,
    out: np.ndarray,
    advance: Callable[[int], None] | None,
) -> dict[int, str]:
    """Try once more what the fast pass skipped, one by one, because skipping tells no reason."""
    reasons: dict[int, str] = {}
    for position in positions.tolist():
        out[position] = 0
        if len(reasons) >= REASONS_AT_MOST:
            reasons[position] = f"cannot be read (reasons are given for the first {REASONS_AT_MOST:,} only)"
        else:
            try:
                for _, data in encoded(indices[position : position + 1]):
                    out[position] = decode(data, image_size, resize).numpy()
                    break
                else:
                    reasons[position] = "the source yields nothing for it"
            except tf.errors.OpError as error:
                reasons[position] = describe_failure(error)
        if advance is not None:
            advance(1)
    return reasons


def describe_failure(error: tf.errors.OpError) -> str:
    """Why an image could not be read or decoded, in a few words.

    Args:
        error: what TensorFlow raised.

    Returns:
        One short line without TensorFlow's own framing.
    """
    message = error.message or type(error).__name__
    lowered = message.lower()
    for words, meaning in MEANINGS:
        if words in lowered:
            return meaning
    if "image too large" in lowered:
        # A failed assertion prints each of its values on a line, strings as Python's bytes.
        summary = message[lowered.index("image too large") :].replace("b'", "").replace("'", "")
        return " ".join(summary.split())[:120]
    line = message.replace("\n", " ").split("}} ")[-1].split(" [Op:")[0].split(" [[{{")[0]
    return line.strip()[:120] or type(error).__name__
