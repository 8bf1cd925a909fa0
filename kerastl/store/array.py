"""One array of the store: rows of one output by their keys, in blocks.

A row's key is a digest of the example's content and view; what else a row depends on is the array's cache key, a digest
of which names the array's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.store.block import AnyRows, Block, Ragged, is_block, new_block, read_block, write_block

# 3 names rows by their content; 1 and 2 kept one array for each split and view.
FORMAT = 3


@dataclass(frozen=True, eq=False)
class ArrayKey:
    """Name of an array: which output, and all that its rows depend on apart from the examples.

    Attributes:
        output: such as `inputs`, `pooled`, `activation`.
        facts: what the rows are a function of, as plain JSON values.
        row_shape: shape of each row; None as its first number where rows have different lengths.
        dtype: of the values, as NumPy names it. In `float16` a row with a value that does not fit is kept in float32.
        about: what a listing says beside; no part of the key.
        mean_length: of rows of different lengths, as far as it is known: what they are expected to take; no part of the key.
    """

    output: str
    facts: Mapping[str, Any]
    row_shape: tuple[int | None, ...]
    dtype: str
    about: Mapping[str, Any] = field(default_factory=dict)
    mean_length: float = 1.0

    @cached_property
    def name(self) -> str:
        """The array's folder: its output and a digest of everything else."""
        digest = hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode())
        return f"{self.output}-{digest.hexdigest()[:24]}"

    @property
    def ragged(self) -> bool:
        """True if rows have different lengths."""
        return self.row_shape[:1] == (None,)

    @property
    def row_bytes(self) -> int:
        """Size of a row; about that of the average one where rows have different lengths."""
        shape = [size for size in self.row_shape if size is not None]
        size = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        return max(1, round(size * self.mean_length)) if self.ragged else size

    def described(self) -> dict[str, Any]:
        """The key as it is written down beside the rows."""
        fields = {"output": self.output, "row_shape": list(self.row_shape), "dtype": self.dtype}
        return {"format": FORMAT, **fields, "facts": dict(self.facts)}


class Array:
    """The rows of one output that are there, on disk and in memory.

    Args:
        key: which output, and what its rows depend on.
        folder: where its blocks lie; None for an array in memory alone.

    Attributes:
        blocks: those that are there.
        damaged: those that could not be read, and were removed.
    """

    def __init__(self, key: ArrayKey, folder: Path | None) -> None:
        self.key, self.folder = key, folder
        self.blocks: list[Block] = []
        self.damaged: list[Path] = []
        self._read: set[str] = set()
        self._index: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def refresh(self) -> None:
        """Take notice of blocks that were written or removed since."""
        if self.folder is None:
            return
        try:
            names = {name for name in os.listdir(self.folder) if is_block(name)}
        except OSError:
            names = set()
        gone = [block for block in self.blocks if block.path and block.path.name not in names]
        for block in gone:
            self.forget(block)
        for name in sorted(names - self._read):
            self._read.add(name)
            if found := read_block(self.folder / name, self.key.row_shape, self.key.dtype):
                self._append(found)
            elif (self.folder / name).exists():  # else it was evicted just now
                self.damaged.append(self.folder / name)
                self._remove(self.folder / name)

    def forget(self, block: Block, remove: bool = False) -> None:
        """Leave a block out; with `remove` its file goes, too."""
        self.blocks.remove(block)
        self._index = None
        # Names are never used again: what cannot be removed is not read again either.
        if block.path and remove:
            self._remove(block.path)

    def add(self, keys: np.ndarray, rows: AnyRows, notes: Mapping[int, str], on_disk: bool) -> None:
        """Add rows, written to the disk or held in memory.

        Args:
            keys: uint64 [n, 2].
            rows: of this array's shape and dtype; float32 where some of them do not fit float16.
            notes: of some of them, by their numbers.
            on_disk: whether they are to outlive the process.
        """
        for part in self._by_dtype(rows):
            chosen = {at: notes[row] for at, row in enumerate(part.tolist()) if row in notes}
            block = new_block(keys[part], self._narrowed(rows, part), chosen)
            if on_disk:
                assert self.folder is not None
                block = write_block(block, self.folder)
                assert block.path is not None
                self._read.add(block.path.name)
            self._append(block)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of rows: int32 [n] block and int32 [n] row in it; -1 where there is none.

        Args:
            keys: uint64 [n, 2].
        """
        if self._index is None:
            every = np.concatenate([np.zeros((0, 2), np.uint64), *(block.keys for block in self.blocks)])
            counts = [len(block.keys) for block in self.blocks]
            blocks = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            rows = (np.arange(len(every)) - starts).astype(np.int32)
            order = np.argsort(every[:, 0], kind="stable")
            self._index = every[order], blocks[order], rows[order]
        every, blocks, rows = self._index
        if not len(every):
            return np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
        # By the first half of a key; that two keys agree in it alone takes billions of rows, and would cost one computation.
        at = np.minimum(np.searchsorted(every[:, 0], keys[:, 0]), len(every) - 1)
        there = (every[at] == keys).all(axis=1)
        return np.where(there, blocks[at], -1), np.where(there, rows[at], -1)

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Bools [n]: which rows are there."""
        return self.find(keys)[0] >= 0

    def _append(self, block: Block) -> None:
        self.blocks.append(block)
        self._index = None

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # of a store that may only be read: left out all the same
            path.unlink()

    def _by_dtype(self, rows: AnyRows) -> list[np.ndarray]:
        """Numbers of the rows that fit the array's dtype, and of those that do not."""
        every = np.arange(len(rows))
        values = rows.values if isinstance(rows, Ragged) else rows
        if self.key.dtype != "float16" or values.dtype == np.float16:
            return [every]
        large = np.abs(values) > np.finfo(np.float16).max
        large = large.any(axis=tuple(range(1, large.ndim)))
        if isinstance(rows, Ragged):
            large = np.isin(every, np.repeat(every, rows.lengths)[large])
        return [part for part in (every[~large], every[large]) if len(part)]

    def _narrowed(self, rows: AnyRows, part: np.ndarray) -> AnyRows:
        chosen = rows[part] if len(part) < len(rows) else rows
        values = chosen.values if isinstance(chosen, Ragged) else chosen
        if self.key.dtype == "float16" and values.dtype != np.float16:
            if not (np.abs(values) > np.finfo(np.float16).max).any():
                values = values.astype(np.float16)
        else:
            values = values.astype(self.key.dtype, copy=False)
        return Ragged(values, chosen.lengths) if isinstance(chosen, Ragged) else values


