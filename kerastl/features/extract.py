"""Outputs of the frozen prefix for every example, computed once and kept.

Below the unfreeze point nothing changes while training, so its outputs are kept and both phases train on
them: the head phase on pooled features, the fine-tune phase on the activations at the unfreeze point. One
forward pass gives both. Where they cannot be kept they are computed again for each batch ("live"); the
training code cannot tell the difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kerastl.data.examples import spread_positions
from kerastl.features.cache import Cache, smaller_heads
from kerastl.features.compute import compute_rows
from kerastl.features.frozen import Frozen, as_kept
from kerastl.features.inputs import Inputs
from kerastl.features.readers import Features, live_rows, pooled_output, read_by, reader_of
from kerastl.features.views import FrozenViews, most_steps
from kerastl.modality import Batch
from kerastl.model.cut import ACTIVATION, JOIN_STEPS, JOINS, STEPPED, UNDER, UNDER_STEPS, VECTORS
from kerastl.model.head_input import HeadInput
from kerastl.progress import Progress, Tracker, size_text
from kerastl.store.array import ArrayKey, Rows
from kerastl.store.store import Part
from kerastl.writing import WriteError

# Of each split, to know how long its examples are on the average.
LENGTHS_READ = 2048


@dataclass(frozen=True)
class Wanted:
    """Which features are asked for.

    Attributes:
        reads: what the head reads of them.
        outputs: of the prefix, by name; the first gets room first. `pooled` or `joins` is what the head phase trains on,
            `activation` what the fine-tune phase does.
        finetune_epochs: of that phase; 0 where features are read once.
    """

    reads: HeadInput
    outputs: tuple[str, ...]
    finetune_epochs: int

    def of(self, frozen: Frozen) -> tuple[str, ...]:
        """The outputs that there are at a cut: at `input` there is no activation."""
        return tuple(name for name in self.outputs if name in frozen.cut.outputs)


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
        OtherReading: the examples cannot be read as it was thought when they were made ready.
    """
    before, may_fail = frozen.forward_passes, bool(excluded)
    arrays, keys = array_keys(frozen, splits, cache, wanted), row_keys(splits)
    cache.tell_of_old(progress)
    while True:
        call = _Call(frozen, splits, cache, wanted, progress, arrays, excluded)
        call.check_reading(set())
        try:
            if cache.recipe.mode == "off":
                progress.note("Features: computed live, anew in every epoch (cache.mode = off)")
                rows: Mapping[str, Rows | None] = {}
                call.prepare(len(keys), live=True)
                call.check_reading({key.output for key in arrays})
            else:
                with call.stack:
                    inputs = [split.views.inputs for split in splits]
                    in_one = any(isinstance(each, Inputs) and each.from_front for each in inputs)
                    rows = cache.store.open(arrays, keys, call.compute, call.place, progress, in_one)
                if len(arrays) > 1 and None not in rows.values():
                    frozen.release()  # what is computed next, if anything, is one of them alone
            break
        except (WriteError, MemoryError) as error:
            place = "memory" if isinstance(error, MemoryError) else "disk"
            if place in excluded or (cache.recipe.mode in ("disk", "memory") and not may_fail):
                raise
            progress.warn(f"Features cannot be kept: {error}")
            excluded = (*excluded, place)
    computed = frozen.forward_passes - before
    if computed or any(found is not None for found in rows.values()):
        names = [split.name for split in splits]
        done = f"{computed:,} forward passes" if computed else "read from the store, no forward pass"
        progress.note(f"Features of {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}: {done}")
    kept = [found for found in rows.values() if found is not None]
    notes = kept[0].notes() if kept else {}
    for split, start in zip(splits, _starts(splits), strict=True):
        if isinstance(split.views.inputs, Inputs):  # the first view is that of the examples themselves
            split.views.inputs.note({
                at - start: note for at, note in notes.items() if 0 <= at - start < split.views.count
            })  # fmt: skip
    dtype = _dtype(cache)
    return [
        _features(frozen, split, start, rows, wanted, dtype)
        for split, start in zip(splits, _starts(splits), strict=True)
    ]


