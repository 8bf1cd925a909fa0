"""The store: rows that are there are read, others are computed and kept, by this process or by another one.

A process says which rows it is about to compute; others compute other rows, and wait for those.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kerastl.progress import Progress
from kerastl.store.array import Array, ArrayKey, Rows, first_of_each
from kerastl.store.block import BLOCK_ROWS, KEY_BYTES, AnyRows, Ragged
from kerastl.store.store_folder import CLAIM, HOLD, KEY_FILE, Folder, living
from kerastl.writing import WriteError, explain_write_errors, write_json_atomic

# A process computes an eighth of what is missing at a time, so that another one finds rows to compute as well, and no
# fewer than four blocks, as each time files are opened anew.
PARCELS, PARCEL_BLOCKS = 8, 4


@dataclass(frozen=True)
class Part:
    """Result of `compute` for some rows.

    Attributes:
        positions: int [b] of the rows; those that cannot be made are left out.
        outputs: output -> its rows, [b, ...].
        notes: position -> what there is to note of it.
    """

    positions: np.ndarray
    outputs: Mapping[str, AnyRows]
    notes: Mapping[int, str] = field(default_factory=dict)


# Positions and names of outputs in, parts out; positions increase.
Compute = Callable[[np.ndarray, Collection[str]], Iterable[Part]]
# Missing bytes of each output, and room on the disk, in; `disk`, `memory` or `live` for each output, out.
Place = Callable[[Mapping[str, int], int], Mapping[str, str]]


def all_on_disk(missing: Mapping[str, int], room: int) -> dict[str, str]:
    """A `Place` for what has to be kept beyond the process."""
    return dict.fromkeys(missing, "disk")


class Store:
    """Arrays in a folder or in memory, and what this process reads of them until `close`; a context manager.

    Args:
        folder: of the store; None for arrays in memory alone.
    """

    def __init__(self, folder: Folder | None) -> None:
        self.folder = folder
        self._arrays: dict[str, Array] = {}
        self._holds: dict[str, tuple[set[str], contextlib.ExitStack]] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all that is read, so that it may be evicted, and of what is in memory."""
        for _, marker in self._holds.values():
            marker.close()
        self._holds.clear()
        self._arrays.clear()

    def open(
        self,
        arrays: Sequence[ArrayKey],
        keys: np.ndarray,
        compute: Compute,
        place: Place = all_on_disk,
        progress: Progress = Progress(),
        in_one: bool = False,
    ) -> dict[str, Rows | None]:
        """Rows of some outputs: read where they are there, else computed and kept.

        Args:
            arrays: the outputs.
            keys: uint64 [n, 2]: what each row is made from; equal keys share a row.
            compute: called for missing rows only, as often as there are parcels of them.
            place: decides where missing rows are kept.
            progress: is told of waiting and of damage.
            in_one: compute all that is missing in one call, because each call begins at the front of the data.

        Returns:
            For each output its rows, in the order of `keys`: None where it is to be live, or where a row cannot be made.

        Raises:
            NoSpaceError: the disk is full.
            WriteError: the store cannot be written, or lies where there are no locks.
        """
        held = {key.output: self._held(key) for key in arrays}
        distinct = first_of_each(keys)
        missing = {name: self._missing(array, keys[distinct], progress) for name, array in held.items()}
        sizes = {
            name: int(lost.sum()) * held[name].key.row_bytes for name, lost in missing.items() if lost.any()
        }
        places = place(sizes, self.folder.room() if self.folder else 0) if sizes else {}
        kept = {name: array for name, array in held.items() if places.get(name) != "live"}
        on_disk = [name for name in sizes if places[name] == "disk"]
        if on_disk and self.folder:
            self.folder.make_room(sum(sizes[name] + KEY_BYTES * int(missing[name].sum()) for name in on_disk))
        failed = np.zeros(len(distinct), bool)
        while any(self._missing(array, keys[distinct], progress)[~failed].any() for array in kept.values()):
            self._fill(kept, places, keys, distinct, failed, compute, progress, in_one)
        return {
            name: Rows(array, keys) if name in kept and array.has(keys).all() else None
            for name, array in held.items()
        }

    def look(self, key: ArrayKey, keys: np.ndarray) -> np.ndarray:
        """Bools [n]: which rows are there; nothing is held, checked or computed."""
        self._held(key).refresh()
        return self.has(key, keys)

    def has(self, key: ArrayKey, keys: np.ndarray) -> np.ndarray:
        """Bools [n]: which rows were there when the array was last opened or looked at."""
        return self._held(key).has(keys)

    def rows(self, key: ArrayKey, keys: np.ndarray) -> Rows:
        """Rows that are all there, in an order of one's own."""
        return Rows(self._arrays[key.name], keys)

    def _held(self, key: ArrayKey) -> Array:
        folder = self.folder.root / key.name if self.folder else None
        return self._arrays.setdefault(key.name, Array(key, folder))

    def _missing(self, array: Array, keys: np.ndarray, progress: Progress) -> np.ndarray:
        """Bools [n]: which rows are not there; blocks that hold the others are held and checked."""
        self._hold(array, keys)
        while True:
            blocks, _ = array.find(keys)
            for block in [block for at in _used(blocks) if not (block := array.blocks[at]).sound()]:
                assert block.path is not None
                array.damaged.append(block.path)
                array.forget(block, remove=True)
            for path in array.damaged:
                progress.warn(f"{path} is damaged and was removed; what it held is computed again")
            if not array.damaged:
                return blocks < 0
            array.damaged.clear()

    def _hold(self, array: Array, keys: np.ndarray) -> None:
        """Take notice of rows that are there, say that they are read, so that nobody evicts them, and when."""
        array.refresh()
        if self.folder is None or array.folder is None or not array.folder.is_dir():
            return
        # A store that may only be read is used all the same.
        with contextlib.suppress(WriteError, OSError), self.folder.locked():
            array.refresh()
            blocks, _ = array.find(keys)
            paths = [path for at in _used(blocks) if (path := array.blocks[at].path)]
            for path in paths:
                os.utime(path)
            held, before = self._holds.get(array.key.name, (set[str](), contextlib.ExitStack()))
            names = held | {path.name for path in paths}
            if names != held:
                marker = contextlib.ExitStack()
                marker.enter_context(self.folder.marker(array.folder, HOLD, "\n".join(names).encode()))
                self._holds[array.key.name] = names, marker
                before.close()

    def _fill(
        self,
        arrays: Mapping[str, Array],
        places: Mapping[str, str],
        keys: np.ndarray,
        distinct: np.ndarray,
        failed: np.ndarray,
        compute: Compute,
        progress: Progress,
        in_one: bool,
    ) -> None:
        """Compute what is missing and nobody else computes, and wait for the others, until all but `failed` is there."""
        parcel_rows, pause = 0, 0.0
        while True:
            with contextlib.ExitStack() as stack:
                on_disk = "disk" in places.values() and self.folder
                with on_disk.locked() if on_disk else contextlib.nullcontext():
                    lost, free = {}, {}
                    for name, array in arrays.items():
                        array.refresh()
                        lost[name] = ~array.has(keys[distinct]) & ~failed
                        free[name] = lost[name] & ~_claimed(array, keys[distinct])
                    if not any(rows.any() for rows in lost.values()):
                        return
                    mine, outputs = _alike(free)
                    parcel_rows = parcel_rows or max(PARCEL_BLOCKS * BLOCK_ROWS, -(-len(mine) // PARCELS))
                    mine = mine if in_one else mine[:parcel_rows]
                    for name in outputs if len(mine) else ():
                        if on_disk and places.get(name) == "disk":
                            folder = _described(arrays[name])
                            claim = on_disk.marker(folder, CLAIM, keys[distinct[mine]].tobytes())
                            stack.enter_context(claim)
                if len(mine):
                    chosen = {name: arrays[name] for name in outputs}
                    made = _compute(compute, distinct[mine], chosen, places, keys)
                    failed[mine[~np.isin(distinct[mine], made)]] = True
                    pause = 0.0
                    continue
            if not pause:
                progress.note("Waiting for another process that computes the same")
            pause = min(1.0, pause + 0.1)
            time.sleep(pause)


def _described(array: Array) -> Path:
    """The folder of an array, made, with a description of it, before its first row."""
    assert array.folder is not None
    with explain_write_errors(array.folder):
        array.folder.mkdir(parents=True, exist_ok=True)
    if not (array.folder / KEY_FILE).is_file():
        about = {"about": dict(array.key.about), "created": time.time()}
        write_json_atomic(array.folder / KEY_FILE, {**array.key.described(), **about})
    return array.folder


def _claimed(array: Array, keys: np.ndarray) -> np.ndarray:
    """Bools [n]: which rows a living process is about to compute; what dead ones left is removed."""
    claimed = np.zeros(len(keys), bool)
    if array.folder is None:
        return claimed
    claims = living(array.folder, CLAIM, remove=True)
    for content in claims:
        claimed |= _among(keys, np.frombuffer(content, np.uint64).reshape(-1, 2))
    if not claims:
        for path in array.folder.glob(".tmp-*"):  # of a process that was killed while it wrote
            path.unlink(missing_ok=True)
    return claimed


def _compute(
    compute: Compute,
    positions: np.ndarray,
    arrays: Mapping[str, Array],
    places: Mapping[str, str],
    keys: np.ndarray,
) -> np.ndarray:
    """Compute rows and keep them block by block, each written while the next one is computed; positions that were made."""
    made: list[np.ndarray] = [np.zeros(0, np.int64)]
    waiting: list[Part] = []

    def write(parts: Sequence[Part]) -> None:
        at = np.concatenate([part.positions for part in parts])
        notes = {
            row: note
            for part in parts
            for row, place in enumerate(at.tolist())
            if (note := part.notes.get(place))
        }
        for name, array in arrays.items():
            rows = _joined([part.outputs[name] for part in parts])
            array.add(keys[at], rows, notes, places.get(name) == "disk")

    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for part in compute(positions, tuple(arrays)):
            waiting.append(part)
            made.append(part.positions)
            if sum(len(each.positions) for each in waiting) >= BLOCK_ROWS:
                # No more than one finished block waits in memory for the disk, while the work goes on.
                if writing:
                    writing.result()
                writing, waiting = writer.submit(write, waiting), []
        if writing:
            writing.result()
        if waiting:
            write(waiting)
    return np.concatenate(made)


def _joined(parts: Sequence[AnyRows]) -> AnyRows:
    if isinstance(parts[0], Ragged):
        ragged = [part for part in parts if isinstance(part, Ragged)]
        values = np.concatenate([part.values for part in ragged])
        return Ragged(values, np.concatenate([part.lengths for part in ragged]))
    return np.concatenate([np.asarray(part) for part in parts])


def _alike(free: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows that lack the same outputs as the first that lacks any, and these outputs."""
    needs = np.stack(list(free.values()), axis=1)
    lacking = np.flatnonzero(needs.any(axis=1))
    if not len(lacking):
        return lacking, ()
    first = needs[lacking[0]]
    alike = lacking[(needs[lacking] == first).all(axis=1)]
    return alike, tuple(name for name, wanted in zip(free, first, strict=True) if wanted)


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bools [n]: which keys are among others."""
    return np.isin(keys[:, 0], others[:, 0]) & np.isin(keys[:, 1], others[:, 1])


def _used(blocks: np.ndarray) -> list[int]:
    """The blocks that any row was found in."""
    return np.unique(blocks[blocks >= 0]).tolist()
