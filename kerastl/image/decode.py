"""From encoded bytes to pixels: the one function that training, evaluation and serving all use.

It consists of TensorFlow operations alone and is traced into the exported SavedModel, so a served
image is decoded, turned and resized by the very code that decoded the training images.

Pixels agree bit for bit with Pillow's `convert("RGB")` except where noted:

- 16-bit grey PNG keeps the upper 8 of its 16 bits; Pillow clips everything above 255 to white.
- Transparent pixels of a GIF are black; Pillow shows the palette's colour. Alpha is dropped elsewhere.
- BMP with 1, 4 or 16 bits a pixel, run-length coding or an OS/2 header is refused.
- EXIF orientation is honoured in JPEG, not in PNG or WebP, where cameras do not write it.
- A JPEG much larger than the network's input is decoded at a half, a quarter or an eighth of its size, from
  which it is then resized: about a level away from decoding all of it, in a fraction of the time.
"""

from __future__ import annotations

import tensorflow as tf

from kerastl.image.orientation import exif_orientation, upright

DECODE_VERSION = 2
"""Goes up when the pixels of any image change, so that stored features are made anew."""

PIXELS_AT_MOST = 178_956_970
"""Larger images are refused before memory is taken for them; where Pillow, too, sees a decompression bomb."""

HEADER_BYTES = 64
JPEG, PNG, GIF, BMP, WEBP = MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
"""What files of these formats begin with; RIFF is followed by WEBP, four bytes on."""

# A JPEG is decoded smaller by the largest of these factors at which its shorter side stays at least twice the
# network's input: the antialiasing that follows then hides how the smaller version was made.
JPEG_FACTORS = (1, 2, 4, 8)
JPEG_MARGIN = 2


def decode(encoded: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Decode an image to the network's size.

    Works eagerly, in `tf.data.Dataset.map` and in `tf.map_fn` inside a SavedModel.

    Args:
        encoded: scalar string, the bytes of a JPEG, PNG, GIF, BMP or WebP file. Of an animation, the
            first frame counts.
        image_size: side of the result in pixels.
        resize: `stretch` to the square; `crop` the middle square, then resize it; `pad` to the square
            with black, the image in the middle.

    Returns:
        uint8 [image_size, image_size, 3], RGB, upright by its EXIF orientation.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image, are cut off, or hold more than
            `PIXELS_AT_MOST` pixels.
    """
    return resize_pixels(decode_original(encoded, JPEG_MARGIN * image_size), image_size, resize)


def check_formats(encoded: tf.Tensor) -> tf.Operation:
    """Fail where any of many images is no image by its first bytes, and say which one.

    `decode` in a `tf.map_fn` cannot tell the position of the image that it fails on; this can, for what is no image at
    all: an empty string, a text, another format.

    Args:
        encoded: string [n].

    Returns:
        An operation to wait for. It raises tf.errors.InvalidArgumentError that names the first position.
    """
    known = tf.zeros_like(encoded, tf.bool)
    for magic in MAGIC:
        known |= tf.strings.substr(encoded, 0, len(magic)) == magic
    wrong = tf.where(~known)[:1, 0]
    position = tf.strings.as_string(wrong)
    return tf.debugging.Assert(
        tf.reduce_all(known),
        [tf.strings.join(["image ", position, " is empty or no JPEG, PNG, GIF, BMP or WebP file"])],
    )


def decode_original(encoded: tf.Tensor, enough: int | None = None) -> tf.Tensor:
    """Decode an image at its own size; see `decode`.

    Args:
        encoded: scalar string.
        enough: pixels of the shorter side that are needed; a JPEG with more may be decoded smaller.

    Returns:
        uint8 [height, width, 3], RGB, upright by its EXIF orientation.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    header = tf.io.decode_raw(
        tf.strings.join([tf.strings.substr(encoded, 0, HEADER_BYTES), b"\0" * HEADER_BYTES]), tf.uint8
    )
    header = tf.cast(header[:HEADER_BYTES], tf.int64)
    branches = (
        (_starts(header, JPEG), lambda encoded, header: _decode_jpeg(encoded, enough)),
        (_starts(header, WEBP) & _starts(header[8:], b"WEBP"), _decode_webp),
        (_starts(header, BMP), _decode_bmp),
        (_starts(header, PNG), _decode_png),
        (_starts(header, GIF), _decode_gif),
    )
    matches = tf.stack([matches for matches, _ in branches] + [tf.constant(True)])
    which = tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32)
    functions = [lambda function=function: function(encoded, header) for _, function in branches]
    pixels = tf.switch_case(which, [*functions, lambda: _decode_other(encoded)])
    pixels.set_shape([None, None, 3])
    return pixels


