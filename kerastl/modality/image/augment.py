"""Random changes to a training image, as a pure function of its key.

There is no state: the key holds (seed, example id, view), and the same key gives the same bits, eagerly,
in tf.data with any number of threads and in any batch. Each choice has its own place among the numbers
drawn from the key, so turning one knob leaves the other knobs' choices as they were. Nothing of this
enters a saved model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from kerastl.modality.image.policy import apply_policy, exact_mean, grey, whole_levels
from kerastl.modality.image.recipe_keys import ImageAugment
from kerastl.modality.image.warp import affine, warp

AUGMENT_VERSION = 1
"""Goes up with any change here or in the modules beside it that changes a pixel of an augmented view."""

# The crop's range of shapes is Inception's (Szegedy et al. 2015, "Going deeper with convolutions").
CROP_LOWEST_ASPECT, CROP_HIGHEST_ASPECT = 3 / 4, 4 / 3
# The rectangle's ranges are those of Zhong et al. 2020, "Random erasing data augmentation".
ERASE_LOWEST_AREA, ERASE_HIGHEST_AREA = 0.02, 0.33
ERASE_LOWEST_ASPECT, ERASE_HIGHEST_ASPECT = 0.3, 3.3
# Places of the choices among a key's numbers; the policy's come behind them.
MIRROR, AREA, ASPECT, TOP, LEFT, ANGLE, BRIGHTNESS, CONTRAST, SATURATION = range(9)
ERASE, ERASE_AREA, ERASE_ASPECT, ERASE_TOP, ERASE_LEFT = range(9, 14)
FIXED_DRAWS = 16


def augment(pixels: tf.Tensor, key: tf.Tensor, recipe: ImageAugment) -> tf.Tensor:
    """Change an image at random: mirror, crop, rotate, policy, colour, erase, in this order.

    Args:
        pixels: uint8 [height, width, 3].
        key: int32 [2], from `example_keys`.
        recipe: what may change and how much, every knob given (the level is not looked at). MixUp and
            CutMix need a second image: see `kerastl.modality.image.mix`.

    Returns:
        uint8 [height, width, 3]. With every knob at its neutral value, the very pixels passed.
    """
    operations = _knob(recipe, "policy_operations") if _knob(recipe, "policy_magnitude") > 0 else 0
    draws = tf.random.stateless_uniform([FIXED_DRAWS + 2 * int(operations)], seed=key, alg="philox")
    # From here on whole numbers in float32, so that sums over pixels are exact.
    result = _move(tf.cast(pixels, tf.float32), draws, recipe)
    if operations:
        policy_draws = tf.reshape(draws[FIXED_DRAWS:], [int(operations), 2])
        result = apply_policy(result, policy_draws, int(operations), _knob(recipe, "policy_magnitude"))
    if _knob(recipe, "color") > 0:
        result = _recolor(result, draws, _knob(recipe, "color"))
    if _knob(recipe, "erase_probability") > 0:
        result = _erase(result, draws, _knob(recipe, "erase_probability"))
    return tf.cast(result, tf.uint8)


def batch_augment(pixels: tf.Tensor, keys: tf.Tensor, recipe: ImageAugment) -> tf.Tensor:
    """`augment` on each image of a batch; the same bits as one by one.

    In a tf.data pipeline, map `augment` before `batch` instead: it spreads over the cores.

    Args:
        pixels: uint8 [n, height, width, 3].
        keys: int32 [n, 2].
        recipe: see `augment`.

    Returns:
        uint8 [n, height, width, 3].
    """
    return tf.map_fn(
        lambda pair: augment(pair[0], pair[1], recipe),
        (pixels, keys),
        fn_output_signature=tf.TensorSpec(pixels.shape[1:], tf.uint8),
    )


@functools.cache
def augmenter(recipe: ImageAugment) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """`batch_augment` of a recipe, traced once: tracing anew for every batch would cost more than the work."""
    return tf.function(functools.partial(batch_augment, recipe=recipe), reduce_retracing=True)


def _knob(recipe: ImageAugment, name: str) -> float:
    value = getattr(recipe, name)
    if value is None:
        raise ValueError(
            f"augment.{name} is not given; resolve the recipe first (kerastl.recipe.rule.resolve)."
        )
    return value


def _between(draw: tf.Tensor, low: tf.Tensor | float, high: tf.Tensor | float) -> tf.Tensor:
    return low + draw * (high - low)


def _move(pixels: tf.Tensor, draws: tf.Tensor, recipe: ImageAugment) -> tf.Tensor:
    """Mirror, crop and rotate."""
    mirror = tf.constant(False)
    if _knob(recipe, "horizontal_flip"):
        mirror = draws[MIRROR] < 0.5
    smallest, widest = _knob(recipe, "crop_min_area"), _knob(recipe, "rotation_degrees")
    if smallest >= 1 and widest == 0:
        if not _knob(recipe, "horizontal_flip"):
            return pixels
        return tf.cond(mirror, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    crop = tf.stack(_random_crop(draws, smallest)) if smallest < 1 else (0.0, 0.0, 1.0, 1.0)
    angle = _between(draws[ANGLE], -widest, widest) if widest > 0 else 0.0
    shape = tf.shape(pixels)
    moved = warp(pixels, affine(shape[0], shape[1], crop=crop, mirror=mirror, rotation_degrees=angle))
    return whole_levels(moved)


def _random_crop(draws: tf.Tensor, smallest: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Top, left, height and width, as shares of the image, of a part of random area and shape."""
    area = _between(draws[AREA], smallest, 1.0)
    # Limits of the shape at which a part of this area still fits: no second try, and no smaller area.
    low = tf.maximum(tf.math.log(area), math.log(CROP_LOWEST_ASPECT))
    high = tf.minimum(-tf.math.log(area), math.log(CROP_HIGHEST_ASPECT))
    aspect = tf.exp(_between(draws[ASPECT], low, high))
    height = tf.minimum(tf.sqrt(area / aspect), 1.0)
    width = tf.minimum(tf.sqrt(area * aspect), 1.0)
    return draws[TOP] * (1.0 - height), draws[LEFT] * (1.0 - width), height, width


