"""The images of a split as the network sees them: decoded once, augmented as a pure function.

A view is one version of every image of a split. View 0 is the image itself; every other view is
determined by (seed, example id, view number) alone, so it can be made in any order, by any number of
threads, today or in a repeated run, and comes out the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from kerastl.image.augment import batch_augment
from kerastl.image.keys import example_keys
from kerastl.image.mix import MixPlan, mix, mix_labels, mix_plan
from kerastl.recipe import AugmentRecipe


@dataclass(frozen=True, eq=False)
class Views:
    """A split's decoded images and the changes made to them.

    Attributes:
        pixels: uint8 [n, size, size, 3], 0..255 RGB.
        targets: float32 [n, classes], one-hot (or multi-hot) labels.
        ids: identities of the examples, the source of their randomness.
        recipe: resolved augmentation; ignored for view 0.
        seed: the run's seed.
    """

    pixels: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    recipe: AugmentRecipe
    seed: int
    _keys: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _plans: dict[int, MixPlan | None] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.targets)

    def images(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Images at `positions`, uint8 [b, size, size, 3], all in one view or each in its own (int [b])."""
        return by_view(self._images, positions, view)

    def labels(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Labels at `positions`, float32 [b, classes]; soft where images were mixed."""
        return by_view(self._labels, positions, view)

    def _images(self, positions: np.ndarray, view: int) -> np.ndarray:
        if view == 0:
            return self.pixels[positions]
        changed = self._augmented(positions, view)
        plan = self._plan(view)
        if plan is None:
            return changed
        partners = self._augmented(plan.partner[positions], view)
        return mix(changed, partners, plan.ratio[positions], plan.box[positions]).numpy()

    def _labels(self, positions: np.ndarray, view: int) -> np.ndarray:
        own = self.targets[positions]
        plan = self._plan(view) if view else None
        if plan is None:
            return own
        return mix_labels(own, self.targets[plan.partner[positions]], plan.ratio[positions]).numpy()

    def _augmented(self, positions: np.ndarray, view: int) -> np.ndarray:
        if view not in self._keys:
            self._keys[view] = example_keys(self.ids, self.seed, view)
        keys = self._keys[view][positions]
        return _augmenter(self.recipe)(self.pixels[positions], keys).numpy()

    def _plan(self, view: int) -> MixPlan | None:
        if not (self.recipe.mixup_alpha or self.recipe.cutmix_alpha):
            return None
        if view not in self._plans:
            size = self.pixels.shape[1]
            mixup, cutmix = self.recipe.mixup_alpha or 0.0, self.recipe.cutmix_alpha or 0.0
            self._plans[view] = mix_plan(self.ids, self.seed, view, mixup, cutmix, size)
        return self._plans[view]


def by_view(
    read: Callable[[np.ndarray, int], np.ndarray], positions: np.ndarray, view: int | np.ndarray
) -> np.ndarray:
    """A batch in which each position may be in a view of its own, read view by view.

    Args:
        read: (positions, one view) -> [b, ...].
        positions: int [b].
        view: one view for all, or int [b].
    """
    if np.ndim(view) == 0:
        return read(positions, int(view))
    batch: np.ndarray | None = None
    for one in np.unique(view):
        chosen = view == one
        part = read(positions[chosen], int(one))
        if batch is None:
            batch = np.empty((len(positions), *part.shape[1:]), part.dtype)
        batch[chosen] = part
    assert batch is not None, "an empty batch has no views"
    return batch


@functools.cache
def _augmenter(recipe: AugmentRecipe) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
    """One traced function a recipe: tracing anew for every batch would cost more than the work."""
    return tf.function(functools.partial(batch_augment, recipe=recipe), reduce_retracing=True)
