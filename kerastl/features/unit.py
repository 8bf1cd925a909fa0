"""One array that outlives the run that made it: `rows.npy` and, beside it, what it is a function of.

`rows.npy` opens with NumPy as it is. `manifest.json` says in plain words what the rows depend on; the folder's
name is a digest of just that, so rows of other weights, images or code are another unit and are never taken
by mistake. While a unit is built, `journal.jsonl` names the shards (ranges of rows) that are there, each with
its checksum: a build that was killed goes on where it was. The manifest appears, by one rename, when all are.
Both are sealed with a checksum of what they say, for a wrong number in them would do as much harm as a wrong row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.features.arrays import new_array
from kerastl.features.sealing import JOURNAL, MANIFEST, read_journal, read_manifest, sealed
from kerastl.locking import FileLock
from kerastl.writing import explain_write_errors, write_json_atomic, write_text_atomic

# 2: manifest and journal carry checksums of themselves.
FORMAT = 2
SHARD_ROWS = 256
READ_BYTES = 2**22
ROWS = "rows.npy"


@dataclass(frozen=True, eq=False)
class UnitKey:
    """Which rows, and all that they depend on.

    Attributes:
        kind: `pixels`, `pooled` or `activations`.
        facts: what the rows are a function of, as plain JSON values.
        rows: how many there are.
        row_shape: shape of each.
        dtype: of the values, as NumPy names it.
        about: what a listing says beside; no part of the key.
    """

    kind: str
    facts: Mapping[str, Any]
    rows: int
    row_shape: tuple[int, ...]
    dtype: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The unit's folder: its kind and a digest of everything else."""
        digest = hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode())
        return f"{self.kind}-{digest.hexdigest()[:24]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitKey) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return self.rows * self.row_bytes

    @property
    def shard_count(self) -> int:
        """Number of shards; the last may be shorter."""
        return -(-self.rows // SHARD_ROWS)

    def shard(self, index: int) -> range:
        """The rows of a shard."""
        return range(index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, self.rows))

    def described(self) -> dict[str, Any]:
        """The key as the manifest holds it."""
        fields = {"kind": self.kind, "rows": self.rows, "row_shape": list(self.row_shape)}
        return {"format": FORMAT, **fields, "dtype": self.dtype, "facts": dict(self.facts)}


