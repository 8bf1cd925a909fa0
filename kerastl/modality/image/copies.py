"""Which images are nearly the same: frames of a burst, or one picture saved twice, on two sides of a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

HEIGHT, WIDTH = 8, 9
# N. Krawetz takes images for the same that differ in at most ten of the 64 bits ("Kind of like that", 2013).
_MOST_BITS = 10
# Correlation of two thumbnails. Photographs saved as JPEG again, brightened, with noise, cut by 3 % or moved by 1 % of
# their width keep 0.95 and more; of two million pairs of CIFAR-10's 1,000 test and 2,000 training images none has it.
_LEAST = 0.95
_CLOSER = (_LEAST, 0.97, 0.98, 0.99, 0.995)
_STEEP = 3.0
# A comparison costs some 5 ns.
_MOST_PAIRS = 500_000_000
# Pairs that are compared at a time are few enough for the processor's cache.
_OTHERS_AT_ONCE, _ROWS_AT_ONCE = 4096, 64


def thumbnails_of(pixels: np.ndarray) -> np.ndarray:
    """Brightness uint8 [b, 8, 9] of images uint8 [b, height, width, 3]: the mean of each cell."""
    means = pixels
    for axis, cells in ((1, HEIGHT), (2, WIDTH)):
        if means.shape[axis] < cells:
            means = np.repeat(means, -(-cells // means.shape[axis]), axis=axis)
        size = means.shape[axis]
        edges = np.arange(cells) * size // cells
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        means = np.add.reduceat(means, edges, axis=axis, dtype=np.float32) / np.diff([*edges, size]).reshape(
            shape
        )
    return np.round(means @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def hashes_of(thumbnails: np.ndarray) -> np.ndarray:
    """uint64 [n]: a bit for each pair of neighbours in a row, whether the right one is brighter (Krawetz 2013)."""
    bits = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    return np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint64).ravel()


def near_copies(held_out: np.ndarray, others: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
    """Which of some images look nearly the same as one of others.

    Two images are near where hash and thumbnail agree. What is alike by nature, such as digits or aligned X-rays, agrees
    as well, in numbers that grow steeply as one asks for less: then more is asked for, and nothing is said where no
    demand sets near copies apart.

    Args:
        held_out: thumbnails uint8 [n, 8, 9].
        others: thumbnails uint8 [m, 8, 9].

    Returns:
        (row in `held_out`, row in `others` that looks most like it, correlation), one for each row of `held_out` that has
        any; and how many rows of `held_out` were looked at: all, unless there are too many pairs.
    """
    step = max(1, -(-len(held_out) * len(others) // _MOST_PAIRS))
    looked = np.arange(0, len(held_out), step)
    found = np.concatenate([np.zeros((0, 3)), *_candidates(held_out, others, looked)])
    counts = {least: int((found[:, 2] >= least).sum()) for least in _CLOSER}
    for least in _CLOSER:
        wider = int((found[:, 2] >= 1 - 2 * (1 - least)).sum())
        if wider - counts[least] <= _STEEP * counts[least]:
            break
    else:
        return [], len(looked)
    found = found[found[:, 2] >= least]
    found = found[np.lexsort((-found[:, 2], found[:, 0]))]
    best = found[np.unique(found[:, 0], return_index=True)[1]]
    return [(int(row), int(other), float(likeness)) for row, other, likeness in best], len(looked)


def _candidates(held_out: np.ndarray, others: np.ndarray, looked: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs whose hashes agree, float [p, 3]: both rows and the correlation, where it is not far below the demand."""
    for first in range(0, len(others), _OTHERS_AT_ONCE):
        part = others[first : first + _OTHERS_AT_ONCE]
        hashes, unit = hashes_of(part), _unit(part)
        for start in range(0, len(looked), _ROWS_AT_ONCE):
            rows = looked[start : start + _ROWS_AT_ONCE]
            bits = np.bitwise_count(hashes_of(held_out[rows])[:, None] ^ hashes[None])
            at, other = np.nonzero(bits <= _MOST_BITS)
            own = _unit(held_out[rows])
            likeness = np.einsum("pi,pi->p", own[at], unit[other])
            kept = likeness >= 1 - 2 * (1 - _LEAST)
            pairs = rows[at[kept]], first + other[kept], likeness[kept]
            yield np.stack(pairs, axis=1).astype(np.float64)


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [n, 72] of mean 0 and length 1; zeros for an image without any contrast, which is like no other."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
    return flat