def array_keys(frozen: Frozen, splits: Sequence[FrozenViews], cache: Cache, wanted: Wanted) -> list[ArrayKey]:
    """The arrays that the wanted outputs are kept in, one for each."""
    facts, about = {**splits[0].facts, **frozen.facts}, dict(splits[0].about)
    at = {**facts, "unfreeze_point": frozen.cut.unfreeze_point}
    joins, under = (facts | {"joins": list(names)} for names in (frozen.cut.joins, frozen.cut.under))
    steps = _mean_steps(frozen, splits) if {*STEPPED} & {*wanted.outputs} else 1.0
    return [
        ArrayKey(
            name,
            {ACTIVATION: at, JOINS: joins, JOIN_STEPS: joins, UNDER: under, UNDER_STEPS: under}.get(
                name, facts
            ),
            tuple(frozen.cut.outputs[name].shape[1:]),
            "float32" if name in VECTORS else _dtype(cache),
            about,
            steps,
        )
        for name in wanted.of(frozen)
    ]


def _mean_steps(frozen: Frozen, splits: Sequence[FrozenViews]) -> float:
    """Real steps of an example, where these alone are kept: of a few hundred, spread evenly; 1 where there are no steps."""
    length = frozen.cut.length
    if not length or not frozen.cut.stepped:
        return 1.0
    found = [
        split.views.inputs[spread_positions(split.views.count, LENGTHS_READ)][length]
        for split in splits
        if not (isinstance(split.views.inputs, Inputs) and split.views.inputs.once)
    ]
    return float(np.concatenate(found).mean()) if found else 1.0


def row_keys(splits: Sequence[FrozenViews]) -> np.ndarray:
    """Keys of all rows, uint64 [n, 2]: split by split, view by view, example by example."""
    return np.concatenate(
        [split.views.keys(split.contents, view) for split in splits for view in range(split.view_count)]
    )


def _dtype(cache: Cache) -> str:
    return "float32" if cache.recipe.dtype == "float32" else "float16"


def _starts(splits: Sequence[FrozenViews]) -> list[int]:
    """The place of each split's first row among all rows."""
    counts = [split.views.count * split.view_count for split in splits]
    return (np.cumsum(counts) - counts).tolist()


def _notes(split: FrozenViews, positions: np.ndarray, first: int) -> dict[int, str]:
    """Notes on examples of a view whose first row is `first`, by their rows: kept with these, for later runs."""
    inputs = split.views.inputs
    noted = inputs.notes if isinstance(inputs, Inputs) else {}
    return {at + first: noted[at] for at in positions.tolist() if at in noted}


