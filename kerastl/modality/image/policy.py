"""A RandAugment-like policy: a few random operations of one common strength.

After Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space"
(2020). The operations and their widest ranges are the paper's (as in torchvision's `RandAugment`), with
the strength on a scale of 0 to 1 instead of 0 to 30.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tensorflow as tf

from kerastl.modality.image.warp import affine, warp

# ITU-R 601-2, the luma that Pillow uses.
LUMA = (0.299, 0.587, 0.114)

Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def apply_policy(pixels: tf.Tensor, draws: tf.Tensor, operations: int, magnitude: float) -> tf.Tensor:
    """Apply random operations, one after the other.

    Args:
        pixels: float32 [height, width, 3], whole numbers 0..255.
        draws: float32 [operations, 2], uniform in [0, 1): which operation, and to which side.
        operations: how many.
        magnitude: strength, 0..1; 0 changes nothing.

    Returns:
        float32 [height, width, 3], whole numbers 0..255.
    """
    if magnitude == 0:
        return pixels
    strength = tf.constant(magnitude, tf.float32)

    def apply_one(step: tf.Tensor, current: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        which = tf.minimum(tf.cast(draws[step, 0] * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
        side = tf.where(draws[step, 1] < 0.5, -1.0, 1.0)
        branches = [partial(_apply, operation, current, strength, side) for operation in OPERATIONS.values()]
        return step + 1, tf.ensure_shape(tf.switch_case(which, branches), pixels.shape)

    # A loop of the graph, not of Python: unrolled, every operation would be traced once for each step.
    start = (tf.constant(0), pixels)
    return tf.while_loop(lambda step, _: step < operations, apply_one, start, maximum_iterations=operations)[
        1
    ]


def grey(pixels: tf.Tensor) -> tf.Tensor:
    """Luma of RGB pixels: [..., 3] to [..., 1]."""
    return tf.reduce_sum(pixels * tf.constant(LUMA), axis=-1, keepdims=True)


def exact_mean(pixels: tf.Tensor) -> tf.Tensor:
    """Mean colour [3] of whole-numbered pixels, the same to the bit in whatever order threads add up."""
    count = tf.cast(tf.size(pixels) // 3, tf.float32)
    return tf.cast(tf.reduce_sum(tf.cast(pixels, tf.int32), axis=[0, 1]), tf.float32) / count


def whole_levels(pixels: tf.Tensor) -> tf.Tensor:
    """Rounded to whole numbers and clipped to 0..255, still in float32."""
    return tf.clip_by_value(tf.round(pixels), 0.0, 255.0)


def _apply(operation: Operation, pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    return whole_levels(operation(pixels, strength, side))


def _blend(other: tf.Tensor, pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`other` at factor 0, `pixels` at 1, beyond them above 1 (Pillow's ImageEnhance)."""
    return other + factor * (pixels - other)


def _autocontrast(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    low = tf.reduce_min(pixels, axis=[0, 1])
    high = tf.reduce_max(pixels, axis=[0, 1])
    spread = high - low
    return tf.where(spread > 0, (pixels - low) * 255.0 / tf.maximum(spread, 1.0), pixels)


def _equalize(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Pillow's `ImageOps.equalize`: each channel's histogram becomes flat."""
    values = tf.cast(pixels, tf.int32)
    channels = []
    for channel in range(3):
        level = values[..., channel]
        histogram = tf.math.bincount(tf.reshape(level, [-1]), minlength=256, maxlength=256)
        used = tf.boolean_mask(histogram, histogram > 0)
        step = (tf.reduce_sum(used) - used[-1]) // 255
        below = tf.cumsum(histogram, exclusive=True)
        table = tf.clip_by_value((below + step // 2) // tf.maximum(step, 1), 0, 255)
        channels.append(tf.where(step > 0, tf.gather(table, level), level))
    return tf.cast(tf.stack(channels, axis=-1), tf.float32)


def _posterize(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    step = tf.pow(2.0, tf.round(4.0 * strength))
    return tf.floor(pixels / step) * step


def _solarize(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    return tf.where(pixels >= 256.0 * (1.0 - strength), 255.0 - pixels, pixels)


def _color(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    return _blend(grey(pixels), pixels, 1.0 + side * 0.9 * strength)


def _contrast(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    return _blend(grey(exact_mean(pixels)), pixels, 1.0 + side * 0.9 * strength)


def _brightness(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    return pixels * (1.0 + side * 0.9 * strength)


def _sharpness(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Towards or away from Pillow's SMOOTH filter (5 in the middle, 1 around, over 13)."""
    padded = tf.pad(pixels, [[1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return _blend((around + 4.0 * pixels) / 13.0, pixels, 1.0 + side * 0.9 * strength)


def _moved(**widest: float) -> Operation:
    def operation(pixels: tf.Tensor, strength: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
        amounts = {name: side * strength * value for name, value in widest.items()}
        shape = tf.shape(pixels)
        return warp(pixels, affine(shape[0], shape[1], **amounts))

    return operation


OPERATIONS: dict[str, Operation] = {
    "identity": lambda pixels, strength, side: pixels,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _moved(shear_x=0.3),
    "shear_y": _moved(shear_y=0.3),
    "translate_x": _moved(translate_x=0.45),
    "translate_y": _moved(translate_y=0.45),
    "rotate": _moved(rotation_degrees=30.0),
}
"""Operations of the policy, all equally likely."""
