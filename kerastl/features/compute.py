"""Runs the frozen prefix over the examples of a view, which are made while it computes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kerastl.features.frozen import BATCH_SIZE, Frozen, narrowed
from kerastl.features.sequences import alike, ragged
from kerastl.features.views import Views
from kerastl.modality import Batch
from kerastl.model.cut import ACTIVATION, VECTORS
from kerastl.progress import Tracker, size_text
from kerastl.store.block import AnyRows
from kerastl.store.store import Part


class Watch:
    """Share of the time that the forward pass waits for examples; `noun` names them."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self.waited = 0.0
        self.started = time.perf_counter()

    def limit(self) -> str:
        """The bottleneck in a few words, for the progress bar."""
        share = self.waited / max(1e-9, time.perf_counter() - self.started)
        return f"limit: {self._noun}s ({share:.0%} waiting)" if share > 0.3 else "limit: network"


def compute_rows(
    frozen: Frozen,
    views: Views,
    view: int,
    positions: np.ndarray,
    outputs: Collection[str],
    dtype: str,
    tracker: Tracker,
) -> Iterator[Part]:
    """Outputs of the prefix for some examples of a view.

    Args:
        frozen: the part below the cut of the network.
        views: the examples.
        view: which one of each.
        positions: int [n], increasing.
        outputs: names of those that are wanted, all of which one forward pass gives.
        dtype: of all but pooled ones.
        tracker: is told of each batch.
    """
    batches = [positions[start : start + BATCH_SIZE] for start in range(0, len(positions), BATCH_SIZE)]
    watch, size = Watch(views.modality.noun), 0
    cut = frozen.cut
    parts: Iterator[tuple[np.ndarray, Batch]] = zip(
        batches, made_ahead(views, view, batches, watch), strict=True
    )
    if cut.length and cut.stepped:
        parts = alike(parts, cut.length, cut.stepped, BATCH_SIZE)
    for batch, inputs in parts:
        found = frozen.run(inputs, outputs)
        found = {name: rows if name in VECTORS else narrowed(rows, dtype) for name, rows in found.items()}
        size += sum(rows.nbytes for rows in found.values())
        tracker.advance(len(batch), f"{size_text(size)}, {watch.limit()}")
        kept: dict[str, AnyRows] = dict(found)
        if cut.length and cut.stepped and ACTIVATION in found:
            kept[ACTIVATION] = ragged(found[ACTIVATION], inputs[cut.length])
        yield Part(batch, kept)


def made_ahead(views: Views, view: int, batches: Sequence[np.ndarray], watch: Watch) -> Iterator[Batch]:
    """The inputs of each batch, the next one made while the last one is computed with."""
    with ThreadPoolExecutor(1) as pool:
        making = views.in_turn(batches, view)
        coming = [pool.submit(next, making) for _ in batches[:2]]
        for number in range(len(batches)):
            began = time.perf_counter()
            inputs = coming.pop(0).result()
            watch.waited += time.perf_counter() - began
            if number + 2 < len(batches):
                coming.append(pool.submit(next, making))
            yield inputs