class Rows:
    """Some rows of an array, in an order of one's own: what a split, a fold or a view reads.

    Args:
        array: where they lie.
        keys: uint64 [n, 2] of rows that are all there.
    """

    def __init__(self, array: Array, keys: np.ndarray) -> None:
        self._blocks = list(array.blocks)
        self._block, self._row = array.find(keys)
        assert (self._block >= 0).all(), f"rows of {array.key.name} are missing"
        self._key = array.key
        self._shape: tuple[int, ...] = tuple(size for size in array.key.row_shape if size is not None)
        used = (self._blocks[each].dtype for each in np.unique(self._block))
        self.dtype = np.dtype(np.result_type(array.key.dtype, *used))

    def __len__(self) -> int:
        return len(self._block)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """[n, *row_shape]."""
        return (len(self), *self._key.row_shape)

    @property
    def is_ragged(self) -> bool:
        """True if rows have different lengths."""
        return self._key.ragged

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Rows at int [b], [b, *row_shape] in `dtype`; read block by block."""
        found = np.empty((len(positions), *self._shape), self.dtype)
        for places, rows in self._by_block(positions):
            found[places] = rows
        return found

    def ragged(self, positions: np.ndarray) -> Ragged:
        """Rows of different lengths at int [b]."""
        values = [np.empty((0, *self._shape), self.dtype)]
        lengths = np.zeros(len(positions), np.int64)
        order = []
        for places, rows in self._by_block(positions):
            assert isinstance(rows, Ragged)
            values.append(rows.values.astype(self.dtype, copy=False))
            lengths[places] = rows.lengths
            order.append(places)
        grouped = np.concatenate([np.zeros(0, np.int64), *order])
        return Ragged(np.concatenate(values), lengths[grouped])[np.argsort(grouped)]

    def notes(self) -> dict[int, str]:
        """Position -> what was noted of the row."""
        noted = np.isin(self._block, [at for at, block in enumerate(self._blocks) if block.notes])
        every = {
            at: self._blocks[self._block[at]].notes.get(int(self._row[at]), "")
            for at in np.flatnonzero(noted)
        }
        return {int(at): note for at, note in every.items() if note}

    def _by_block(self, positions: np.ndarray) -> Iterator[tuple[np.ndarray, AnyRows]]:
        blocks, rows = self._block[positions], self._row[positions]
        order = np.argsort(blocks, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(blocks[order])) + 1).tolist(), len(order)]
        for start, stop in itertools.pairwise(bounds if len(order) else []):
            places = order[start:stop]
            yield places, self._blocks[blocks[places[0]]].rows(rows[places])


def digests(parts: Iterable[bytes]) -> np.ndarray:
    """Keys of rows, uint64 [n, 2]: 128 bits of BLAKE2b of what each row is made from."""
    joined = b"".join(hashlib.blake2b(part, digest_size=16).digest() for part in parts)
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Positions of distinct keys, int64, increasing: the first of each."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[new])
