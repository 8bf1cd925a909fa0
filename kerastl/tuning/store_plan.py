"""What a space can ask of the store, before the first trial: which cuts, how large, and what lies there already."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.errors import RecipeError
from kerastl.features.cache import Cache
from kerastl.features.extract import unit_keys
from kerastl.features.pixels import image_facts
from kerastl.features.unit import UnitKey
from kerastl.progress import size_text
from kerastl.recipe import Recipe, Settings
from kerastl.recipe.keys import affecting
from kerastl.training.two_phase import unfreeze_point
from kerastl.tuning.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space
from kerastl.tuning.shared import Shared
from kerastl.tuning.trial import trial_recipe
from kerastl.workflow.beginning import wanted_features
from kerastl.workflow.prepare import precision_of

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
        bytes: of the units of all cuts, what several share counted once.
        missing_bytes: of that, what the store does not hold.
        lacking_bytes: of that, what the disk still has to find room for; builds that were begun have theirs.
        forward_passes: at most, if all cuts are reached.
        room: bytes that the store has room for.
        kept: whether features are kept at all.
    """

    cuts: tuple[CutPlan, ...]
    combinations: int
    endless: tuple[str, ...]
    bytes: int
    missing_bytes: int
    lacking_bytes: int
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
        if self.lacking_bytes > self.room:
            total += f". Room is left for {size_text(self.room)}: not all can be kept"
        if self.endless:
            total += f". Each value of {', '.join(self.endless)} makes other views: only the ends are counted"
        more = self.cuts[SHOWN:]
        rest = (
            f"  and {len(more)} more, {sum(not cut.missing_bytes for cut in more)} of them all in the store"
        )
        return [total, *(f"  {cut.line}" for cut in self.cuts[:SHOWN]), *([rest] if more else [])]


class _Unread:
    """The place of decoded images where only their number matters."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, size, size, 3]."""
        return self._shape

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        raise AssertionError("a plan reads no image")


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
    held: dict[UnitKey, bool] = {}

    def asked_by(recipe: Settings) -> tuple[Sequence[Mapping[str, UnitKey]], list[UnitKey], set[UnitKey]]:
        keys = units_of(recipe, first, shared)
        every = [key for of_view in keys for key in of_view.values()]
        missing = {key for key in every if not shared.cache.store.has(key)}
        held.update({key: key in missing for key in every})
        return keys, every, missing

    with precision_of(first):
        # The recipe as it is runs first, and what it leaves serves the others. A trial that needs pooled features alone
        # finds those of any cut before it, but may come before all of them.
        keys, every, missing = asked_by(first)
        passes = _passes(keys, missing)
        built, built_alone = set(every), set(every)
        for values, recipe in itertools.islice(_reached(base, axes, shared), MOST):
            keys, every, missing = asked_by(recipe)
            needed = _passes(keys, missing)
            before = built if any("activations" in of_view for of_view in keys) else built_alone
            passes += _passes(keys, missing - before)
            before.update(every)
            others = {key: value for key, value in values.items() if key != UNFREEZE_POINT}
            cuts.append(
                CutPlan(
                    unfreeze_point(recipe), others, recipe.backbone.image_size, recipe.augment.views,
                    sum(key.bytes for key in every), sum(key.bytes for key in missing), needed,
                )
            )  # fmt: skip
    return StorePlan(
        cuts=tuple(cuts),
        combinations=int(np.prod([len(axis.corners()) for axis in axes])),
        endless=tuple(axis.key for axis in axes if not axis.values),
        bytes=sum(key.bytes for key in held),
        missing_bytes=sum(key.bytes for key, missing in held.items() if missing),
        lacking_bytes=shared.cache.store.lacking(key for key, missing in held.items() if missing),
        forward_passes=passes,
        room=shared.cache.store.room(evicting=True, keeping=list(held)),
        kept=base.cache.mode != "off",
    )


def units_of(recipe: Settings, first: Settings, shared: Shared) -> Sequence[Mapping[str, UnitKey]]:
    """The units that a trial's features are made of, for each split and view; nothing is computed or kept.

    Args:
        recipe: of the trial, resolved.
        first: the recipe as it is, resolved: in its size images are decoded.
        shared: images, backbones and the store.
    """
    known = shared.prepared(first)
    splits = [known.splits.train, *([] if shared.folds else [known.splits.validation])]
    size = recipe.backbone.image_size
    alike = (size, recipe.data.resize) == (first.backbone.image_size, first.data.resize)
    prepared = dataclasses.replace(
        known,
        recipe=recipe,
        pixels={split.name: _Unread(split.count, size, size, 3) for split in splits},
        facts=known.facts if alike else {s.name: image_facts(s, recipe.data, size) for s in splits},
    )
    views = [prepared.frozen_views(split.name) for split in splits]
    # A cache of its own: that of the search is widened by the trial that needs it, if any does.
    cache = Cache(shared.cache.recipe, Path("unused"))
    return unit_keys(shared.frozen(recipe), views, cache, wanted_features(recipe))


def _reached(
    base: Recipe, axes: Sequence[Hyperparameter], shared: Shared
) -> Iterator[tuple[dict[str, Any], Settings]]:
    for corner in itertools.product(*(axis.corners() for axis in axes)):
        values = {axis.key: value for axis, value in zip(axes, corner, strict=True)}
        try:
            yield values, trial_recipe(base, values, shared)
        except RecipeError:
            continue  # such a trial would say so itself


def _passes(keys: Sequence[Mapping[str, UnitKey]], missing: Collection[UnitKey]) -> int:
    """Images to run: those of each view of which any unit is missing."""
    gaps = ([key.rows for key in of_view.values() if key in missing] for of_view in keys)
    return sum(max(rows) for rows in gaps if rows)
