"""Moving pixels: one affine map and one bilinear interpolation, whatever the moves.

Crop, flip and rotation are folded into a single map, so that an image is interpolated, and thereby
softened, once. What a move uncovers is filled with the image's own reflection: black corners would be a
pattern that no test image has.
"""

from __future__ import annotations

import math

import tensorflow as tf


def affine(
    height: tf.Tensor,
    width: tf.Tensor,
    *,
    crop: tf.Tensor | tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    mirror: tf.Tensor | bool = False,
    rotation_degrees: tf.Tensor | float = 0.0,
    shear_x: tf.Tensor | float = 0.0,
    shear_y: tf.Tensor | float = 0.0,
    translate_x: tf.Tensor | float = 0.0,
    translate_y: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """The map from places in the result to places in the image, for `warp`.

    Args:
        height: rows of the image.
        width: columns of the image.
        crop: top, left, height and width of the part that fills the result, as shares of the image.
        mirror: whether left and right change places.
        rotation_degrees: counter-clockwise, about the middle.
        shear_x: columns a row further down is moved by.
        shear_y: rows a column further right is moved by.
        translate_x: share of the width by which the content moves right.
        translate_y: share of the height by which the content moves down.

    Returns:
        float32 [8], as `tf.raw_ops.ImageProjectiveTransformV3` takes it.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    middle_y, middle_x = (rows - 1.0) / 2.0, (columns - 1.0) / 2.0
    top, left, crop_height, crop_width = tf.unstack(tf.cast(tf.convert_to_tensor(crop), tf.float32), num=4)
    angle = tf.cast(rotation_degrees, tf.float32) * (math.pi / 180.0)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    side = tf.where(tf.convert_to_tensor(mirror), -1.0, 1.0)
    scale_x, scale_y = crop_width * side, crop_height
    # Read from the result's side: shear, mirror and shrink about the middle, turn, go to the crop's middle.
    shear_x, shear_y = tf.cast(shear_x, tf.float32), tf.cast(shear_y, tf.float32)
    xx, xy = scale_x, scale_x * shear_x
    yx, yy = scale_y * shear_y, scale_y
    a, b = cosine * xx - sine * yx, cosine * xy - sine * yy
    d, e = sine * xx + cosine * yx, sine * xy + cosine * yy
    target_x = (left + crop_width / 2.0 - tf.cast(translate_x, tf.float32)) * columns - 0.5
    target_y = (top + crop_height / 2.0 - tf.cast(translate_y, tf.float32)) * rows - 0.5
    c = target_x - a * middle_x - b * middle_y
    f = target_y - d * middle_x - e * middle_y
    return tf.stack([a, b, c, d, e, f, tf.zeros_like(a), tf.zeros_like(a)])


def warp(pixels: tf.Tensor, transform: tf.Tensor) -> tf.Tensor:
    """Fetch each pixel of the result from where an affine map says, reflecting at the border.

    Args:
        pixels: float32 [height, width, channels].
        transform: float32 [8], from `affine`.

    Returns:
        float32, of the same shape.
    """
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=tf.shape(pixels)[:2],
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    return tf.ensure_shape(warped[0], pixels.shape)
