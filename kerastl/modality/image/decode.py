"""From encoded bytes to pixels: the one function that training, evaluation and serving all use.

It consists of TensorFlow operations alone and is traced into the exported SavedModel, so a served
image is decoded, turned and resized by the very code that decoded the training images.

Pixels agree bit for bit with Pillow's `convert("RGB")` except where noted; `tests/test_decode_pillow.py` compares them on
Pillow's own test images:

- PNG of 16 bits keeps the upper 8 of the bits that are said to be used; Pillow clips grey above 255 to white.
- Transparency is dropped: what shows is the colour that stands behind it in the file.
- BMP that is run-length coded, or holds a JPEG or PNG, is refused, and so is GIF with codes of more than 8 bits.
- Orientation in Exif or XMP is applied, as `ImageOps.exif_transpose` does.
- Of CMYK some pixels are a level away.
- A JPEG much larger than the network's input is decoded at a half, a quarter or an eighth of its size, from
  which it is then resized: about a level away from decoding all of it, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import tensorflow as tf

from kerastl.modality.image.bmp import decode_bmp
from kerastl.modality.image.gif import decode_gif
from kerastl.modality.image.header import as_bytes, check_pixels, number, operations, starts, substr
from kerastl.modality.image.orientation import jpeg_orientation, png_orientation, upright, webp_orientation

DECODE_VERSION = 3
"""Goes up when the pixels of any image change, so that stored features are made anew."""

HEADER_BYTES = 128
WEBP_ALPHA = 0x10
WHOLE = 1 << 62  # as far as the string goes
KINDS = {
    "jpeg": (b"\xff\xd8", b""),
    "webp": (b"RIFF", b"WEBP"),
    "bmp": (b"BM", b""),
    "png": (b"\x89PNG", b""),
    "gif": (b"GIF8", b""),
}
"""Formats, and the bytes that their files begin with: at their start, and eight bytes on."""
MAGIC = tuple(magic for magic, _ in KINDS.values())

# A JPEG is decoded smaller by the largest of these factors at which its shorter side stays at least twice the
# network's input: the antialiasing that follows then hides how the smaller version was made.
JPEG_FACTORS = (1, 2, 4, 8)
JPEG_MARGIN = 2


@tf.autograph.experimental.do_not_convert  # it finds nothing to convert and takes seconds to find that out
def decode(
    encoded: tf.Tensor, image_size: int, resize: str, significant_bits: int = 16, kind: str | None = None
) -> tf.Tensor:
    """Decode an image to the network's size.

    Works eagerly, in `tf.data.Dataset.map` and in `tf.map_fn` inside a SavedModel.

    Args:
        encoded: scalar string, the bytes of a JPEG, PNG, GIF, BMP or WebP file. Of an animation, the
            first frame counts.
        image_size: side of the result in pixels.
        resize: `stretch` to the square; `crop` the middle square, then resize it; `pad` to the square
            with black, the image in the middle.
        significant_bits: 8..16, of PNG files of 16 bits: white is 2 to the power of this.
        kind: what `kind_of` says of all images that are going to be decoded; None if that is not known. A graph for one format
            has a fifth of the operations.

    Returns:
        uint8 [image_size, image_size, 3], RGB, upright by its Exif or XMP orientation.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image, are cut off, or hold more than
            `PIXELS_AT_MOST` pixels.
    """
    pixels = decode_original(encoded, JPEG_MARGIN * image_size, significant_bits, kind)
    return resize_pixels(pixels, image_size, resize)


def check_formats(encoded: tf.Tensor) -> tf.Operation:
    """Fail where any of many images is no image by its first bytes, and say which one.

    `decode` in a `tf.map_fn` cannot tell the position of the image that it fails on; this can, for what is no image at
    all: an empty string, a text, another format.

    Args:
        encoded: string [n].

    Returns:
        An operation to wait for. It raises tf.errors.InvalidArgumentError that names the first position.
    """
    known = is_served(encoded)
    wrong = tf.where(~known)[:1, 0]
    position = tf.strings.as_string(wrong)
    return tf.debugging.Assert(
        tf.reduce_all(known),
        [tf.strings.join(["image ", position, " is empty or no JPEG, PNG, GIF, BMP or WebP file"])],
    )


def is_served(encoded: tf.Tensor) -> tf.Tensor:
    """True where bytes (string of any shape) begin like one of the formats that `decode` takes; bool."""
    known = tf.zeros_like(encoded, tf.bool)
    for magic in MAGIC:
        known |= tf.strings.substr(encoded, 0, len(magic)) == magic
    return known


@tf.autograph.experimental.do_not_convert
def decode_original(
    encoded: tf.Tensor, enough: int | None = None, significant_bits: int = 16, kind: str | None = None
) -> tf.Tensor:
    """Decode an image at its own size; see `decode`.

    Args:
        encoded: scalar string.
        enough: pixels of the shorter side that are needed; a JPEG with more may be decoded smaller.
        significant_bits: see `decode`.
        kind: see `decode`.

    Returns:
        uint8 [height, width, 3], RGB, upright by its EXIF orientation.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    header = tf.io.decode_raw(
        tf.strings.join([tf.strings.substr(encoded, 0, HEADER_BYTES), b"\0" * HEADER_BYTES]), tf.uint8
    )
    header = tf.cast(header[:HEADER_BYTES], tf.int64)
    decoders: dict[str, tuple[Any, ...]] = {
        "jpeg": (_decode_jpeg, enough),
        "webp": (_decode_webp,),
        "bmp": (decode_bmp,),
        "png": (_decode_png, significant_bits),
        "gif": (decode_gif,),
        "": (_decode_other,),
    }
    if kind is not None or tf.executing_eagerly():
        decoder, *settings = decoders[kind_of(encoded.numpy()) if kind is None else kind]
        return decoder(encoded, header, *settings)
    matches = [starts(header, magic) & starts(header[8:], more) for magic, more in KINDS.values()]
    which = tf.argmax(tf.cast(tf.stack([*matches, True]), tf.int32), output_type=tf.int32)
    # Not `tf.switch_case`, which TensorFlow takes apart into the operations of all branches: telling those of the other formats
    # that they are not needed takes as long as to decode a small image.
    # A branch runs on the device of the operation, which would be a GPU where there is one; decoders are made for processors.
    with tf.device("CPU:0"):
        (pixels,) = tf.raw_ops.Case(
            branch_index=which,
            input=[encoded, header],
            Tout=[tf.uint8],
            branches=[_graph(*decoders[name]) for name in (*KINDS, "")],
            output_shapes=[tf.TensorShape([None, None, 3])],
        )
    pixels.set_shape([None, None, 3])
    return pixels


