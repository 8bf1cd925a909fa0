"""Images that TensorFlow does not decode, turned into PNG first; and how many of 16 bits they use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import tensorflow as tf

from kerastl.modality.image.decode import decode, is_served
from kerastl.modality.image.files import as_png, format_of, reason_of


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


def describe_failure(error: tf.errors.OpError) -> str:
    """Why an image could not be read or decoded, in one short line without TensorFlow's own framing."""
    return reason_of(error.message or "") or type(error).__name__


def bits_used(images: Iterable[bytes]) -> int:
    """Bits of the brightest level among images of 16 bits, 8..16; 16 where no image has 16 bits.

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
