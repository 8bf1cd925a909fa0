"""What a space can ask of the store, before the first trial: which cuts, how large, and what lies there already."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastl.errors import RecipeError
from kerastl.features.extract import array_keys, row_keys
from kerastl.features.inputs import input_facts
from kerastl.jobs.prepare import precision_of
from kerastl.jobs.setup import wanted_features
from kerastl.progress import size_text
from kerastl.recipe import Recipe, Settings
from kerastl.recipe.keys import affecting
from kerastl.search.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space
from kerastl.search.shared import Shared
from kerastl.search.trial import trial_recipe
from kerastl.store.array import Array, ArrayKey, first_of_each
from kerastl.training.two_phase import unfreeze_point

SHOWN = 8
# Building each cut's network takes a second or so; beyond this many the plan would cost more than it tells.
MOST = 48


@dataclass(frozen=True)
class CutPlan:
    """One cut in one size and augmentation.

    Attributes:
        point: the unfreeze point; `backbone` and `input` need pooled features alone.
        values: what else the space sets that features depend on.
        image_size: side of the network's input.
        view_count: views of each training image.
        bytes: of all that trials at this cut read.
        missing_bytes: of that, what the store does not hold.
        forward_passes: images to run for what is missing, if no other cut is built before.
    """

    point: str
    values: Mapping[str, Any]
    image_size: int
    view_count: int
    bytes: int
    missing_bytes: int
    forward_passes: int

    @property
    def line(self) -> str:
        """It in one line."""
        set_keys = "".join(f", {key} {value}" for key, value in self.values.items())
        views = f"{self.view_count} view{'s' if self.view_count > 1 else ''}"
        if not self.missing_bytes:
            state = "all in the store, no forward pass"
        else:
            there = self.bytes - self.missing_bytes
            state = f"{self.forward_passes:,} forward passes"
            state += f", {size_text(there)} in the store" if there else ", nothing in the store"
        return f"{self.point}, {views} at {self.image_size}{set_keys}: {size_text(self.bytes)}, {state}"


@dataclass(frozen=True)
class StorePlan:
    """All cuts that a space can reach.

    Attributes:
        cuts: of them, as many as were looked at.
        combinations: how many there are.
        endless: ranges of keys that each value of makes other views for.
        bytes: of the rows of all cuts, what several share counted once.
        missing_bytes: of that, what the store does not hold.
        forward_passes: at most, if all cuts are reached.
        room: bytes that the store has room for.
        kept: whether features are kept at all.
    """

    cuts: tuple[CutPlan, ...]
    combinations: int
    endless: tuple[str, ...]
    bytes: int
    missing_bytes: int
    forward_passes: int
    room: int
    kept: bool

    def lines(self) -> list[str]:
        """It in a few lines."""
        if not self.kept:
            return ["Store: nothing is kept (cache.mode = off); each epoch runs the frozen part anew"]
        many = len(self.cuts) < self.combinations
        total = f"Store: the space reaches {self.combinations} cut{'s' if self.combinations > 1 else ''}"
        total += f"; the first {len(self.cuts)}" if many else ""
        total += (
            f": {size_text(self.bytes)}, {size_text(self.bytes - self.missing_bytes)} of it there already; "
        )
        total += f"at most {self.forward_passes:,} forward passes"
        if self.missing_bytes > self.room:
            total += f". Room is left for {size_text(self.room)}: not all can be kept"
        if self.endless:
            total += f". Each value of {', '.join(self.endless)} makes other views: only the ends are counted"
        more = self.cuts[SHOWN:]
        rest = (
            f"  and {len(more)} more, {sum(not cut.missing_bytes for cut in more)} of them all in the store"
        )
        return [total, *(f"  {cut.line}" for cut in self.cuts[:SHOWN]), *([rest] if more else [])]


class _Seen:
    """Rows that were counted before, in each array."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def add(self, key: ArrayKey, rows: np.ndarray) -> np.ndarray:
        """Count rows; bools [n]: which of them are new."""
        array = self._arrays.setdefault(key.name, Array(key, None))
        new = ~array.has(rows)
        array.add(rows[new], np.zeros((int(new.sum()), 0), key.dtype), {}, on_disk=False)
        return new


