"""Running the frozen part over the images of a view, and writing down what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kerastl.features.ahead import Watch, images_ahead
from kerastl.features.frozen import BATCH_SIZE, Frozen, narrowed
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.features.views import FrozenViews, Views
from kerastl.progress import Tracker, size_text

SAMPLE_BATCHES = 2


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
    usable = {start: outputs for start, outputs in done.items() if outputs.keys() >= units.keys()}
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
        units[kind].write(shard, np.concatenate(pieces))


class Sample:
    """The first batches of what is missing: computed to see how fast that goes here, and kept, so that nothing is
    computed twice.
    """

    def __init__(
        self,
        frozen: Frozen,
        splits: Sequence[FrozenViews],
        keys: Sequence[Mapping[str, UnitKey]],
        is_kept: Callable[[UnitKey], bool],
    ) -> None:
        places = [(split, view) for split in splits for view in range(split.view_count)]
        missing = [[kind for kind, key in of_view.items() if not is_kept(key)] for of_view in keys]
        first = next((index for index, kinds in enumerate(missing) if kinds), 0)
        self.frozen, self.kinds = frozen, missing[first]
        self.split, self.view = places[first]
        self._outputs: dict[int, dict[str, np.ndarray]] = {}
        self._rate = 0.0

    @property
    def passes(self) -> int:
        """Images in it."""
        return sum(len(next(iter(outputs.values()))) for outputs in self._outputs.values())

    def of(self, split: FrozenViews, view: int) -> Mapping[int, Mapping[str, np.ndarray]]:
        """Outputs by the position of the batch's first image, if they are of this view."""
        return self._outputs if split is self.split and view == self.view else {}

    def rate(self) -> float:
        """Images a second of the frozen part; measured once."""
        if self._rate:
            return self._rate
        views = self.split.views
        wanted = {kind: kind in self.kinds for kind in ("pooled", "activations")}
        batches = batches_of(range(min(SAMPLE_BATCHES * BATCH_SIZE, views.count)))
        for batch in batches:
            images = views.images(batch, self.view)
            began = time.perf_counter()
            self._outputs[int(batch[0])] = self.frozen.run(images, **wanted)
        if len(batches) == 1:  # The first is traced, and its time says nothing.
            began = time.perf_counter()
            self.frozen.run(images, **wanted)
            self.frozen.forward_passes -= len(images)
        self._rate = BATCH_SIZE / max(1e-9, time.perf_counter() - began)
        return self._rate


def batches_of(rows: range) -> list[np.ndarray]:
    """The positions of each batch; the last one may be shorter."""
    return [
        np.arange(start, min(start + BATCH_SIZE, rows.stop))
        for start in range(rows.start, rows.stop, BATCH_SIZE)
    ]
