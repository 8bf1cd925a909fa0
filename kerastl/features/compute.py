"""Runs the frozen prefix over the examples of a view, which are made while it computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from kerastl.features.frozen import Frozen
from kerastl.features.sequences import alike, ragged
from kerastl.features.views import Views
from kerastl.modality import Batch
from kerastl.model.cut import STEPPED
from kerastl.progress import Tracker, size_text
from kerastl.store.block import AnyRows
from kerastl.store.store import Part

Given = TypeVar("Given")
Result = TypeVar("Result")


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
    size = frozen.batch_size
    batches = [positions[start : start + size] for start in range(0, len(positions), size)]
    watch, kept_bytes = Watch(views.modality.noun), 0
    cut = frozen.cut
    parts: Iterable[tuple[np.ndarray, Batch]] = zip(
        batches, made_ahead(views, view, batches, watch), strict=True
    )
    if cut.length and cut.stepped:
        parts = alike(parts, cut.length, cut.stepped, size)

    def part_of(some: tuple[np.ndarray, Batch]) -> Part:
        positions, inputs = some
        found = frozen.run(inputs, outputs, dtype)
        kept: dict[str, AnyRows] = dict(found)
        if cut.length and cut.stepped:
            kept |= {name: ragged(found[name], inputs[cut.length]) for name in found if name in STEPPED}
        return Part(positions, kept)

    for part in at_once(part_of, parts, frozen.batches_at_once):
        kept_bytes += sum(rows.nbytes for rows in part.outputs.values())
        tracker.advance(len(part.positions), f"{size_text(kept_bytes)}, {watch.limit()}")
        yield part


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


def at_once(run: Callable[[Given], Result], coming: Iterable[Given], most: int) -> Iterator[Result]:
    """Results of a function in the order of what it is given, up to `most` of them on their way at once."""
    if most == 1:
        yield from map(run, coming)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(most) as pool:
        for number, given in enumerate(coming):
            if not number:
                yield run(
                    given
                )  # builds what all of them call, by the arithmetic that Keras has in this thread
                continue
            waiting.append(pool.submit(run, given))
            if len(waiting) == most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
