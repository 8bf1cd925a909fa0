"""BMP in TensorFlow operations: every depth, every header and any colour masks, without compression.

TensorFlow's own decoder knows 8, 24 and 32 bits a pixel with the colours in one order and nothing between header and
pixels. The layouts are those of Microsoft's BITMAPINFOHEADER to BITMAPV5HEADER and of OS/2 1 and 2.
"""

from __future__ import annotations

import tensorflow as tf

from kerastl.modality.image.header import check_pixels, number, operations, substr

CORE_HEADER = 12  # OS/2 1: sides of two bytes, palette entries of three
MASKS_AT = 54
HEADER_BYTES = 80
RAW, MASKS, ALPHA_MASKS = 0, 3, 6
DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}


def decode_bmp(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Decode a BMP.

    Args:
        encoded: scalar string, the whole file.
        header: int64 [HEADER_BYTES], its first bytes, zeros behind its end.

    Returns:
        uint8 [height, width, 3], RGB; alpha is dropped.

    Raises:
        tf.errors.InvalidArgumentError: run-length coded, an embedded JPEG or PNG, cut off, or too large.
    """
    info_size = number(header, 14, 4)
    is_core = info_size == CORE_HEADER

    def field(at: int, count: int) -> tf.Tensor:
        # Short headers (OS/2 2 may stop anywhere) leave fields out; what stands there then is no field.
        return tf.where(at + count <= 14 + info_size, number(header, at, count), tf.constant(0, tf.int64))

    width = tf.where(is_core, number(header, 18, 2), field(18, 4))
    signed_height = tf.where(is_core, number(header, 20, 2), field(22, 4))
    # A negative height, here beyond 2^31, stands for rows from the top down.
    top_down = signed_height >= 1 << 31
    height = tf.where(top_down, (1 << 32) - signed_height, signed_height)
    bits = tf.where(is_core, number(header, 24, 2), field(28, 2))
    compression = tf.where(is_core, tf.constant(RAW, tf.int64), field(30, 4))
    has_masks = (compression == MASKS) | (compression == ALPHA_MASKS)
    known = tf.reduce_any(bits == tf.constant([1, 2, 4, 8, 16, 24, 32], tf.int64))
    plain = (compression == RAW) | (has_masks & (bits >= 16))
    row_bytes = (width * bits + 31) // 32 * 4
    start = number(header, 10, 4)
    # Some writers give the palette's place for that of the pixels.
    entry = tf.where(is_core, tf.constant(3, tf.int64), tf.constant(4, tf.int64))
    colors = tf.where(field(46, 4) > 0, field(46, 4), _power(tf.minimum(bits, 8)))
    start += tf.where((bits <= 8) & (start == 14 + info_size), entry * colors, 0)
    # The last row's padding may be missing.
    needed = row_bytes * (height - 1) + (width * bits + 7) // 8
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    checks = operations(
        tf.debugging.Assert(plain, ["compressed bmp", compression]),
        tf.debugging.Assert(known & (info_size >= CORE_HEADER), ["unknown bmp of", bits, "bits a pixel"]),
        check_pixels(height, width),
    )
    with tf.control_dependencies(checks):
        whole = (width > 0) & (height > 0) & (start + needed <= length)
        with tf.control_dependencies(operations(tf.debugging.Assert(whole, ["incomplete bmp"]))):
            body = substr(encoded, start, row_bytes * height)
    body = tf.strings.join(
        [body, tf.cond(start + row_bytes * height > length, lambda: b"\0\0\0\0", lambda: b"")]
    )
    body = substr(body, 0, row_bytes * height)
    shape = tf.cast(tf.stack([height, row_bytes]), tf.int32)
    columns = tf.cast(width, tf.int32)

    def with_palette() -> tf.Tensor:
        per_byte = 8 // tf.maximum(bits, 1)
        shifts = tf.cast(8 - bits * (1 + tf.range(per_byte)), tf.uint8)
        values = tf.bitwise.right_shift(tf.reshape(tf.io.decode_raw(body, tf.uint8), [-1, 1]), shifts)
        values = tf.bitwise.bitwise_and(values, tf.cast(_power(bits) - 1, tf.uint8))
        rows = tf.reshape(values, [shape[0], -1])[:, :columns]
        return tf.gather(_palette(encoded, 14 + info_size, start, entry, bits), tf.cast(rows, tf.int32))

    def plain_24() -> tf.Tensor:
        rows = tf.reshape(tf.io.decode_raw(body, tf.uint8), shape)[:, : 3 * columns]
        return tf.reshape(rows, [shape[0], columns, 3])[..., ::-1]

    def masked(depth: int) -> tf.Tensor:
        words = tf.io.decode_raw(body, tf.uint16 if depth == 16 else tf.int32)
        words = tf.cast(tf.reshape(words, [shape[0], -1])[:, :columns], tf.int32)
        masks = tf.stack([number(header, MASKS_AT + 4 * position, 4) for position in range(3)])
        # Masks of zeros mean the usual ones, as in Pillow.
        given = has_masks & tf.reduce_any(masks > 0)
        masks = tf.where(given, masks, tf.constant(DEFAULT_MASKS[depth], tf.int64))
        return tf.stack([_channel(words, mask) for mask in tf.unstack(masks)], -1)

    depths = (24, 16, 32)
    branches = [plain_24, lambda: masked(16), lambda: masked(32), with_palette]
    which = tf.argmax(tf.stack([*(bits == depth for depth in depths), True]), output_type=tf.int32)
    pixels = tf.switch_case(which, branches)
    return tf.cond(top_down, lambda: pixels, lambda: tf.reverse(pixels, [0]))


def _power(exponent: tf.Tensor) -> tf.Tensor:
    """2 to the power of an int64."""
    return tf.bitwise.left_shift(tf.constant(1, tf.int64), exponent)


def _channel(words: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The levels 0..255 that a mask picks from words of 32 bits."""
    places = tf.bitwise.bitwise_and(tf.bitwise.right_shift(mask, tf.range(32, dtype=tf.int64)), 1)
    count = tf.reduce_sum(places)
    # Of more than 8 bits the upper 8 are enough.
    shift = tf.argmax(places) + tf.maximum(count - 8, 0)
    largest = tf.cast(_power(tf.minimum(count, 8)) - 1, tf.int32)
    levels = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, tf.cast(shift, tf.int32)), largest)
    return tf.cast(levels * 255 // tf.maximum(largest, 1), tf.uint8)


def _palette(
    encoded: tf.Tensor, start: tf.Tensor, pixels_at: tf.Tensor, entry: tf.Tensor, bits: tf.Tensor
) -> tf.Tensor:
    """uint8 [256, 3]; what lies beyond the file's palette is black."""
    # The palette ends where the pixels begin, whatever the header says of its length.
    end = tf.minimum(pixels_at, tf.cast(tf.strings.length(encoded), tf.int64))
    count = tf.clip_by_value((end - start) // entry, 0, _power(bits))
    colors = tf.reshape(tf.io.decode_raw(substr(encoded, start, entry * count), tf.uint8), [count, entry])
    # Colours are stored as blue, green, red and, but for OS/2 1, a zero.
    return tf.pad(colors[:, 2::-1], [[0, 256 - count], [0, 0]])
