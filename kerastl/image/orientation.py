"""Which way up a JPEG is: the EXIF orientation tag, read and applied with TensorFlow operations.

Cameras and telephones store the sensor's pixels and note in the EXIF data how to turn them.
TensorFlow's decoder ignores the note, so it is read here, in the graph: a served model has to turn a
photograph just as training did, and has no Python to do it with.
"""

from __future__ import annotations

import tensorflow as tf

# EXIF stands near the start: a few segments of at most 64 KiB each. What lies beyond is not looked at.
HEAD_BYTES = 1 << 17
# Bounds the walk over segments and fill bytes, whatever the bytes say. Real files have about ten.
SEGMENTS_AT_MOST = 256
ORIENTATION_TAG = 0x0112
# Reads beyond the end meet these zeros, which no marker, tag or byte order consists of.
PADDING = b"\0" * 16


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """How the pixels of a JPEG have to be turned, by its EXIF tag 0x0112 (Exif 2.32, section 4.6.4).

    Only the first Exif segment counts, as in Pillow. XMP's own orientation is not read.

    Args:
        encoded: scalar string, the whole file. Anything is allowed: what is cut off, garbled or absent
            counts as upright.

    Returns:
        int32 scalar, 1..8; 1 is upright.
    """
    head = tf.strings.substr(encoded, 0, HEAD_BYTES)
    # Most images of a data set carry no EXIF, and this search spares them the walk: 0.03 ms against 0.4 ms.
    # Replacing, because it searches at memory speed; TensorFlow's matching is anchored and 10 times slower.
    without = tf.strings.regex_replace(head, r"Exif\x00\x00", "", replace_global=False)
    present = tf.strings.length(without) < tf.strings.length(head)
    return tf.cond(present, lambda: _walk(head), lambda: tf.constant(1, tf.int32))


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn pixels as an EXIF orientation asks.

    Args:
        pixels: [height, width, channels].
        orientation: int32 scalar, 1..8.

    Returns:
        The turned pixels; for 5..8 height and width change places.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        rows = tf.reduce_any(orientation == tf.constant([3, 4, 7, 8]))
        columns = tf.reduce_any(orientation == tf.constant([2, 3, 6, 7]))
        turned = tf.cond(rows, lambda: tf.reverse(turned, [0]), lambda: turned)
        return tf.cond(columns, lambda: tf.reverse(turned, [1]), lambda: turned)

    return tf.cond(orientation > 1, turn, lambda: pixels)


def _walk(head: tf.Tensor) -> tf.Tensor:
    """The orientation in a JPEG's first Exif segment, found by going from segment to segment."""
    data = tf.io.decode_raw(tf.strings.join([head, PADDING]), tf.uint8)
    last = tf.size(data) - len(PADDING)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(at, last)], tf.int32)

    def going(at: tf.Tensor, found: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        return tf.logical_not(stop)

    def step(at: tf.Tensor, found: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # No position passes `last`, where zeros are read, and zeros stop the walk.
        at = tf.minimum(at, last)
        window = tf.cast(data[at : at + 10], tf.int32)
        marker = window[1]
        length = window[2] * 256 + window[3]
        is_fill = marker == 0xFF
        is_bare = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD7))
        is_exif = (marker == 0xE1) & tf.reduce_all(
            window[4:10] == tf.constant([0x45, 0x78, 0x69, 0x66, 0, 0])
        )
        is_end = (window[0] != 0xFF) | (marker == 0xDA) | (marker == 0xD9)
        is_broken = ~is_fill & ~is_bare & (length < 2)
        advance = tf.where(is_fill, 1, tf.where(is_bare, 2, 2 + length))
        stop = is_end | is_broken | is_exif
        found = tf.where(is_exif & ~is_end & ~is_broken, at, found)
        return tf.where(stop, at, at + advance), found, stop

    start = (tf.constant(2), tf.constant(0), tf.constant(False))
    _, found, _ = tf.while_loop(going, step, start, maximum_iterations=SEGMENTS_AT_MOST)

    def read() -> tf.Tensor:
        end = tf.minimum(found + 2 + byte(found + 2) * 256 + byte(found + 3), last)
        return _read_tag(data[found + 10 : tf.maximum(end, found + 10)])

    return tf.cond(found > 0, read, lambda: tf.constant(1, tf.int32))


def _read_tag(tiff: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of a TIFF structure (uint8 [n]); 1 where there is none."""
    size = tf.size(tiff, tf.int64)
    data = tf.cast(tf.concat([tiff, tf.zeros([16], tf.uint8)], 0), tf.int64)
    is_little = tf.reduce_all(data[:4] == tf.constant([0x49, 0x49, 42, 0], tf.int64))
    is_big = tf.reduce_all(data[:4] == tf.constant([0x4D, 0x4D, 0, 42], tf.int64))
    short = tf.where(is_little, tf.constant([1, 256], tf.int64), tf.constant([256, 1], tf.int64))
    long = tf.where(
        is_little,
        tf.constant([1, 1 << 8, 1 << 16, 1 << 24], tf.int64),
        tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64),
    )
    directory = tf.minimum(tf.reduce_sum(data[4:8] * long), size)
    count = tf.reduce_sum(data[directory : directory + 2] * short)
    count = tf.minimum(count, tf.maximum(size - directory - 2, 0) // 12)
    entries = tf.reshape(data[directory + 2 : directory + 2 + 12 * count], [-1, 12])
    is_tag = tf.reduce_sum(entries[:, 0:2] * short, -1) == ORIENTATION_TAG
    is_long = tf.reduce_sum(entries[:, 2:4] * short, -1) == 4
    values = tf.where(
        is_long, tf.reduce_sum(entries[:, 8:12] * long, -1), tf.reduce_sum(entries[:, 8:10] * short, -1)
    )
    value = tf.reduce_max(tf.concat([tf.boolean_mask(values, is_tag), tf.constant([0], tf.int64)], 0))
    valid = (is_little | is_big) & (value >= 1) & (value <= 8)
    return tf.cast(tf.where(valid, value, tf.constant(1, tf.int64)), tf.int32)
