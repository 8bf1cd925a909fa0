"""Which examples are copies of each other, byte for byte: on both sides of a split they would make its figures too good."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

UNIQUE = -1
# Files of equal size are told apart by a piece from their middle first: headers are alike, and a million whole
# files would take hours to read.
_PIECE = 4096
_BLOCK = 1 << 20
# Threads for disks that are slow to answer. Where the system has the files in memory they would wait for each other: eight took
# 1.5 s for 100,000 small files, one 0.7 s, and a task for each file 5 s.
_READERS = 8
_TOGETHER = 1000
_SLOW_SECONDS = 1e-4


def copies_of(digests: np.ndarray) -> np.ndarray:
    """int64 [n]: one number for all examples of equal content; -1 for an example that is like no other.

    Args:
        digests: [n], equal where contents are equal.
    """
    _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
    return np.where(counts[inverse] > 1, inverse, UNIQUE).astype(np.int64)


def digest_of(data: bytes) -> int:
    """A whole example in 64 bits: among a million examples two unlike ones agree once in 30 million times."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def equal_files(root: str, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`copies_of` for files; one that cannot be read counts as unlike all others.

    Args:
        root: folder that relative ids start from.
        ids: object [n] of str, paths.
        sizes: int64 [n], bytes; only files of equal size are opened.
    """
    contents = np.full(len(ids), UNIQUE, dtype=np.int64)
    rows = np.flatnonzero(sizes > 0)
    rows = _repeated(sizes[rows], rows)
    rows = _repeated(*_digests(_piece, root, ids, sizes, rows))
    digests, rows = _digests(_whole, root, ids, sizes, rows)
    contents[rows] = copies_of(digests)
    return contents


def _repeated(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows whose value another row has as well."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return rows[counts[inverse] > 1]


def _digests(
    digest: Callable[[str, int], int], root: str, ids: np.ndarray, sizes: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Digest of each row's file, int64, and the rows; without those whose file cannot be read."""

    def read(part: np.ndarray) -> np.ndarray:
        found = []
        for row in part.tolist():
            with contextlib.suppress(OSError):
                found.append((digest(os.path.join(root, ids[row]), int(sizes[row])), row))
        return np.array(found, np.int64).reshape(-1, 2)

    first, *others = np.split(rows, range(_TOGETHER, len(rows), _TOGETHER))
    started = time.perf_counter()
    found = [read(first)]
    is_slow = time.perf_counter() - started > _SLOW_SECONDS * len(first)
    with ThreadPoolExecutor(_READERS) as pool:
        found += (pool.map if is_slow else map)(read, others)
    both = np.concatenate(found)
    return both[:, 0], both[:, 1]


def _piece(path: str, size: int) -> int:
    """Digest of the middle of a file, for this process alone: by Python's own hash, which costs nothing beside the reading."""
    file = os.open(path, os.O_RDONLY)
    try:
        return hash((size, os.pread(file, _PIECE, max(0, size // 2 - _PIECE // 2))))
    finally:
        os.close(file)


def _whole(path: str, size: int) -> int:
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return int.from_bytes(digest.digest(), "little", signed=True)
