"""Decoded images: kept as the features are, where they are read again; else decoded in one stream."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerastl.data.examples import Split, images_digest, spread_positions, without
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.features.views import Pixels
from kerastl.image.decode import DECODE_VERSION
from kerastl.image.read import Decoded, decode_in_chunks
from kerastl.progress import Progress, size_text
from kerastl.recipe import DataRecipe
from kerastl.writing import WriteError

SAMPLED_IMAGES = 16
# A whole folder may have been out of reach: so many images are held at once while it is looked at again.
REREAD_ROWS = 64
# Before the row of an image that Pillow turned into PNG; the note is its format. A row alone: why it cannot be read.
PILLOW_NOTE = "pillow "

# How the images of a run are read, from the least work to the most.
IN_TURN = "in turn"
CHECKED = "checked"
AGAIN = "again"


class OtherReading(Exception):
    """Images cannot be read as it was thought; `reading` says how they can, `split` which ones."""

    def __init__(self, reading: str, split: str, reason: str) -> None:
        self.reading, self.split = reading, split
        super().__init__(reason)


class KeptPixels:
    """The decoded images that could be read, as an array that leaves the others out.

    Attributes:
        converted: format -> how many of them went through Pillow.
    """

    def __init__(
        self, rows: np.ndarray, kept: np.ndarray, converted: Mapping[str, int] | None = None
    ) -> None:
        self._rows, self._kept, self.converted = rows, kept, dict(converted or {})

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, size, size, 3]."""
        return (len(self._kept), *self._rows.shape[1:])

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(self._rows[self._kept[positions]])


class LivePixels:
    """The images of a split, decoded anew whenever they are read.

    Args:
        split: which images; all of them can be read, as far as one knows.
        resize: how they are brought to the network's size; see `kerastl.image.decode`.
        image_size: side of the square in pixels.
        reading: `IN_TURN` where nobody has looked at them before; else as `decode_split` takes it.
        significant_bits: of PNG files of 16 bits.
        converted: format -> how many of them go through Pillow, where somebody has looked.

    Attributes:
        failure: why an image could not be read; TensorFlow, when it calls this, passes on words alone.
    """

    def __init__(
        self,
        split: Split,
        resize: str,
        image_size: int,
        reading: str,
        significant_bits: int = 16,
        converted: Mapping[str, int] | None = None,
    ) -> None:
        self._split, self._resize, self._size, self._reading = split, resize, image_size, reading
        self._bits, self._known, self._seen = significant_bits, converted, dict[int, str]()
        self.failure: DataError | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, size, size, 3]."""
        return (self._split.count, self._size, self._size, 3)

    @property
    def converted(self) -> dict[str, int]:
        """Format -> how many of the images went through Pillow, as far as they were read."""
        return dict(Counter(self._seen.values()) if self._known is None else self._known)

    @property
    def once(self) -> bool:
        """Whether they are to be read only once."""
        return self._reading != AGAIN

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        rows, back = np.unique(np.asarray(positions), return_inverse=True)
        return next(self.in_turn([rows]))[back]

    def in_turn(self, batches: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The images of each batch, in one pass over the files.

        Args:
            batches: positions that increase, also from each batch to the next.

        Raises:
            OtherReading: an image cannot be read, and nobody had looked before.
            DataError: an image cannot be read any more.
        """
        rows = np.concatenate([np.zeros(0, np.int64), *batches])
        read, indices, lengths = (
            self._split.examples.indexed,
            self._split.indices[rows],
            list(map(len, batches)),
        )
        for part in decode_in_chunks(read, indices, self._size, self._resize, lengths, None, self._bits):
            self._seen |= {int(rows[position]): kind for position, kind in part.converted.items()}
            for position, reason in part.reasons.items():
                name = self._split.ids[rows[position]]
                if self._reading == IN_TURN:
                    raise OtherReading(CHECKED, self._split.name, f"{name} cannot be read: {reason}")
                said = (
                    f"{name} could be read when the work began, and cannot now: {reason}. Nothing of it is kept, as cache.mode "
                    "or a lack of room has it. Put the file back, and start again"
                )
                # Another one than what is raised, whose traceback holds TensorFlow's threads until the process ends.
                self.failure = DataError(said)
                raise DataError(said)
            if self.once:  # else they were looked at when they were checked or kept
                _remember_looks(self._split, rows, part)
            yield part.pixels

    def check_read_again(self) -> None:
        """To be called by who is going to read all images in every epoch.

        Raises:
            OtherReading: they were to be read once, so nothing of them was kept.
        """
        if self.once:
            raise OtherReading(AGAIN, self._split.name, "they are read in every epoch")