class Unit:
    """One unit under a lock that this process holds.

    Attributes:
        key: what it is.
        path: its folder.
        notes: what was learnt of a shard while it was built, such as unreadable images, by its number.
        complete: whether all rows are there and may be read; False for a unit that is to be built.
    """

    def __init__(self, key: UnitKey, path: Path, lock: FileLock) -> None:
        self.key, self.path, self._lock = key, path, lock
        self.notes: dict[int, dict[str, str]] = {}
        self._checksums: dict[int, int] = {}
        self._descriptor: int | None = None
        self._header_bytes = 0
        self._recovered = False
        self.complete = self._read_manifest()

    @property
    def missing(self) -> list[int]:
        """Shards that are still to be built."""
        return [index for index in range(self.key.shard_count) if index not in self._checksums]

    def rows(self) -> np.ndarray:
        """The rows of a complete unit, memory-mapped and read-only: [rows, *row_shape]."""
        assert self.complete
        return np.load(self.path / ROWS, mmap_mode="r")

    def verify(self) -> bool:
        """Whether the unit is complete and every shard still has the checksum that it was written with.

        A shard that has not is forgotten: it is to be built again.
        """
        if not self._sized():
            self._checksums = {}
        for index, checksum in list(self._checksums.items()):
            if self._checksum_on_disk(index) != checksum:
                del self._checksums[index]
        self.complete = self.complete and not self.missing
        return self.complete

    def recover(self) -> None:
        """Find the sound shards of an interrupted or damaged unit, so that `missing` names the others only."""
        if not self._read_manifest():
            self._read_journal()
        self.complete = False
        self.verify()
        self._recovered = True

    def begin(self) -> None:
        """Make ready for building; shards of an interrupted or damaged unit that are sound are kept.

        Raises:
            NoSpaceError: the disk has no room for the rows.
        """
        if not self._recovered:
            self.recover()
        (self.path / MANIFEST).unlink(missing_ok=True)
        if not self._sized():
            shutil.rmtree(self.path, ignore_errors=True)
            self._checksums = {}
            new_array(self.path / ROWS, (self.key.rows, *self.key.row_shape), np.dtype(self.key.dtype).type)
            assert self._sized()
        self.notes = {shard: notes for shard, notes in self.notes.items() if shard in self._checksums}
        lines = [
            sealed({**self.key.described(), "about": dict(self.key.about)}),
            *(self._entry(shard) for shard in sorted(self._checksums)),
        ]
        with explain_write_errors(self.path):
            write_text_atomic(self.path / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
            self._descriptor = os.open(self.path / ROWS, os.O_RDWR | os.O_CLOEXEC)

    def write(self, shard: int, rows: np.ndarray, notes: Mapping[str, str] | None = None) -> None:
        """Write all rows of a shard, and remember that they are there and what there is to note of them.

        Written past the memory map, whose pages would count as this process's memory.
        """
        expected = (len(self.key.shard(shard)), *self.key.row_shape)
        assert rows.shape == expected and rows.dtype == np.dtype(self.key.dtype), (rows.shape, rows.dtype)
        assert self._descriptor is not None
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        with explain_write_errors(self.path):
            start, written = self._offset(shard), 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], start + written)
            self._checksums[shard] = zlib.crc32(data)
            os.fsync(self._descriptor)  # by and by, or `publish` would wait for all of it
            if notes:
                self.notes[shard] = dict(notes)
            with (self.path / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._entry(shard)) + "\n")

    def publish(self) -> None:
        """Finish the unit, of which every shard has to be there, and let others read it."""
        assert not self.missing and self._descriptor is not None
        os.fsync(self._descriptor)
        self.close()
        checksums = [self._checksums[index] for index in range(self.key.shard_count)]
        content = {**self.key.described(), "about": dict(self.key.about), "created": time.time()}
        notes = {str(shard): notes for shard, notes in sorted(self.notes.items())}
        write_json_atomic(self.path / MANIFEST, sealed({**content, "notes": notes, "crc32": checksums}))
        (self.path / JOURNAL).unlink(missing_ok=True)
        self.complete = True
        self._lock.share()

    def close(self) -> None:
        """Stop writing; a build that is not finished goes on at the next time."""
        self._recovered = False
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def release(self) -> None:
        """Let go of it; where nothing was built, nothing is left behind."""
        self.close()
        if not self.complete and self._lock.acquired and not self.path.exists():
            # Whoever waits opens the file anew, so it may be removed by the one who holds it.
            with contextlib.suppress(OSError):
                self._lock.path.unlink()
        self._lock.release()

    def _read_manifest(self) -> bool:
        content = read_manifest(self.path) or {}
        expected = self.key.described()
        if {name: content.get(name) for name in expected} != expected:
            return False
        checksums = content.get("crc32")
        if not isinstance(checksums, list) or len(checksums) != self.key.shard_count:
            return False
        self._checksums = dict(enumerate(checksums))
        self.notes = {int(shard): notes for shard, notes in content["notes"].items()}
        return True

    def _read_journal(self) -> None:
        self._checksums, self.notes = {}, {}
        header, *entries = read_journal(self.path) or [{}]
        if {name: header.get(name) for name in self.key.described()} != self.key.described():
            return
        for entry in entries:
            self._checksums[entry["shard"]] = entry["crc32"]
            self.notes[entry["shard"]] = entry["notes"]

    def _entry(self, shard: int) -> dict[str, Any]:
        notes = self.notes.get(shard, {})
        return sealed({"shard": shard, "crc32": self._checksums[shard], "notes": notes})

    def _sized(self) -> bool:
        """Whether `rows.npy` is an array of the right shape and length."""
        try:
            array = np.load(self.path / ROWS, mmap_mode="r")
        except (OSError, ValueError):
            return False
        shape = (self.key.rows, *self.key.row_shape)
        fits = array.shape == shape and array.dtype == np.dtype(self.key.dtype)
        # Nothing may follow the rows: a longer file is not what was written.
        self._header_bytes = int(getattr(array, "offset", 0))
        return fits and (self.path / ROWS).stat().st_size == self._header_bytes + self.key.bytes

    def _offset(self, shard: int) -> int:
        return self._header_bytes + shard * SHARD_ROWS * self.key.row_bytes

    def _checksum_on_disk(self, shard: int) -> int:
        """Checksum of a shard, read piece by piece."""
        left, checksum = len(self.key.shard(shard)) * self.key.row_bytes, 0
        with (self.path / ROWS).open("rb") as file:
            file.seek(self._offset(shard))
            while left:
                piece = file.read(min(left, READ_BYTES))
                if not piece:
                    return -1
                checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        return checksum


class MemoryUnit:
    """The same in memory: for stores that nobody else should see, or that no disk has room for."""

    def __init__(self, key: UnitKey) -> None:
        self.key = key
        self.notes: dict[int, dict[str, str]] = {}
        self.complete = False
        self._rows = np.zeros((key.rows, *key.row_shape), np.dtype(key.dtype))
        self._written: set[int] = set()

    @property
    def missing(self) -> list[int]:
        """Shards that are still to be built."""
        return [index for index in range(self.key.shard_count) if index not in self._written]

    def rows(self) -> np.ndarray:
        """All rows: [rows, *row_shape]."""
        return self._rows

    def begin(self) -> None:
        """Nothing to make ready."""

    def write(self, shard: int, rows: np.ndarray, notes: Mapping[str, str] | None = None) -> None:
        """Take all rows of a shard, and what there is to note of them."""
        if notes:
            self.notes[shard] = dict(notes)
        part = self.key.shard(shard)
        self._rows[part.start : part.stop] = rows
        self._written.add(shard)

    def publish(self) -> None:
        """All shards are there."""
        assert not self.missing
        self.complete = True
