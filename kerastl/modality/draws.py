"""Random numbers that belong to an example: a hash of (seed, id, view), never a state.

Every random choice of a modality starts here, so no result depends on threads, on the order of a
batch, on which other examples there are, or on whether a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def example_hashes(ids: Iterable[str], seed: int, view: int, purpose: str) -> np.ndarray:
    """64 random bits for each example.

    Args:
        ids: identities of the examples.
        seed: seed of the run.
        view: which version of the example is made (or which epoch).
        purpose: what the bits are for; different purposes give independent bits.

    Returns:
        uint64 [n].
    """
    # Copying a hasher that has already taken the salt is what makes a million ids take about a second.
    salted = hashlib.blake2b(f"kerastl/{purpose}/{seed}/{view}/".encode(), digest_size=8)
    digests = []
    for identity in ids:
        hasher = salted.copy()
        hasher.update(str(identity).encode("utf-8", "surrogateescape"))
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def uniforms(hashes: np.ndarray, count: int) -> np.ndarray:
    """Independent uniform numbers in [0, 1) for each example, by SplitMix64 (Steele et al. 2014).

    Args:
        hashes: uint64 [n].
        count: how many numbers an example gets.

    Returns:
        float64 [n, count].
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = hashes[:, None] + steps[None, :]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def example_keys(ids: Iterable[str], seed: int, view: int) -> np.ndarray:
    """Keys for a modality's `view`, one for each example.

    Args:
        ids: identities of the examples.
        seed: seed of the run.
        view: which version of the example is made (or which epoch).

    Returns:
        int32 [n, 2], a pure function of each (seed, id, view): it does not depend on the other ids.
    """
    return example_hashes(ids, seed, view, "augment").view("<i4").reshape(-1, 2)