def kind_of(encoded: bytes) -> str:
    """The format that `decode` takes an image for, by its first bytes; '' for none that it knows."""
    kinds = (
        name
        for name, (magic, more) in KINDS.items()
        if encoded.startswith(magic) and encoded[8:12].startswith(more)
    )
    return next(kinds, "")


@cache
def _graph(decoder: Callable[..., tf.Tensor], *settings: int | None) -> Callable[..., tf.Tensor]:
    """A format's decoder as a graph that other graphs call; it takes a file and its first bytes as numbers."""
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([HEADER_BYTES], tf.int64)]
    # Out of the graph that is being made, whose device and names it would keep.
    with tf.init_scope(), tf.device("CPU:0"), tf.name_scope(""):
        traced = tf.function(
            lambda encoded, header: decoder(encoded, header, *settings),
            input_signature=signature,
            autograph=False,
        )
        return traced.get_concrete_function()


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


def _decode_jpeg(encoded: tf.Tensor, header: tf.Tensor, enough: int | None) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)

    def at(factor: int) -> tf.Tensor:
        # TensorFlow's default method differs from libjpeg's (and so from Pillow) by up to 3 levels.
        return tf.io.decode_jpeg(encoded, channels=3, ratio=factor, dct_method="INTEGER_ACCURATE")

    with tf.control_dependencies(operations(check_pixels(shape[0], shape[1]))):
        if enough is None:
            pixels = at(1)
        else:
            shorter = tf.minimum(shape[0], shape[1])
            fits = [tf.cast(shorter // factor >= enough, tf.int32) for factor in JPEG_FACTORS[1:]]
            pixels = tf.switch_case(
                tf.add_n(fits), [lambda factor=factor: at(factor) for factor in JPEG_FACTORS]
            )
    return upright(pixels, jpeg_orientation(encoded))


def _decode_webp(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    # The extended format gives the canvas; the two simple ones cannot pass 16,383 pixels a side.
    is_extended = starts(header[12:], b"VP8X")
    width = tf.where(is_extended, number(header, 24, 3) + 1, 1)
    height = tf.where(is_extended, number(header, 27, 3) + 1, 1)
    # An animation is decoded with alpha into memory for as many channels as the alpha flag announces: without the
    # flag TensorFlow 2.21 writes beyond its end. Of a still picture without alpha the flag makes an opaque one.
    flags = tf.where(is_extended, tf.bitwise.bitwise_or(header[20:21], WEBP_ALPHA), header[20:21])
    flagged = tf.strings.join([substr(encoded, 0, 20), as_bytes(flags), substr(encoded, 21, WHOLE)])
    with tf.control_dependencies(operations(check_pixels(height, width))):
        # Asking for 3 channels fails where there is alpha, which includes every animation.
        pixels = tf.io.decode_image(flagged, channels=0, expand_animations=False)[..., :3]
    return upright(pixels, webp_orientation(encoded, header))


def _decode_png(encoded: tf.Tensor, header: tf.Tensor, significant_bits: int) -> tf.Tensor:
    width, height = number(header, 16, 4, big_endian=True), number(header, 20, 4, big_endian=True)

    def sixteen_bits() -> tf.Tensor:
        levels = tf.cast(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16), tf.int32)
        return tf.cast(tf.minimum(tf.bitwise.right_shift(levels, significant_bits - 8), 255), tf.uint8)

    with tf.control_dependencies(operations(check_pixels(height, width))):
        pixels = tf.cond(header[24] == 16, sixteen_bits, lambda: tf.io.decode_png(encoded, channels=3))
    return upright(pixels, png_orientation(encoded))


def _decode_other(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)
