"""Content keys of examples: digests of their encoded bytes, remembered for files that did not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kerastl.data.examples import Split, spread_positions
from kerastl.features.cache import Cache
from kerastl.modality import RawExample
from kerastl.progress import Progress
from kerastl.store.array import ArrayKey, digests
from kerastl.store.store import Part
from kerastl.writing import WriteError

KEY = ArrayKey("contents", {"digest": "blake2b-128"}, (2,), "uint64", {"data": "digests of files"})
# So many files are read again though they seem unchanged, in case a whole set was replaced with its times put back.
SAMPLED = 16
DIGESTS_AT_ONCE = 256
# By one thread.
READ_AT_ONCE, BLOCK_BYTES = 16, 1 << 20


def content_keys(split: Split, cache: Cache, progress: Progress = Progress()) -> np.ndarray:
    """Keys of a split's examples, uint64 [n, 2]; equal for files of equal content, wherever they lie.

    A file counts as unchanged while its path, size and time of change are. Examples that cannot be
    replaced one by one (TFDS, digits) are named by their place and identity, as all are where nothing is kept beyond the run.

    Args:
        split: which examples.
        cache: remembers the digests of files.
        progress: is told of the reading.
    """
    named = names_of(split)
    if not split.examples.stamps.shape[1] or not cache.on_disk:
        return named
    remembered = np.flatnonzero(cache.store.look(KEY, named))

    def compute(positions: np.ndarray, outputs: object) -> Iterator[Part]:
        with progress.track(f"read {split.name}", len(positions), "files") as tracker:
            for at, rows in _digested(split, positions, tracker.advance):
                yield Part(positions[at], {KEY.output: rows})

    def place(missing: Mapping[str, int], room: int) -> dict[str, str]:
        return {KEY.output: "disk" if 3 * missing[KEY.output] < room else "memory"}  # with keys, and a header

    try:
        cache.store.open([KEY], named, compute, place, progress)
    except WriteError:  # digests are no reason to stop; what is to be kept beside them will be
        cache.store.open([KEY], named, compute, lambda missing, room: {KEY.output: "memory"}, progress)
    there, found = cache.store.has(KEY, named), named.copy()  # of a file that cannot be read
    found[there] = cache.store.rows(KEY, named[there])[np.arange(int(there.sum()))]
    if len(remembered):
        sample = remembered[spread_positions(len(remembered), SAMPLED)]
        if (fresh_keys(split, sample, found[sample]) != found[sample]).any():
            progress.note(
                f"{split.examples.origin}: files were replaced and their times put back; all are read again"
            )
            return fresh_keys(split, np.arange(split.count), found)
    return found


def fresh_keys(split: Split, positions: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Keys of some examples by what their files hold now; `otherwise` for those that cannot be read."""
    found = otherwise.copy()
    for at, rows in _digested(split, positions):
        found[at] = rows
    return found


def names_of(split: Split) -> np.ndarray:
    """Keys that tell examples apart without reading them, uint64 [n, 2]: of place, identity and stamps."""
    place = split.examples.place.encode("utf-8", "surrogatepass")
    stamps = np.ascontiguousarray(split.examples.stamps[split.indices])
    ids = (str(each).encode("utf-8", "surrogatepass") for each in split.ids)
    return digests(
        b"\0".join((place, name, stamp.tobytes())) for name, stamp in zip(ids, stamps, strict=True)
    )


def _digested(
    split: Split, positions: np.ndarray, advance: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places in `positions` of the examples that can be read, and digests of what these hold, in pieces."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(positions), DIGESTS_AT_ONCE):
            part = positions[start : start + DIGESTS_AT_ONCE]
            examples = list(split.raw(part))
            tasks = [examples[at : at + READ_AT_ONCE] for at in range(0, len(examples), READ_AT_ONCE)]
            found = [each for digested in pool.map(_digests_of, tasks) for each in digested]
            read = np.array([bool(each) for each in found], bool)
            advance(len(part))
            yield start + np.flatnonzero(read), np.frombuffer(b"".join(found), np.uint64).reshape(-1, 2)


def _digests_of(examples: Sequence[RawExample]) -> list[bytes]:
    """The digest of each example; empty for one that cannot be read, of which decoding tells why."""
    found = []
    for each in examples:
        digest = hashlib.blake2b(each if isinstance(each, bytes) else b"", digest_size=16)
        try:
            if isinstance(each, Path):
                with each.open("rb", buffering=0) as file:
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
            found.append(digest.digest())
        except (OSError, ValueError):  # the latter of a name that no file can have
            found.append(b"")
    return found
