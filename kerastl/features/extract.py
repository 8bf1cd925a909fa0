"""What the frozen part of the network says about every image, computed once and kept.

Below the unfreeze point nothing changes while training, so its outputs are kept and both phases train on
them: the head phase on pooled features, the fine-tune phase on the activations at the unfreeze point. One
forward pass gives both. Where they cannot be kept they are computed again for each batch ("live"); the
training code cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kerastl.features.cache import Cache, Leased
from kerastl.features.choosing import Keeping
from kerastl.features.filling import BEYOND_SIXTEEN_BITS, Sample, fill
from kerastl.features.frozen import Frozen, Overflow, narrowed
from kerastl.features.pixels import CHECKED, LivePixels, OtherReading
from kerastl.features.readers import Features, Reader, live_reader, reader_of
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.features.views import FrozenViews
from kerastl.model.heads import POOLINGS, pooled_features
from kerastl.progress import Progress, size_text
from kerastl.writing import WriteError


@dataclass(frozen=True)
class Wanted:
    """Which features are asked for.

    Attributes:
        pooling: `avg`, `max`, `avgmax` or `gem`.
        pooled: whether the head phase will need pooled features.
        activations: whether the fine-tune phase will need the activations at the cut.
        finetune_epochs: of that phase, to weigh the ways of keeping them against each other.
    """

    pooling: str
    pooled: bool
    activations: bool
    finetune_epochs: int


@dataclass(frozen=True)
class _Call:
    """What one call of `extract` was asked."""

    frozen: Frozen
    splits: Sequence[FrozenViews]
    cache: Cache
    wanted: Wanted
    progress: Progress

    @property
    def live_passes(self) -> int:
        """Forward passes for activations that are not kept: once for each epoch, and at least once."""
        if not self.wanted.activations or self.frozen.cut.unfreeze_point == "input":
            return 0
        return max(1, self.wanted.finetune_epochs) * sum(split.views.count for split in self.splits)


def extract(
    frozen: Frozen,
    splits: Sequence[FrozenViews],
    cache: Cache,
    wanted: Wanted,
    progress: Progress = Progress(),
    excluded: tuple[str, ...] = (),
) -> list[Features]:
    """Make the features of some splits readable: from the store, computed now, or live.

    Args:
        frozen: the frozen part of the network.
        splits: what for.
        cache: where features are kept, and for how long.
        wanted: which ones.
        progress: listens.
        excluded: where they are not to be kept; with any, `cache.mode = "disk"` takes what there is, and "memory" nothing.

    Raises:
        NoSpaceError: the recipe asks for the disk or the memory, and has no room there.
        OtherReading: the images cannot be read as it was thought when they were made ready.
    """
    call, before, may_fail = (
        _Call(frozen, splits, cache, wanted, progress),
        frozen.forward_passes,
        bool(excluded),
    )
    sample: Sample | None = None
    while True:
        keys = unit_keys(frozen, splits, cache, wanted)
        try:
            leased = cache.lease(keys, excluded, progress)
            with leased.stack:
                if sample is None or not sample.measured:
                    sample = Sample(frozen, splits, keys, leased.gaps)
                features, kept = _attempt(call, leased, sample, excluded)
                cache.keep(leased)
            break
        except Overflow:
            progress.note(
                f"Activations at '{frozen.cut.unfreeze_point}' do not fit sixteen bits: kept in thirty-two"
            )
            cache.widen(_place(frozen))
            for of_view in keys:
                cache.store.remove(of_view["activations"].name)
        except OtherReading as other:
            # Other images are other units: what was begun of these would never be used.
            for key in (key for of_view in keys for key in of_view.values()):
                if (
                    other.reading == CHECKED
                    and key.about["split"] == other.split
                    and not cache.store.has(key)
                ):
                    cache.store.remove(key.name)
            raise
        except (WriteError, MemoryError) as error:
            place = "memory" if isinstance(error, MemoryError) else "disk"
            if place in excluded or (cache.recipe.mode in ("disk", "memory") and not may_fail):
                raise
            progress.warn(f"Features cannot be kept: {error}")
            excluded = (*excluded, place)
    computed = frozen.forward_passes - before
    if kept or computed:
        names = [split.name for split in splits]
        done = f"{computed:,} forward passes" if computed else "read from the store, no forward pass"
        progress.note(f"Features of {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}: {done}")
    return features


def unit_keys(
    frozen: Frozen, splits: Sequence[FrozenViews], cache: Cache, wanted: Wanted
) -> list[dict[str, UnitKey]]:
    """The units that features are made of, by kind, for each view of each split; nothing is computed.

    Where activations are known not to fit sixteen bits, the cache is widened at this cut.
    """
    if _was_too_wide(frozen, splits, cache, wanted):
        cache.widen(_place(frozen))
    dtype = cache.dtype_at(_place(frozen))
    return [_keys(frozen, split, view, wanted, dtype) for split in splits for view in range(split.view_count)]


def _was_too_wide(frozen: Frozen, splits: Sequence[FrozenViews], cache: Cache, wanted: Wanted) -> bool:
    """Whether the store holds any of these activations in thirty-two bits with values that do not fit sixteen."""
    if not wanted.activations or cache.dtype_at(_place(frozen)) == "float32":
        return False
    every = (
        _keys(frozen, split, view, wanted, "float32") for split in splits for view in range(split.view_count)
    )
    keys = (of_view["activations"] for of_view in every if "activations" in of_view)
    return any(BEYOND_SIXTEEN_BITS in cache.store.notes(key) for key in keys)


def _place(frozen: Frozen) -> str:
    """One cut of one backbone."""
    return f"{frozen.facts['weights']} {frozen.cut.unfreeze_point}"


def _attempt(
    call: _Call, leased: Leased, sample: Sample, excluded: Sequence[str]
) -> tuple[list[Features], bool]:
    """The features, and whether any of them are kept."""
    cache, progress, frozen = call.cache, call.progress, call.frozen
    keeping = cache.choose(leased, call.live_passes, sample.rate, progress, excluded)
    _check_reading(call, keeping)
    trains = call.wanted.finetune_epochs or len(call.splits) > 1  # else these are the test images, read once
    if keeping.pooled == "live" and call.wanted.pooled and cache.recipe.mode == "auto" and trains:
        lacking = sum(
            key.bytes for of_view in leased.keys for kind, key in of_view.items() if kind == "pooled"
        )
        progress.warn(
            f"Pooled features ({size_text(lacking)}) have room neither on the disk nor in memory: the network runs over all images "
            "again in every epoch of the head phase. Free that much in either, lower augment.views, or lower "
            "head_phase.epochs (up to 100 by the rule)"
        )
    units = cache.units(leased, keeping)
    if call.wanted.pooled and any(not unit.complete for unit in units.values()):
        frozen.check_untouched()
    features = []
    remaining = iter(leased.keys)
    for split in call.splits:
        of_views = [
            {kind: units.get(key) for kind, key in next(remaining).items()} for _ in range(split.view_count)
        ]
        work = {
            view: gaps
            for view, of_view in enumerate(of_views)
            if (gaps := {kind: unit for kind, unit in of_view.items() if unit and not unit.complete})
        }
        if work:
            with progress.track(f"features {split.name}", split.views.count * len(work)) as tracker:
                for view, gaps in work.items():
                    fill(frozen, split.views, view, gaps, sample.of(split, view), tracker)
        features.append(_features(frozen, split, of_views, call.wanted, cache.dtype_at(_place(frozen))))
    return features, bool(units)


def _check_reading(call: _Call, keeping: Keeping) -> None:
    """Let images that are going to be read in every epoch be kept first, where that was not foreseen.

    Raises:
        OtherReading: it was not.
    """
    live = {
        kind
        for kind in ("pooled", "activations")
        if keeping.of(kind) == "live" and getattr(call.wanted, kind)
    }
    if call.wanted.activations and call.frozen.cut.unfreeze_point == "input":
        live.add("activations")
    for split in call.splits:
        if live and isinstance(split.views.pixels, LivePixels):
            split.views.pixels.check_read_again()


def _features(
    frozen: Frozen,
    split: FrozenViews,
    units: Sequence[Mapping[str, Unit | MemoryUnit | None]],
    wanted: Wanted,
    dtype: str,
) -> Features:
    pooled_rows = _rows(units, "pooled")
    activation_rows = _rows(units, "activations")

    exact = dtype != "float16"

    def live_pooled(images: np.ndarray) -> np.ndarray:
        return pooled_features(frozen.run(images, pooled=True, activations=False)["pooled"], wanted.pooling)

    def live_activations(images: np.ndarray) -> np.ndarray:
        nonlocal exact
        values = frozen.run(images, pooled=False, activations=True)["activations"]
        if exact:
            return values
        try:
            return narrowed(values, dtype).astype(np.float32)  # as if it had been kept
        except Overflow:
            exact = True
            return values

    read_pooled = live_reader(split.views, live_pooled)
    if pooled_rows is not None:
        stored = reader_of(pooled_rows)
        read_pooled = lambda positions, view: pooled_features(stored(positions, view), wanted.pooling)  # noqa: E731
    read_activations: Reader | None = None
    if wanted.activations and frozen.cut.unfreeze_point == "input":
        read_activations = split.views.images
    elif wanted.activations:
        read_activations = (
            live_reader(split.views, live_activations)
            if activation_rows is None
            else reader_of(activation_rows)
        )
    return Features(split.views, split.view_count, read_pooled, read_activations)


def _rows(units: Sequence[Mapping[str, Unit | MemoryUnit | None]], kind: str) -> list[np.ndarray] | None:
    found = [unit for of_view in units if (unit := of_view.get(kind)) is not None]
    return [unit.rows() for unit in found] if found else None


def _keys(
    frozen: Frozen,
    split: FrozenViews,
    view: int,
    wanted: Wanted,
    dtype: str,
) -> dict[str, UnitKey]:
    """The units of one view: `pooled`, and `activations` in `dtype`, where they are wanted."""
    facts = {**split.facts, **frozen.facts, "view": split.views.facts(view)}
    about = {**split.about, "split": split.name, "view": view}
    channels = int(frozen.cut.pooled.outputs[0].shape[-1])
    count, shape = split.views.count, frozen.cut.prefix.outputs[0].shape[1:]
    keys: dict[str, UnitKey] = {}
    if wanted.pooled:
        keys["pooled"] = UnitKey("pooled", facts, count, (len(POOLINGS), channels), "float32", about)
    if wanted.activations and frozen.cut.unfreeze_point != "input":
        at = {**facts, "unfreeze_point": frozen.cut.unfreeze_point}
        keys["activations"] = UnitKey("activations", at, count, tuple(map(int, shape)), dtype, about)
    return keys
