"""Running the frozen part over the images of a view, and writing down what it says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kerastl.features.ahead import Watch, images_ahead
from kerastl.features.choosing import Gaps
from kerastl.features.frozen import BATCH_SIZE, Frozen, fits_sixteen_bits, narrowed
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.features.views import FrozenViews, Views
from kerastl.progress import Tracker, size_text

SAMPLE_BATCHES = 2
BEYOND_SIXTEEN_BITS = {"values": "beyond sixteen bits"}


def fill(
    frozen: Frozen,
    views: Views,
    view: int,
    units: Mapping[str, Unit | MemoryUnit],
    done: Mapping[int, Mapping[str, np.ndarray]],
    tracker: Tracker,
) -> None:
    """Run the frozen part over all images of a view that any of the units still misses; some batches may be done."""
    for unit in units.values():
        unit.begin()
    key = next(iter(units.values())).key
    gaps = {kind: set(unit.missing) for kind, unit in units.items()}
    shards = sorted(set().union(*gaps.values()))
    tracker.advance(key.rows - sum(len(key.shard(shard)) for shard in shards))
    batches = [batches_of(key.shard(shard)) for shard in shards]
    watch, written, row_bytes = Watch(), 0, sum(unit.key.row_bytes for unit in units.values())
    needed = {kind for kind, shards_of_kind in gaps.items() if shards_of_kind}
    usable = {start: outputs for start, outputs in done.items() if outputs.keys() >= needed}
    coming = [batch for of_shard in batches for batch in of_shard if int(batch[0]) not in usable]
    images = images_ahead(views, view, coming, watch)
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for shard, of_shard in zip(shards, batches, strict=True):
            wanted = {kind: shard in gaps[kind] for kind in units}
            parts: dict[str, list[np.ndarray]] = {kind: [] for kind in units if wanted[kind]}
            for batch in of_shard:
                found = usable.get(int(batch[0])) or frozen.run(
                    next(images),
                    pooled=wanted.get("pooled", False),
                    activations=wanted.get("activations", False),
                )
                for kind, pieces in parts.items():
                    pieces.append(narrowed(found[kind], units[kind].key.dtype))
                written += len(batch) * row_bytes
                tracker.advance(len(batch), f"{size_text(written)}, {watch.limit()}")
            # No more than one finished shard waits in memory for the disk, while the network goes on.
            if writing:
                writing.result()
            writing = writer.submit(_write, units, shard, parts)
        if writing:
            writing.result()
    for unit in units.values():
        unit.publish()


def _write(
    units: Mapping[str, Unit | MemoryUnit], shard: int, parts: Mapping[str, Sequence[np.ndarray]]
) -> None:
    for kind, pieces in parts.items():
        rows = np.concatenate(pieces)
        # Which dtype a later run has to take follows from the values, whoever asked for the wider one.
        wide = kind == "activations" and rows.dtype == np.float32 and not fits_sixteen_bits(rows)
        units[kind].write(shard, rows, BEYOND_SIXTEEN_BITS if wide else None)


class Sample:
    """The first batches of what is missing: computed to see how fast that goes here, and kept, so that nothing is
    computed twice.

    Args:
        frozen: the frozen part of the network.
        splits: what its features are wanted of.
        keys: pooled features and activations of each view.
        gaps: the shards of a unit that are to be built.
    """

    def __init__(
        self,
        frozen: Frozen,
        splits: Sequence[FrozenViews],
        keys: Sequence[Mapping[str, UnitKey]],
        gaps: Gaps,
    ) -> None:
        self._frozen, self._outputs, self._rate = frozen, dict[int, dict[str, np.ndarray]](), 0.0
        places = [(split, view) for split in splits for view in range(split.view_count)]
        self._place: tuple[FrozenViews, int] | None = None
        for place, of_view in zip(places, keys, strict=True):
            missing = {kind: set(found) for kind, key in of_view.items() if (found := gaps(key))}
            if missing:
                rows = next(iter(of_view.values())).shard(min(set().union(*missing.values())))
                self._place, self._kinds, self._batches = place, missing, batches_of(rows)[:SAMPLE_BATCHES]
                return

    @property
    def measured(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._outputs)

    def of(self, split: FrozenViews, view: int) -> Mapping[int, Mapping[str, np.ndarray]]:
        """Outputs by the position of the batch's first image, if they are of this view."""
        return self._outputs if self._place == (split, view) else {}

    def rate(self) -> float:
        """Images a second, made and run through the frozen part; measured once.

        The first batch is traced, and its time says nothing. Where there is no other the rate is at least what its time
        says: nothing is run again for a better figure.
        """
        if self._rate:
            return self._rate
        assert self._place is not None, "nothing is missing"
        split, view = self._place
        wanted = {kind: kind in self._kinds for kind in ("pooled", "activations")}
        for batch in self._batches:
            began = time.perf_counter()
            images = split.views.images(batch, view)  # which whoever computes live makes anew, too
            self._outputs[int(batch[0])] = self._frozen.run(images, **wanted)
        self._rate = BATCH_SIZE / max(1e-9, time.perf_counter() - began)
        return self._rate


def batches_of(rows: range) -> list[np.ndarray]:
    """The positions of each batch; the last one may be shorter."""
    return [
        np.arange(start, min(start + BATCH_SIZE, rows.stop))
        for start in range(rows.start, rows.stop, BATCH_SIZE)
    ]