def resize_pixels(pixels: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Bring decoded pixels to the network's size; see `decode`.

    Bilinear with antialiasing, as Pillow's `BILINEAR` does: without it, photographs made much smaller
    differ by up to 8 levels.

    Args:
        pixels: uint8 [height, width, 3].
        image_size: side of the result in pixels.
        resize: `stretch`, `crop` or `pad`.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    shape = tf.shape(pixels)
    height, width = shape[0], shape[1]
    if resize == "stretch":
        result = _scale(pixels, [image_size, image_size])
    elif resize == "crop":
        # The square is cut first: scaling a 10,000 x 10 image up to be cut afterwards would fill the memory.
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        result = _scale(pixels[top : top + side, left : left + side], [image_size, image_size])
    elif resize == "pad":
        longer = tf.maximum(height, width)
        # Integer arithmetic rounds halves up on every machine; at least one pixel of a thin image stays.
        new_height = tf.maximum((2 * height * image_size + longer) // (2 * longer), 1)
        new_width = tf.maximum((2 * width * image_size + longer) // (2 * longer), 1)
        top, left = (image_size - new_height) // 2, (image_size - new_width) // 2
        scaled = _scale(pixels, tf.stack([new_height, new_width]))
        bottom, right = image_size - new_height - top, image_size - new_width - left
        result = tf.pad(scaled, [[top, bottom], [left, right], [0, 0]])
    else:
        raise ValueError(f"Unknown resize {resize!r}. Expected one of: stretch, crop, pad.")
    return tf.ensure_shape(result, [image_size, image_size, 3])


def _scale(pixels: tf.Tensor, size: tf.Tensor | list[int]) -> tf.Tensor:
    scaled = tf.image.resize(pixels, size, method="bilinear", antialias=True)
    return tf.saturate_cast(tf.round(scaled), tf.uint8)


def _starts(header: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.reduce_all(header[: len(magic)] == tf.constant(list(magic), tf.int64))


def _number(header: tf.Tensor, start: int, count: int, big_endian: bool = False) -> tf.Tensor:
    """The unsigned number in `count` bytes of a header."""
    powers = [1 << (8 * position) for position in range(count)]
    weights = powers[::-1] if big_endian else powers
    return tf.reduce_sum(header[start : start + count] * tf.constant(weights, tf.int64))


def _check_pixels(height: tf.Tensor, width: tf.Tensor) -> tf.Operation | None:
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    # Dividing instead of multiplying: two 32-bit sides of a hostile header overflow no product.
    fits = height <= PIXELS_AT_MOST // tf.maximum(width, 1)
    return tf.debugging.Assert(
        fits, ["image too large:", width, "x", height, "pixels; at most", PIXELS_AT_MOST]
    )


def _decode_jpeg(encoded: tf.Tensor, enough: int | None) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)

    def at(factor: int) -> tf.Tensor:
        # TensorFlow's default method differs from libjpeg's (and so from Pillow) by up to 3 levels.
        return tf.io.decode_jpeg(encoded, channels=3, ratio=factor, dct_method="INTEGER_ACCURATE")

    with tf.control_dependencies(_operations(_check_pixels(shape[0], shape[1]))):
        if enough is None:
            pixels = at(1)
        else:
            shorter = tf.minimum(shape[0], shape[1])
            fits = [tf.cast(shorter // factor >= enough, tf.int32) for factor in JPEG_FACTORS[1:]]
            pixels = tf.switch_case(
                tf.add_n(fits), [lambda factor=factor: at(factor) for factor in JPEG_FACTORS]
            )
    return upright(pixels, exif_orientation(encoded))


def _decode_webp(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    # The extended format gives the canvas; the two simple ones cannot pass 16,383 pixels a side.
    is_extended = _starts(header[12:], b"VP8X")
    width = tf.where(is_extended, _number(header, 24, 3) + 1, 1)
    height = tf.where(is_extended, _number(header, 27, 3) + 1, 1)
    with tf.control_dependencies(_operations(_check_pixels(height, width))):
        # Asking for 3 channels fails where there is alpha, which includes every animation.
        return tf.io.decode_image(encoded, channels=0, expand_animations=False)[..., :3]


def _decode_bmp(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    width, height = _number(header, 18, 4), _number(header, 22, 4)
    # A negative height, here beyond 2^31, stands for rows from the top down.
    height = tf.minimum(height, (1 << 32) - height)
    has_palette = _number(header, 28, 2) == 8
    info_size = _number(header, 14, 4)
    supported = tf.debugging.Assert(info_size >= 40, ["bmp with an OS/2 header; convert it to png"])

    def with_palette() -> tf.Tensor:
        # TensorFlow takes the palette's indices for grey levels, without a word.
        length = tf.cast(tf.strings.length(encoded), tf.int64)
        start = tf.minimum(14 + info_size, length)
        count = tf.clip_by_value((_number(header, 10, 4) - start) // 4, 0, 256)
        count = tf.minimum(count, (length - start) // 4)
        palette = tf.io.decode_raw(tf.strings.substr(encoded, start, 4 * count), tf.uint8)
        # Colours are stored as blue, green, red, zero; indices beyond the palette are black.
        palette = tf.pad(tf.reshape(palette, [-1, 4])[:, 2::-1], [[0, 256 - count], [0, 0]])
        indices = tf.io.decode_bmp(encoded, channels=0)[..., 0]
        return tf.gather(palette, tf.cast(indices, tf.int32))

    with tf.control_dependencies(_operations(_check_pixels(height, width), supported)):
        return tf.cond(
            has_palette,
            with_palette,
            lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        )


def _decode_png(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    width, height = _number(header, 16, 4, big_endian=True), _number(header, 20, 4, big_endian=True)
    with tf.control_dependencies(_operations(_check_pixels(height, width))):
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _decode_gif(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies(_operations(_check_pixels(_number(header, 8, 2), _number(header, 6, 2)))):
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _operations(*checks: tf.Operation | None) -> list[tf.Operation]:
    """Eagerly a check has run and is None; in a graph it is an operation to wait for."""
    return [check for check in checks if check is not None]
