"""Which examples are copies of each other, byte for byte: on both sides of a split they would make its figures too good."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

UNIQUE = -1
# Files of equal size are told apart by a piece from their middle first: headers are alike, and a million whole
# files would take hours to read.
_PIECE = 4096
_BLOCK = 1 << 20
_READERS = 8


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
    rows = _repeated(np.where(sizes > 0, sizes, -np.arange(1, len(sizes) + 1)), np.arange(len(ids)))
    with ThreadPoolExecutor(_READERS) as pool:
        for whole in (False, True):
            paths = (os.path.join(root, ids[row]) for row in rows)
            read = pool.map(_digest_of_file, paths, sizes[rows].tolist(), [whole] * len(rows))
            digests = _distinct_failures(read, len(rows))
            if whole:
                contents[rows] = copies_of(digests)
            else:
                rows = _repeated(digests, rows)
    return contents


def _repeated(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows whose value another one has as well."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return rows[counts[inverse] > 1]


def _distinct_failures(digests: Iterable[int | None], count: int) -> np.ndarray:
    """int64 [n]; what could not be read gets a number of its own."""
    found = list(digests)
    taken = set(found)
    free = (number for number in range(2 * count + 1) if number not in taken)
    return np.array([next(free) if digest is None else digest for digest in found], dtype=np.int64)


def _digest_of_file(path: str, size: int, whole: bool) -> int | None:
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    try:
        with open(path, "rb", buffering=0) as file:
            if not whole:
                file.seek(max(0, size // 2 - _PIECE // 2))
                digest.update(file.read(_PIECE))
            else:
                while block := file.read(_BLOCK):
                    digest.update(block)
    except OSError:
        return None
    return int.from_bytes(digest.digest(), "little", signed=True)