def decode_split(
    split: Split,
    data: DataRecipe,
    image_size: int,
    cache: Cache,
    progress: Progress,
    reading: str = AGAIN,
) -> tuple[Pixels, dict[int, str], dict[str, Any]]:
    """Make the images of one split readable, decoded; they are kept only where they are going to be read again.

    Args:
        split: which images.
        data: how they are resized.
        image_size: side of the square in pixels.
        cache: keeps them.
        progress: listens.
        reading: `AGAIN`: they are kept where the cache has a place, else decoded whenever they are read. `CHECKED`: read
            once more after this, so only which of them can be read is kept. `IN_TURN`: that is not looked at either, unless it is known.

    Returns:
        The readable images; for each other one its position in the split and the reason; and what the readable
        ones depend on.
    """
    facts = image_facts(split, data, image_size)
    about = {"data": split.examples.origin, "split": split.name}
    key = UnitKey("pixels", facts, split.count, (image_size, image_size, 3), "uint8", about)
    # One byte an image, and the reasons: what is known of images of which nothing else is kept.
    known = UnitKey("pixels", {**facts, "rows": "1 where it can be read"}, split.count, (), "uint8", about)
    bits = data.significant_bits or 16
    for wanted, place in cache.places_of_pixels(
        key, known, reading, in_turn_only=_is_read_from_the_front(split)
    ):
        if place == "nowhere":
            return LivePixels(split, data.resize, image_size, IN_TURN, bits), {}, facts
        try:
            unit = _complete(split, data, image_size, cache, wanted, place, progress)
        except WriteError as error:
            if cache.recipe.mode == "disk" or place == "scratch":
                raise
            progress.warn(f"Decoded {split.name} images cannot be kept: {error}")
            continue
        reasons = _reasons(unit)
        readable = without(split, reasons)
        if reasons:
            facts = image_facts(readable, data, image_size)
        if wanted is known:
            if reading == AGAIN:
                size = size_text(key.bytes)
                progress.note(
                    f"Decoded {split.name} images are not kept ({size}): each is decoded whenever it is read"
                )
            how = CHECKED if reading == IN_TURN else reading
            live = LivePixels(readable, data.resize, image_size, how, bits, _converted(unit))
            return live, reasons, facts
        kept = np.delete(np.arange(split.count), list(reasons))
        return KeptPixels(unit.rows(), kept, _converted(unit)), reasons, facts
    raise AssertionError("what is known of the images has a place in memory")


def _complete(
    split: Split,
    data: DataRecipe,
    image_size: int,
    cache: Cache,
    key: UnitKey,
    place: str,
    progress: Progress,
) -> Unit | MemoryUnit:
    """A unit with all that can be read now."""
    unit = cache.hold_pixels(key, place, progress)
    unreadable = list(_reasons(unit)) if unit.complete else []
    if unreadable and _readable_by_now(split, data, image_size, unreadable):
        # The disk or the network failed at that time, or somebody mended the permissions.
        cache.forget_pixels(key)
        unit = cache.hold_pixels(key, place, progress)
    if not unit.complete:
        _decode(split, data, image_size, unit, progress)
    return unit


def _is_read_from_the_front(split: Split) -> bool:
    """Whether to read one image means to read all before it."""
    return split.examples.place.startswith("tfds:")


def _reasons(unit: Unit | MemoryUnit) -> dict[int, str]:
    return {
        int(row): reason for notes in unit.notes.values() for row, reason in notes.items() if row.isdigit()
    }


def _converted(unit: Unit | MemoryUnit) -> dict[str, int]:
    rows = (
        note for notes in unit.notes.values() for note in notes.items() if note[0].startswith(PILLOW_NOTE)
    )
    return dict(Counter(kind for _, kind in rows))


def _readable_by_now(split: Split, data: DataRecipe, image_size: int, rows: list[int]) -> bool:
    """Whether any of the images that could not be read can be read now."""
    positions = np.asarray(sorted(rows), np.int64)
    lengths = [min(REREAD_ROWS, len(rows) - start) for start in range(0, len(rows), REREAD_ROWS)]
    read, indices, bits = split.examples.indexed, split.indices[positions], data.significant_bits or 16
    parts = decode_in_chunks(read, indices, image_size, data.resize, lengths, None, bits)
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
        "significant_bits": data.significant_bits or 16,
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
        read, indices, bits = split.examples.indexed, split.indices[rows], data.significant_bits or 16
        chunks = decode_in_chunks(read, indices, image_size, data.resize, lengths, tracker.advance, bits)
        for shard, chunk in zip(missing, chunks, strict=True):
            notes = {str(rows[position]): reason for position, reason in chunk.reasons.items()}
            notes |= {f"{PILLOW_NOTE}{rows[position]}": kind for position, kind in chunk.converted.items()}
            unit.write(shard, chunk.pixels if unit.key.row_shape else _readable(chunk), notes)
            _remember_looks(split, rows, chunk)
    unit.publish()


def _readable(chunk: Decoded) -> np.ndarray:
    flags = np.ones(len(chunk.pixels), np.uint8)
    flags[[position - chunk.start for position in chunk.reasons]] = 0
    return flags


def _remember_looks(split: Split, rows: np.ndarray, chunk: Decoded) -> None:
    """Keep the thumbnails of images while they are at hand; `rows` are the positions in the split of all chunks."""
    readable = np.delete(np.arange(len(chunk.pixels)), [at - chunk.start for at in chunk.reasons])
    positions = split.indices[rows[chunk.start + readable]]
    new = split.examples.looks.unseen(positions)  # what is decoded in every epoch is looked at in the first
    if len(new):
        split.examples.looks.add(positions[new], chunk.pixels[readable[new]])
