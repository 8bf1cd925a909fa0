"""Numbers and pieces of a file's bytes, read with TensorFlow operations that no file can break."""

from __future__ import annotations

import tensorflow as tf

PIXELS_AT_MOST = 178_956_970
"""Larger images are refused before memory is taken for them; where Pillow, too, sees a decompression bomb."""


def starts(header: tf.Tensor, magic: bytes) -> tf.Tensor:
    """True if a header (int64 [n]) begins with these bytes."""
    return tf.reduce_all(header[: len(magic)] == tf.constant(list(magic), tf.int64))


def number(header: tf.Tensor, start: tf.Tensor | int, count: int, big_endian: bool = False) -> tf.Tensor:
    """The unsigned number, int64, in `count` bytes of a header (int64 [n])."""
    powers = [1 << (8 * position) for position in range(count)]
    weights = powers[::-1] if big_endian else powers
    return tf.reduce_sum(header[start : start + count] * tf.constant(weights, tf.int64))


def substr(encoded: tf.Tensor, start: tf.Tensor | int, length: tf.Tensor | int) -> tf.Tensor:
    """Bytes of a scalar string; fewer, or none, where it ends earlier."""
    size = tf.strings.length(encoded)
    start = tf.cast(tf.clip_by_value(tf.cast(start, tf.int64), 0, tf.cast(size, tf.int64)), tf.int32)
    length = tf.cast(
        tf.clip_by_value(tf.cast(length, tf.int64), 0, tf.cast(size - start, tf.int64)), tf.int32
    )
    return tf.strings.substr(encoded, start, length)


def as_bytes(values: tf.Tensor) -> tf.Tensor:
    """A scalar string of the lowest bytes of some numbers (integers [n])."""
    alphabet = tf.constant([bytes([value]) for value in range(256)])
    return tf.strings.reduce_join(tf.gather(alphabet, tf.cast(values, tf.int32) & 255))


def check_pixels(height: tf.Tensor, width: tf.Tensor) -> tf.Operation | None:
    """Fail where an image has more than `PIXELS_AT_MOST` pixels; the sides are as the file says, 0 or larger."""
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    # Dividing instead of multiplying: two 32-bit sides of a hostile header overflow no product.
    fits = height <= PIXELS_AT_MOST // tf.maximum(width, 1)
    return tf.debugging.Assert(
        fits, ["image too large:", width, "x", height, "pixels; at most", PIXELS_AT_MOST]
    )


def operations(*checks: tf.Operation | None) -> list[tf.Operation]:
    """Eagerly a check has run and is None; in a graph it is an operation to wait for."""
    return [check for check in checks if check is not None]
