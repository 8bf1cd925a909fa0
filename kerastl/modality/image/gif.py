"""The first frame of a GIF, on its screen, as Pillow shows it.

TensorFlow decodes the pixels. Its decoder puts a first frame that is smaller than the screen into no place, makes what
is transparent black, stops at an empty comment and unpacks every frame of an animation, however many there are, to
show the first. So it is given that frame alone, without what stands before it, and the screen is made here.
"""

from __future__ import annotations

import tensorflow as tf

from kerastl.modality.image.header import as_bytes, check_pixels, number, operations, substr

SCREEN_AT, TABLES_AT = 6, 13
EXTENSION, IMAGE, CONTROL = 0x21, 0x2C, 0xF9
DESCRIPTOR_BYTES = 10
# Blocks of data hold 255 bytes, but for the last: so many are passed over in one step.
BLOCKS_AT_ONCE = 4096
# Bounds the walks, whatever the bytes say: a file that would need more steps counts as damaged.
STEPS_AT_MOST = 65_536
# Reads beyond the end meet these zeros.
PADDING = b"\0" * 1024
GREYS = bytes(level for level in range(256) for _ in range(3))


def decode_gif(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a GIF.

    Args:
        encoded: scalar string, the whole file.
        header: int64 [n], its first 13 bytes at least, zeros behind its end.

    Returns:
        uint8 [height, width, 3]: transparent pixels have the colour that the palette gives them, and what the frame
        leaves free of the screen has the transparent colour, or else the palette's first.

    Raises:
        tf.errors.InvalidArgumentError: cut off, damaged or too large.
    """
    data = tf.io.decode_raw(tf.strings.join([encoded, PADDING]), tf.uint8)
    end = tf.size(data) - len(PADDING)
    global_bytes = _table_bytes(header[10])
    at, transparent = _first_image(data, end, TABLES_AT + global_bytes)
    descriptor = tf.cast(data[at : at + DESCRIPTOR_BYTES], tf.int64)
    left, top, width, height = (number(descriptor, 1 + 2 * place, 2) for place in range(4))
    local_bytes = _table_bytes(descriptor[9])
    frame_at = at + DESCRIPTOR_BYTES
    blocks_at = frame_at + local_bytes + 1
    frame_end = _behind_blocks(data, end, blocks_at)
    screen_width = tf.maximum(number(header, SCREEN_AT, 2), left + width)
    screen_height = tf.maximum(number(header, SCREEN_AT + 2, 2), top + height)
    whole = (descriptor[0] == IMAGE) & (frame_end <= end) & (width > 0) & (height > 0)
    checks = operations(
        tf.debugging.Assert(whole, ["invalid gif data"]), check_pixels(screen_height, screen_width)
    )
    with tf.control_dependencies(checks):
        frame = substr(encoded, frame_at, frame_end - frame_at)
    table = tf.cond(
        global_bytes > 0,
        lambda: substr(encoded, TABLES_AT, global_bytes),
        # Without any colours the numbers themselves are levels of grey.
        lambda: tf.constant(GREYS),
    )
    table_flags = tf.where(global_bytes > 0, header[10], 0xF7)
    sides = descriptor[5:9]
    whole_screen = as_bytes(tf.concat([sides, [table_flags, 0, 0]], 0))
    place = as_bytes(tf.concat([[IMAGE, 0, 0, 0, 0], sides, descriptor[9:]], 0))
    alone = tf.strings.join([b"GIF89a", whole_screen, table, place, frame, b";"])
    pixels = tf.io.decode_image(alone, channels=3, expand_animations=False)
    colors = tf.cond(local_bytes > 0, lambda: substr(encoded, frame_at, local_bytes), lambda: table)
    color = tf.io.decode_raw(tf.strings.join([substr(colors, 3 * transparent, 3), b"\0\0\0"]), tf.uint8)[:3]
    margins = tf.stack([[top, screen_height - top - height], [left, screen_width - left - width], [0, 0]])

    def on_screen() -> tf.Tensor:
        inside = tf.pad(tf.ones_like(pixels[..., :1], tf.bool), margins)
        return tf.where(inside, tf.pad(pixels, margins), color)

    return tf.cond(tf.reduce_any(margins > 0), on_screen, lambda: pixels)


def _table_bytes(flags: tf.Tensor) -> tf.Tensor:
    """int32 length of the colour table that a screen's or an image's flags announce; 0 for none."""
    size = tf.bitwise.left_shift(tf.constant(6, tf.int64), tf.bitwise.bitwise_and(flags, 7))
    return tf.cast(tf.where(flags >= 0x80, size, 0), tf.int32)


def _first_image(data: tf.Tensor, end: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Place where the first image begins (no further than `end`), and the colour that is transparent in it (0 for none)."""

    def going(at: tf.Tensor, transparent: tf.Tensor) -> tf.Tensor:
        return (at < end) & (data[tf.minimum(at, end)] != IMAGE)

    def step(at: tf.Tensor, transparent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.cast(data[at : at + 7], tf.int32)
        is_extension = window[0] == EXTENSION
        is_control = is_extension & (window[1] == CONTROL) & (window[2] >= 4) & (window[3] % 2 == 1)
        # As in Pillow, a byte that begins nothing is passed over.
        behind = tf.cond(is_extension, lambda: _behind_blocks(data, end, at + 2), lambda: at + 1)
        return tf.minimum(behind, end), tf.where(is_control, window[6], transparent)

    state = (tf.minimum(start, end), tf.constant(0))
    at, transparent = tf.while_loop(going, step, state, maximum_iterations=STEPS_AT_MOST)
    return tf.minimum(at, end), transparent


def _behind_blocks(data: tf.Tensor, end: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """End of a chain of data blocks: behind its block of length 0, or beyond `end` where that is missing."""

    def going(at: tf.Tensor, done: tf.Tensor) -> tf.Tensor:
        return ~done

    def step(at: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lengths = tf.cast(data[at : at + 256 * BLOCKS_AT_ONCE : 256], tf.int32)
        # Full blocks follow each other at known places; the first other one decides.
        full = tf.argmin(tf.cast(lengths == 255, tf.int32), output_type=tf.int32)
        full = tf.where(tf.reduce_all(lengths == 255), tf.size(lengths), full)
        at = at + 256 * full
        length = tf.cast(data[tf.minimum(at, end)], tf.int32)
        # The zeros behind the end stop this as well, one byte too far to count as an end.
        stop = (length == 0) | (at >= end)
        return tf.where(length == 255, at, at + 1 + length), stop

    state = (tf.minimum(start, end), tf.constant(False))
    at, done = tf.while_loop(going, step, state, maximum_iterations=STEPS_AT_MOST)
    return tf.where(done, at, end + 1)
