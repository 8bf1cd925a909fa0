"""A block: some rows of an array in one file, with their keys and a checksum.

It is written under a temporary name, flushed and renamed: a block that is there is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.writing import replace_atomically

MAGIC = b"kerastl3"
BLOCK_ROWS = 256
BLOCK = ".block"
KEY_BYTES = 16
# Values begin at a multiple of this, so that a row of any dtype is aligned.
ALIGNMENT = 64
FRONT_BYTES = len(MAGIC) + 8
READ_BYTES = 2**22


def is_block(name: str) -> bool:
    """True if a file is a block; one that is being written has a dot before its name."""
    return name.endswith(BLOCK) and not name.startswith(".")


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths.

    Attributes:
        values: [sum of lengths, ...], row after row.
        lengths: int64 [rows].
    """

    values: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Of the values."""
        return self.values.nbytes

    def __getitem__(self, rows: np.ndarray) -> Ragged:
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        # The place of each value: its row's start, and how far it is into the row.
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged(self.values[np.repeat(starts, lengths) + inside], lengths)


AnyRows = np.ndarray | Ragged


@dataclass(eq=False)
class Block:
    """Some rows of an array.

    Attributes:
        keys: uint64 [n, 2].
        lengths: int64 [n] of ragged rows, else None.
        notes: row in the block -> what there is to note of it, such as the format of its file.
        shape: of all values.
        dtype: of them.
        path: the file; None in memory.
        offset: where the values begin in it.
        checksum: CRC-32 of the values.
    """

    keys: np.ndarray
    lengths: np.ndarray | None
    notes: dict[int, str]
    shape: tuple[int, ...]
    dtype: str
    path: Path | None = None
    offset: int = 0
    checksum: int = 0
    _values: np.ndarray | None = None
    _sound: bool = False

    @property
    def values(self) -> np.ndarray:
        """All values, memory-mapped where they lie on disk."""
        if self._values is None:
            assert self.path is not None
            empty = not np.prod(self.shape)  # nothing to map
            self._values = (
                np.empty(self.shape, self.dtype)
                if empty
                # As a plain array, which is indexed in half the time.
                else np.asarray(
                    np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)
                )
            )
        return self._values

    def rows(self, rows: np.ndarray) -> AnyRows:
        """Some of the rows, by their numbers in the block."""
        return self.values[rows] if self.lengths is None else Ragged(self.values, self.lengths)[rows]

    def sound(self) -> bool:
        """True if the values have the checksum that they were written with; compared once."""
        if not self._sized():
            return False
        if not self._sound and self.path is not None:
            self._sound = _checksum_on_disk(self.path, self.offset) == self.checksum
        return self._sound or self.path is None

    def _sized(self) -> bool:
        if self.path is None:
            return True
        size = self.offset + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        with contextlib.suppress(OSError):
            return self.path.stat().st_size == size
        return False


def new_block(keys: np.ndarray, rows: AnyRows, notes: Mapping[int, str]) -> Block:
    """A block in memory."""
    values, lengths = (rows.values, rows.lengths) if isinstance(rows, Ragged) else (rows, None)
    return Block(keys, lengths, dict(notes), values.shape, values.dtype.name, _values=values)


def write_block(block: Block, folder: Path) -> Block:
    """Write a block into a folder, by one rename; returns it as it lies there.

    Raises:
        NoSpaceError: the disk is full. Nothing of it is left.
        WriteError: the folder cannot be written.
    """
    data = np.ascontiguousarray(block.values).reshape(-1).view(np.uint8).data
    header: dict[str, Any] = {
        "rows": len(block.keys),
        "ragged": block.lengths is not None,
        "shape": list(block.shape),
        "dtype": block.dtype,
        "notes": {str(row): note for row, note in block.notes.items()},
        "crc32": zlib.crc32(data),
    }
    table = np.ascontiguousarray(block.keys).tobytes()
    table += b"" if block.lengths is None else np.ascontiguousarray(block.lengths).tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-(FRONT_BYTES + len(text) + len(table)) % ALIGNMENT)
    front = len(text).to_bytes(4, "little") + text + table
    path = folder / f"{secrets.token_hex(8)}{BLOCK}"
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC + zlib.crc32(front).to_bytes(4, "little") + front)
        file.write(data)
        file.flush()
    offset = FRONT_BYTES + len(text) + len(table)
    return dataclasses.replace(
        block, path=path, offset=offset, checksum=header["crc32"], _values=None, _sound=True
    )


def read_block(path: Path, row_shape: tuple[int | None, ...], dtype: str) -> Block | None:
    """A block without its values; None where it is damaged, of another format, or gone."""
    try:
        with path.open("rb") as file:
            magic, checksum, length = file.read(len(MAGIC)), file.read(4), file.read(4)
            if magic != MAGIC:
                return None
            most = path.stat().st_size  # of what a damaged number asks for
            text = file.read(min(int.from_bytes(length, "little"), most))
            header = json.loads(text)
            table = file.read(min(header["rows"] * (KEY_BYTES + 8 * header["ragged"]), most))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if zlib.crc32(length + text + table) != int.from_bytes(checksum, "little"):
        return None
    rows, ragged = header["rows"], header["ragged"]
    keys = np.frombuffer(table, np.uint64, 2 * rows).reshape(rows, 2)
    lengths = np.frombuffer(table, np.int64, rows, offset=KEY_BYTES * rows) if ragged else None
    notes = {int(row): note for row, note in header["notes"].items()}
    offset = FRONT_BYTES + len(text) + len(table)
    shape = tuple(header["shape"])
    fits = header["dtype"] in (dtype, "float32") and ragged == (row_shape[:1] == (None,))
    fits = fits and shape[1:] == row_shape[ragged:] and (ragged or shape[0] == rows)
    return (
        Block(keys, lengths, notes, shape, header["dtype"], path, offset, header["crc32"]) if fits else None
    )


def _checksum_on_disk(path: Path, offset: int) -> int:
    """CRC-32 of the values of a block, read piece by piece; -1 where they cannot be read."""
    checksum = 0
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(READ_BYTES):
                checksum = zlib.crc32(piece, checksum)
    except OSError:
        return -1
    return checksum
