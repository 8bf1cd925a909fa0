"""Decoded images: made once, and kept as the features are."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from kerastl.data.examples import Split, images_digest, spread_positions, without
from kerastl.features.cache import Cache
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.image.decode import DECODE_VERSION
from kerastl.image.read import Decoded, decode_in_chunks
from kerastl.progress import Progress
from kerastl.recipe import DataRecipe

SAMPLED_IMAGES = 16
# A whole folder may have been out of reach: so many images are held at once while it is looked at again.
REREAD_ROWS = 64


class KeptPixels:
    """The decoded images that could be read, as an array that leaves the others out."""

    def __init__(self, rows: np.ndarray, kept: np.ndarray) -> None:
        self._rows, self._kept = rows, kept

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, size, size, 3]."""
        return (len(self._kept), *self._rows.shape[1:])

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(self._rows[self._kept[positions]])


def decode_split(
    split: Split, data: DataRecipe, image_size: int, cache: Cache, progress: Progress
) -> tuple[KeptPixels, dict[int, str], dict[str, Any]]:
    """Decode the images of one split, or open those that were decoded before.

    Args:
        split: which images.
        data: how they are resized.
        image_size: side of the square in pixels.
        cache: keeps them.
        progress: listens.

    Returns:
        The readable images; for each other one its position in the split and the reason; and what the readable
        ones depend on.
    """
    facts = image_facts(split, data, image_size)
    about = {"data": split.examples.origin, "split": split.name}
    key = UnitKey("pixels", facts, split.count, (image_size, image_size, 3), "uint8", about)
    unit = cache.hold_pixels(key, progress)
    unreadable = list(_reasons(unit)) if unit.complete else []
    if unreadable and _readable_by_now(split, data, image_size, unreadable):
        # The disk or the network failed at that time, or somebody mended the permissions.
        cache.forget_pixels(key)
        unit = cache.hold_pixels(key, progress)
    if not unit.complete:
        _decode(split, data, image_size, unit, progress)
    reasons = _reasons(unit)
    kept = np.delete(np.arange(split.count), list(reasons))
    if reasons:
        facts = image_facts(without(split, reasons), data, image_size)
    return KeptPixels(unit.rows(), kept), reasons, facts


def _reasons(unit: Unit | MemoryUnit) -> dict[int, str]:
    return {int(row): reason for notes in unit.notes.values() for row, reason in notes.items()}


def _readable_by_now(split: Split, data: DataRecipe, image_size: int, rows: list[int]) -> bool:
    """Whether any of the images that could not be read can be read now."""
    positions = np.asarray(sorted(rows), np.int64)
    lengths = [min(REREAD_ROWS, len(rows) - start) for start in range(0, len(rows), REREAD_ROWS)]
    parts = decode_in_chunks(
        split.examples.indexed, split.indices[positions], image_size, data.resize, lengths
    )
    return any(len(part.reasons) < len(part.pixels) for part in parts)


def image_facts(split: Split, data: DataRecipe, image_size: int) -> dict[str, Any]:
    """What the decoded images of a split depend on.

    A file counts as unchanged while its path, size and time of change are; beyond that the content of a few
    of them is looked at, in case a whole set was replaced with all its times put back.
    """
    return {
        "images": images_digest(split.examples, split.indices),
        "sample": _sample_digest(split),
        "image_size": image_size,
        "resize": data.resize,
        "decode": DECODE_VERSION,
        "tensorflow": tf.__version__,
    }


def _sample_digest(split: Split) -> str:
    positions = spread_positions(split.count, SAMPLED_IMAGES)
    if not split.examples.stamps.shape[1]:
        positions = np.arange(len(positions))  # TFDS reads from the front: the last image costs the whole set
    digest = hashlib.sha256()
    for data in split.examples.encoded(split.indices[positions]).ignore_errors().as_numpy_iterator():
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _decode(
    split: Split, data: DataRecipe, image_size: int, unit: Unit | MemoryUnit, progress: Progress
) -> None:
    unit.begin()
    missing = unit.missing
    with progress.track(f"decode {split.name}", split.count) as tracker:
        tracker.advance(split.count - sum(len(unit.key.shard(shard)) for shard in missing))
        rows = np.array([row for shard in missing for row in unit.key.shard(shard)], np.int64)
        lengths = [len(unit.key.shard(shard)) for shard in missing]
        chunks = decode_in_chunks(
            split.examples.indexed, split.indices[rows], image_size, data.resize, lengths, tracker.advance
        )
        for shard, chunk in zip(missing, chunks, strict=True):
            notes = {str(rows[position]): reason for position, reason in chunk.reasons.items()}
            unit.write(shard, chunk.pixels, notes)
            _remember_looks(split, rows, chunk)
    unit.publish()


def _remember_looks(split: Split, rows: np.ndarray, chunk: Decoded) -> None:
    """Keep the thumbnails of images while they are at hand; `rows` are the positions in the split of all chunks."""
    readable = np.delete(np.arange(len(chunk.pixels)), [at - chunk.start for at in chunk.reasons])
    split.examples.looks.add(split.indices[rows[chunk.start + readable]], chunk.pixels[readable])