class _Call:
    """One attempt of `extract`: where features are to be kept, and computing them.

    Attributes:
        stack: closes the bar of progress.
    """

    def __init__(
        self,
        frozen: Frozen,
        splits: Sequence[FrozenViews],
        cache: Cache,
        wanted: Wanted,
        progress: Progress,
        arrays: Sequence[ArrayKey],
        excluded: Collection[str],
    ) -> None:
        self._frozen, self._splits, self._cache, self._wanted = frozen, splits, cache, wanted
        self._progress, self._arrays, self._excluded = progress, arrays, excluded
        self.stack = contextlib.ExitStack()
        self._tracker = Tracker()

    def place(self, missing: Mapping[str, int], room: int) -> Mapping[str, str]:
        """Chooses where to keep missing rows, and reports it in one line."""
        cache, progress = self._cache, self._progress
        order, smaller = self._wanted.outputs, self._splits[0].views.modality.smaller
        places = cache.places(missing, room, order, self._excluded, smaller=smaller)
        self.check_reading({name for name, place in places.items() if place == "live"})
        where = {"disk": f"kept in {cache.folder.root}", "memory": "kept in memory", "live": "computed live"}
        named = [
            f"{' and '.join(f'{name} ({size_text(missing[name])})' for name in chosen)} {where[place]}"
            for place in where
            if (chosen := [name for name in order if places.get(name) == place])
        ]
        if {*places.values()} - {"disk"} and cache.recipe.mode != "memory":
            named.append(f"there is room for {size_text(room)} on disk")
        progress.note(f"Features: {', '.join(named)}")
        trains = (
            self._wanted.finetune_epochs or len(self._splits) > 1
        )  # else these are the test examples, read once
        pooled = pooled_output(self._wanted.reads)
        if places.get(pooled) == "live" and cache.recipe.mode == "auto" and trains:
            progress.warn(
                f"Pooled features ({size_text(missing[pooled])}) have room neither on the disk nor in memory: the network runs over all "
                f"{self._splits[0].views.modality.noun}s again in every epoch of the head phase. Free that much in either, lower augment.views{smaller_heads(missing)}, or "
                "lower head_phase.epochs (up to 100 by the rule)"
            )
        rows = {
            key.output: missing[key.output] // key.row_bytes for key in self._arrays if key.output in missing
        }
        kept = [count for name, count in rows.items() if places[name] != "live"]
        self.prepare(max(rows.values()), live="live" in places.values())
        if kept:
            if pooled in order:
                self._frozen.check_untouched()
            names = " and ".join(split.name for split in self._splits)
            noun = self._splits[0].views.modality.noun
            tracker = progress.track(f"features {names}", max(kept), f"{noun}s")
            self._tracker = self.stack.enter_context(tracker)
        return places

    def prepare(self, rows: int, live: bool) -> None:
        """Tell the frozen part how many examples it computes, about: those of missing rows, or live one view of each in each epoch.

        Both get one engine.
        """
        once = sum(split.views.count for split in self._splits)
        coming = max(rows, once * self._wanted.finetune_epochs) if live else rows
        self._frozen.prepare(coming, self._splits[0].views.modality.noun, self._progress)

    def compute(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        """Rows at some positions of all rows."""
        dtype = _dtype(self._cache)
        for split, start in zip(self._splits, _starts(self._splits), strict=True):
            for view in range(split.view_count):
                first = start + view * split.views.count
                inside = positions[(positions >= first) & (positions < first + split.views.count)] - first
                for part in compute_rows(
                    self._frozen, split.views, view, inside, outputs, dtype, self._tracker
                ):
                    yield Part(part.positions + first, part.outputs, _notes(split, part.positions, first))

    def check_reading(self, live: set[str]) -> None:
        """Let examples that are going to be read in every epoch be kept first, where that was not foreseen.

        Raises:
            OtherReading: it was not.
        """
        if ACTIVATION in self._wanted.outputs and self._frozen.cut.carried:
            live = {*live, *self._frozen.cut.carried}
        for split in self._splits:
            if live and isinstance(split.views.inputs, Inputs):
                split.views.inputs.check_read_again()


def _features(
    frozen: Frozen,
    split: FrozenViews,
    start: int,
    rows: Mapping[str, Rows | None],
    wanted: Wanted,
    dtype: str,
) -> Features:
    views = split.views
    most = most_steps(views.modality)
    kept = {
        name: reader_of(found, start, views.count, most) for name, found in rows.items() if found is not None
    }

    def computed(inputs: Batch, names: Collection[str]) -> Batch:
        found = frozen.run(inputs, names)
        return {
            name: as_kept(values, "float32" if name in VECTORS else dtype) for name, values in found.items()
        }

    def outputs(
        names: Collection[str], positions: np.ndarray, view: int | np.ndarray
    ) -> dict[str, np.ndarray]:
        live = [name for name in names if name not in kept]
        found = {name: kept[name](positions, view) for name in names if name in kept}
        if live:
            found |= dict(live_rows(views, positions, view, lambda inputs: computed(inputs, live)))
        return found

    def none(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        raise AssertionError("`read_by` replaces this")

    activations = none if ACTIVATION in wanted.outputs else None
    features = Features(views, split.view_count, none, activations, outputs, frozenset(kept))
    return read_by(features, wanted.reads, frozen.cut)
