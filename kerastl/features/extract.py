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

from kerastl.features.cache import Cache, Keeping
from kerastl.features.filling import Sample, fill
from kerastl.features.frozen import Frozen, Overflow, narrowed
from kerastl.features.readers import Features, Reader, live_reader, reader_of
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.features.views import FrozenViews
from kerastl.model.heads import POOLINGS, pooled_features
from kerastl.progress import Progress
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


def extract(
    frozen: Frozen,
    splits: Sequence[FrozenViews],
    cache: Cache,
    wanted: Wanted,
    progress: Progress = Progress(),
    excluded: tuple[str, ...] = (),
    sample: Sample | None = None,
) -> list[Features]:
    """Make the features of some splits readable: from the store, computed now, or live.

    Args:
        frozen: the frozen part of the network.
        splits: what for.
        cache: where features are kept, and for how long.
        wanted: which ones.
        progress: listens.
        excluded: where they are not to be kept; with any, `cache.mode = "disk"` takes what there is.
        sample: batches that an attempt before this one computed.

    Raises:
        NoSpaceError: the recipe asks for the disk, and has no room there.
    """
    keys = unit_keys(frozen, splits, cache, wanted)
    epochs = wanted.finetune_epochs if "activations" in keys[0] else 0
    sample = sample or Sample(frozen, splits, keys, cache.store.has)
    keeping = cache.choose(
        keys,
        epochs * sum(split.views.count for split in splits),
        sample.rate,
        progress,
        excluded,
    )
    try:
        return _extract(frozen, splits, keys, cache, keeping, wanted, sample, progress)
    except Overflow:
        progress.note(
            f"Activations at '{frozen.cut.unfreeze_point}' do not fit sixteen bits: kept in thirty-two"
        )
        cache.widen()
        for of_view in keys:
            cache.store.remove(of_view["activations"].name)
        return extract(frozen, splits, cache, wanted, progress, excluded, sample)
    except (WriteError, MemoryError) as error:
        if cache.recipe.mode == "disk" and not excluded:
            raise
        place = "memory" if isinstance(error, MemoryError) else "disk"
        if place in excluded:
            raise
        progress.warn(f"Features cannot be kept: {error}")
        cache.release_features()
        return extract(frozen, splits, cache, wanted, progress, (*excluded, place), sample)


def unit_keys(
    frozen: Frozen, splits: Sequence[FrozenViews], cache: Cache, wanted: Wanted
) -> list[dict[str, UnitKey]]:
    """The units that features are made of, by kind, for each view of each split; nothing is computed.

    Where activations are known not to fit sixteen bits, the cache is widened.
    """
    if cache.dtype == "float16" and _was_widened(frozen, splits, cache, wanted):
        cache.widen()
    return [_keys(frozen, split, view, wanted, cache) for split in splits for view in range(split.view_count)]


def _was_widened(frozen: Frozen, splits: Sequence[FrozenViews], cache: Cache, wanted: Wanted) -> bool:
    """Whether an earlier run found that these activations do not fit sixteen bits."""
    keys = (_keys(frozen, split, 0, wanted, cache, "float32").get("activations") for split in splits)
    return any(key is not None and cache.store.about(key).get("widened") for key in keys)


def _extract(
    frozen: Frozen,
    splits: Sequence[FrozenViews],
    keys: Sequence[Mapping[str, UnitKey]],
    cache: Cache,
    keeping: Keeping,
    wanted: Wanted,
    sample: Sample,
    progress: Progress,
) -> list[Features]:
    kept_keys = [key for of_view in keys for kind, key in of_view.items() if keeping.keeps(kind)]
    units = cache.hold(kept_keys, keeping, progress)
    before = frozen.forward_passes - sample.passes
    if wanted.pooled and any(not unit.complete for unit in units.values()):
        frozen.check_untouched()
    features = []
    remaining = iter(keys)
    for split in splits:
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
        features.append(_features(frozen, split, of_views, wanted, cache.dtype))
    if units:
        computed = frozen.forward_passes - before
        done = f"{computed:,} forward passes" if computed else "read from the store, no forward pass"
        progress.note(f"Features of {' and '.join(split.name for split in splits)}: {done}")
    return features


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
    cache: Cache,
    dtype: str | None = None,
) -> dict[str, UnitKey]:
    """The units of one view: `pooled` and `activations`, where they are wanted."""
    facts = {**split.facts, **frozen.facts, "view": split.views.facts(view)}
    about = {**split.about, "split": split.name, "view": view}
    channels = int(frozen.cut.pooled.outputs[0].shape[-1])
    count, shape = split.views.count, frozen.cut.prefix.outputs[0].shape[1:]
    keys: dict[str, UnitKey] = {}
    if wanted.pooled:
        keys["pooled"] = UnitKey("pooled", facts, count, (len(POOLINGS), channels), "float32", about)
    if wanted.activations and frozen.cut.unfreeze_point != "input":
        at = {**facts, "unfreeze_point": frozen.cut.unfreeze_point}
        about |= {"widened": True} if cache.widened else {}
        kind = dtype or cache.dtype
        keys["activations"] = UnitKey("activations", at, count, tuple(map(int, shape)), kind, about)
    return keys
