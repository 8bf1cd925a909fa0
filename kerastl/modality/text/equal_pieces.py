"""Texts that are the same to a network: what differs in them, such as capitals, is in none of its pieces."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 8


def digests_of(pieces: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A digest of each row without its padding, uint8 [n, 8].

    Args:
        pieces: int32 [n, max_pieces].
        lengths: int [n], pieces before the padding.
    """
    rows = zip(np.ascontiguousarray(pieces, np.int32), lengths, strict=True)
    digests = (blake2b(row[:length], digest_size=DIGEST_BYTES).digest() for row, length in rows)
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def equal_rows(some: np.ndarray, others: np.ndarray) -> list[tuple[int, int, float]]:
    """The digests that stand among others, too.

    Args:
        some: uint8 [n, 8].
        others: uint8 [m, 8], m at least 1.

    Returns:
        For each one its place in `some`, the first place of its like in `others`, and their likeness, 1.
    """
    ours, theirs = (np.ascontiguousarray(each).view(np.uint64)[:, 0] for each in (some, others))
    known, first = np.unique(theirs, return_index=True)
    at = np.minimum(np.searchsorted(known, ours), len(known) - 1)
    return [(int(row), int(first[at[row]]), 1.0) for row in np.flatnonzero(known[at] == ours)]
