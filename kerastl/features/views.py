"""The images of a split as the network sees them: decoded once, augmented as a pure function.

A view is one version of every image of a split. View 0 is the image itself; every other view is
determined by (augment.seed, example id, view number) alone, so it can be made in any order, by any number of
threads, today or in a repeated run, and comes out the same to the bit.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from kerastl.modality.image.augment import batch_augment
from kerastl.modality.image.keys import example_keys
from kerastl.modality.image.mix import MixPlan, mix, mix_labels, mix_plan
from kerastl.recipe import AugmentRecipe
from kerastl.store.array import digests
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION

# To be raised with any change of kerastl.modality.image that changes a pixel of an augmented view.
AUGMENT_VERSION = 1


class Pixels(Protocol):
    """Decoded images: an array, or what reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, size, size, 3]."""

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [b, size, size, 3] at int [b]."""


@dataclass(frozen=True, eq=False)
class Views:
    """A split's decoded images and the changes made to them.

    Attributes:
        pixels: uint8 [n, size, size, 3], 0..255 RGB; only read where images are asked for.
        classes: int [n], each image's class; or 0 and 1, [n, labels], for multi-label.
        class_count: how many classes or labels there are.
        ids: identities of the examples, the source of their randomness.
        recipe: resolved augmentation; ignored for view 0.
        task: what the classes answer.
    """

    pixels: Pixels
    classes: np.ndarray
    class_count: int
    ids: np.ndarray
    recipe: AugmentRecipe
    task: Task = CLASSIFICATION
    _keys: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _plans: dict[int, MixPlan | None] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.classes)

    def facts(self, view: int) -> dict[str, Any]:
        """What the images of a view depend on apart from the images themselves: what the key of a store holds."""
        if view == 0:
            return {"number": 0}
        knobs = dataclasses.asdict(self.recipe)
        del (
            knobs["level"],
            knobs["views"],
        )  # how many views there are, and what the knobs were called together
        return {"number": view, "augment": knobs, "version": AUGMENT_VERSION}

    def keys(self, contents: np.ndarray, view: int) -> np.ndarray:
        """What the rows of a view are made from, as keys of the store, uint64 [n, 2].

        Args:
            contents: keys of the images themselves, uint64 [n, 2], which are those of view 0.
            view: its number.
        """
        if view == 0:
            return contents
        salt = json.dumps(self.facts(view), sort_keys=True).encode()
        ids = [str(each).encode("utf-8", "surrogatepass") for each in self.ids]
        if self.recipe.mixup_alpha or self.recipe.cutmix_alpha:
            salt += digests(
                [contents.tobytes() + b"\0".join(ids)]
            ).tobytes()  # any other image may be a partner
        return digests([content.tobytes() + salt + name for content, name in zip(contents, ids, strict=True)])

    def targets(self, positions: np.ndarray) -> np.ndarray:
        """Labels as float32 [b, classes], one-hot or multi-hot."""
        return self.task.targets(self.classes[positions], self.class_count)

    def images(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Images at `positions`, uint8 [b, size, size, 3], all in one view or each in its own (int [b])."""
        return by_view(self._images, positions, view)

    def in_turn(self, batches: Sequence[np.ndarray], view: int) -> Iterator[np.ndarray]:
        """The images of each batch in one view, at positions that increase from batch to batch."""
        # Decoded anew in one pass over the files; what is mixed has partners anywhere.
        decoded = getattr(self.pixels, "in_turn", None)
        if decoded is None or (view and self._plan(view) is not None):
            yield from (self.images(batch, view) for batch in batches)
        else:
            for batch, images in zip(batches, decoded(batches), strict=True):
                yield self._changed(images, batch, view) if view else images

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
        own = self.targets(positions)
        plan = self._plan(view) if view else None
        if plan is None:
            return own
        return mix_labels(own, self.targets(plan.partner[positions]), plan.ratio[positions]).numpy()

    def _augmented(self, positions: np.ndarray, view: int) -> np.ndarray:
        return self._changed(self.pixels[positions], positions, view)

    def _changed(self, images: np.ndarray, positions: np.ndarray, view: int) -> np.ndarray:
        if view not in self._keys:
            self._keys[view] = example_keys(self.ids, self.recipe.seed, view)
        keys = self._keys[view][positions]
        return _augmenter(self.recipe)(images, keys).numpy()

    def _plan(self, view: int) -> MixPlan | None:
        if not (self.recipe.mixup_alpha or self.recipe.cutmix_alpha):
            return None
        if view not in self._plans:
            size = self.pixels.shape[1]
            mixup, cutmix = self.recipe.mixup_alpha, self.recipe.cutmix_alpha
            self._plans[view] = mix_plan(self.ids, self.recipe.seed, view, mixup, cutmix, size)
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


@dataclass(frozen=True, eq=False)
class FrozenViews:
    """A split and how many of its views are wanted.

    Attributes:
        name: of the split, for messages.
        views: its images.
        view_count: how many views, from 0 on.
        contents: keys of the images, uint64 [n, 2].
        facts: what decoded images depend on, apart from the files.
        about: what a listing of the store says of them.
    """

    name: str
    views: Views
    view_count: int
    contents: np.ndarray
    facts: Mapping[str, object]
    about: Mapping[str, object]