def plan_store(base: Recipe, space: Space, shared: Shared) -> StorePlan:
    """Look ahead: the cuts of a space, without a forward pass.

    The images are decoded in the size of the recipe as it is, which the search needs first of all; an image that cannot be read
    there is taken for unreadable in all sizes.

    Args:
        base: what the trials vary.
        space: what they vary in it.
        shared: images, backbones and the store.
    """
    # All poolings are kept beside each other.
    axes = [
        axis for axis in space if axis.key in affecting(Recipe, "features") and axis.key != "head.pooling"
    ]
    first = trial_recipe(base, {}, shared)
    cuts: list[CutPlan] = []
    # A trial that needs pooled features alone finds those of any cut before it, but may come before all of them.
    every, with_activations, alone = _Seen(), _Seen(), _Seen()
    total, lost, passes = 0, 0, 0
    with precision_of(first):
        # The recipe as it is runs first, and what it leaves serves the others.
        reached = itertools.islice(_reached(base, axes, shared), MOST)
        for number, (values, recipe) in enumerate(itertools.chain([({}, first)], reached)):
            arrays, rows = _needed(recipe, first, shared)
            missing = {key.name: ~shared.cache.store.look(key, rows) for key in arrays}
            for key in arrays:
                new = every.add(key, rows)
                total += int(new.sum()) * key.row_bytes
                lost += int((new & missing[key.name]).sum()) * key.row_bytes
            before = [with_activations] if len(arrays) > 1 else [alone]
            for seen in [with_activations, alone] if not number else before:
                fresh = {key.name: seen.add(key, rows) & missing[key.name] for key in arrays}
            passes += _passes(fresh)
            if number:
                others = {key: value for key, value in values.items() if key != UNFREEZE_POINT}
                cuts.append(
                    CutPlan(
                        unfreeze_point(recipe), others, recipe.backbone.image_size, recipe.augment.views,
                        sum(key.row_bytes for key in arrays) * len(rows),
                        sum(int(missing[key.name].sum()) * key.row_bytes for key in arrays), _passes(missing),
                    )
                )  # fmt: skip
    return StorePlan(
        cuts=tuple(cuts),
        combinations=int(np.prod([len(axis.corners()) for axis in axes])),
        endless=tuple(axis.key for axis in axes if not axis.values),
        bytes=total,
        missing_bytes=lost,
        forward_passes=passes,
        room=shared.cache.store.folder.room() if shared.cache.store.folder else 0,
        kept=base.cache.mode != "off",
    )


def _needed(recipe: Settings, first: Settings, shared: Shared) -> tuple[list[ArrayKey], np.ndarray]:
    """The arrays and the keys of the rows that a trial reads, each once."""
    known, names = shared.prepared(first), ("train",) if shared.folds else ("train", "validation")
    prepared = dataclasses.replace(known, recipe=recipe)
    facts = input_facts(recipe.data, recipe.backbone.image_size)
    views = [dataclasses.replace(prepared.frozen_views(name), facts=facts) for name in names]
    rows = row_keys(views)
    arrays = array_keys(shared.frozen(recipe), views, shared.cache, wanted_features(recipe))
    return arrays, rows[first_of_each(rows)]


def _reached(
    base: Recipe, axes: Sequence[Hyperparameter], shared: Shared
) -> Iterator[tuple[dict[str, Any], Settings]]:
    for corner in itertools.product(*(axis.corners() for axis in axes)):
        values = {axis.key: value for axis, value in zip(axes, corner, strict=True)}
        try:
            yield values, trial_recipe(base, values, shared)
        except RecipeError:
            continue  # such a trial would say so itself


def _passes(missing: Mapping[str, np.ndarray]) -> int:
    """Images to run: those of which any output is missing."""
    return int(np.any(list(missing.values()), axis=0).sum())