def _recolor(pixels: tf.Tensor, draws: tf.Tensor, widest: float) -> tf.Tensor:
    """Brightness, then contrast about the mean grey, then saturation; clipped once, at the end."""
    brightness = _between(draws[BRIGHTNESS], 1.0 - widest, 1.0 + widest)
    contrast = _between(draws[CONTRAST], 1.0 - widest, 1.0 + widest)
    saturation = _between(draws[SATURATION], 1.0 - widest, 1.0 + widest)
    middle = (1.0 - contrast) * brightness * grey(exact_mean(pixels))
    # Without clipping in between, the three changes are one map of each pixel and its grey.
    gain = contrast * brightness
    recolored = pixels * (gain * saturation) + (grey(pixels) * (gain * (1.0 - saturation)) + middle)
    return whole_levels(recolored)


def _erase(pixels: tf.Tensor, draws: tf.Tensor, probability: float) -> tf.Tensor:
    """Fill a random rectangle with the image's mean colour."""
    shape = tf.shape(pixels)
    rows, columns = tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)
    area = _between(draws[ERASE_AREA], ERASE_LOWEST_AREA, ERASE_HIGHEST_AREA)
    # As for the crop: only shapes at which the rectangle fits.
    low = tf.maximum(tf.math.log(area), math.log(ERASE_LOWEST_ASPECT))
    high = tf.minimum(-tf.math.log(area), math.log(ERASE_HIGHEST_ASPECT))
    aspect = tf.exp(_between(draws[ERASE_ASPECT], low, high))
    height = tf.clip_by_value(tf.round(tf.sqrt(area / aspect) * rows), 1.0, rows)
    width = tf.clip_by_value(tf.round(tf.sqrt(area * aspect) * columns), 1.0, columns)
    top = tf.floor(draws[ERASE_TOP] * (rows - height + 1.0))
    left = tf.floor(draws[ERASE_LEFT] * (columns - width + 1.0))
    row, column = tf.range(rows)[:, tf.newaxis, tf.newaxis], tf.range(columns)[tf.newaxis, :, tf.newaxis]
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return tf.where(inside & (draws[ERASE] < probability), tf.round(exact_mean(pixels)), pixels)
