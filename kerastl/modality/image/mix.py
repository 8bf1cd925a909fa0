"""MixUp and CutMix: a training image blended with, or pasted over by, another one.

Zhang et al. 2018, "mixup: Beyond empirical risk minimization"; Yun et al. 2019, "CutMix: Regularization
strategy to train strong classifiers with localizable features". Who is mixed with whom, and how much, is
planned ahead as a pure function of (seed, example id, view).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from kerastl.modality import Batch
from kerastl.modality.draws import example_hashes, uniforms
from kerastl.modality.image import PIXELS


@dataclass(frozen=True)
class MixPlan:
    """For each example of a split, what it is mixed with.

    Attributes:
        partner: int64 [n], position in the split of the other image; its own where nothing is mixed.
        ratio: float32 [n], the example's own share of pixels and label, 0..1; 1 where nothing is mixed.
        box: float32 [n, 4], top, left, bottom and right of the partner's part as shares of the image for
            CutMix; zeros for MixUp.
    """

    partner: np.ndarray
    ratio: np.ndarray
    box: np.ndarray

    def mix(self, own: Batch, others: Batch, positions: np.ndarray) -> Batch:
        """See `kerastl.modality.Mixing`."""
        ratio, box = self.ratio[positions], self.box[positions]
        return {PIXELS: mix(own[PIXELS], others[PIXELS], ratio, box).numpy()}


def mix_plan(
    ids: Sequence[str] | np.ndarray,
    seed: int,
    view: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    image_size: int,
) -> MixPlan:
    """Plan the mixing of one view of a split.

    Ratio and box of an example depend on (seed, id, view) alone. Its partner also depends on which
    examples the split has, and in which order: it is a position among them.

    Args:
        ids: identities of the split's examples, in its order.
        seed: seed of the run.
        view: which version of the examples (or which epoch).
        mixup_alpha: both parameters of MixUp's Beta distribution; 0 for no MixUp.
        cutmix_alpha: the same for CutMix; 0 for none. With both, each takes a random half of the examples.
        image_size: side of the images in pixels; boxes lie on whole pixels.

    Returns:
        The plan. A CutMix ratio is the share of the area that truly remains, after clipping and rounding.
    """
    count = len(ids)
    own = np.arange(count, dtype=np.int64)
    if not count or (mixup_alpha == 0 and cutmix_alpha == 0):
        return MixPlan(own, np.ones(count, np.float32), np.zeros((count, 4), np.float32))
    draws = uniforms(example_hashes(ids, seed, view, "mix"), 5)
    is_cutmix = np.full(count, cutmix_alpha > 0)
    if mixup_alpha > 0 and cutmix_alpha > 0:
        is_cutmix = draws[:, 0] < 0.5
    alpha = np.where(is_cutmix, cutmix_alpha, mixup_alpha)
    # The inverse of Beta's distribution function turns a hash into a draw, for all examples at once.
    ratio = np.clip(betaincinv(alpha, alpha, draws[:, 1]), 0.0, 1.0)
    box, remaining = _boxes(ratio, draws[:, 3], draws[:, 4], image_size)
    partner = np.minimum((draws[:, 2] * count).astype(np.int64), count - 1)
    return MixPlan(
        partner=partner,
        ratio=np.where(is_cutmix, remaining, ratio).astype(np.float32),
        box=np.where(is_cutmix[:, None], box, 0.0).astype(np.float32),
    )


def mix(pixels_a: tf.Tensor, pixels_b: tf.Tensor, ratio: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Mix two images, or two batches of them pair by pair, as a plan says.

    Args:
        pixels_a: uint8 [..., height, width, 3], the examples' own images.
        pixels_b: uint8, of the same shape, their partners'.
        ratio: float32 [...], share of `pixels_a`.
        box: float32 [..., 4], from `MixPlan`.

    Returns:
        uint8 [..., height, width, 3]; the very `pixels_a` where the ratio is 1.
    """
    shape = tf.shape(pixels_a)
    height, width = shape[-3], shape[-2]
    edges = tf.convert_to_tensor(box, tf.float32)
    rows_columns = tf.cast(tf.stack([height, width, height, width]), tf.float32)
    edges = tf.cast(tf.round(edges * rows_columns), tf.int32)[..., tf.newaxis, tf.newaxis, tf.newaxis, :]
    top, left, bottom, right = tf.unstack(edges, num=4, axis=-1)
    row, column = tf.range(height)[:, tf.newaxis, tf.newaxis], tf.range(width)[tf.newaxis, :, tf.newaxis]
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    share = tf.convert_to_tensor(ratio, tf.float32)[..., tf.newaxis, tf.newaxis, tf.newaxis]
    # CutMix keeps whole pixels: its ratio belongs to the label alone.
    is_cutmix = (bottom > top) & (right > left)
    share = tf.where(is_cutmix, tf.where(inside, 0.0, 1.0), share)
    blended = share * tf.cast(pixels_a, tf.float32) + (1.0 - share) * tf.cast(pixels_b, tf.float32)
    return tf.saturate_cast(tf.round(blended), tf.uint8)


def _boxes(
    ratio: np.ndarray, middle_y: np.ndarray, middle_x: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """CutMix's boxes, clipped at the border, and the share of the area outside each."""
    half = np.sqrt(1.0 - ratio) / 2.0
    edges = np.stack([middle_y - half, middle_x - half, middle_y + half, middle_x + half], axis=1)
    edges = np.rint(np.clip(edges, 0.0, 1.0) * image_size)
    area = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    # A box without area would be taken for MixUp; all zeros and ratio 1 leave the image as it is.
    edges[area == 0] = 0.0
    return edges / image_size, 1.0 - area / image_size**2
