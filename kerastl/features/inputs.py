"""Decoded images: kept in the store where they are read again; else decoded in one stream."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerastl.data.examples import Split, without
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.contents import content_keys, fresh_keys
from kerastl.modality.image.decode import DECODE_VERSION
from kerastl.modality.image.read import Decoded, decode_in_chunks
from kerastl.progress import Progress, Tracker, size_text
from kerastl.recipe import DataRecipe
from kerastl.store.array import ArrayKey, Rows, first_of_each
from kerastl.store.block import BLOCK_ROWS
from kerastl.store.store import Part, Store, all_on_disk
from kerastl.writing import WriteError

# How the images of a run are read, from the least work to the most.
IN_TURN = "in turn"
CHECKED = "checked"
AGAIN = "again"


class OtherReading(Exception):
    """Images cannot be read as it was thought; `reading` says how they can, `split` which ones."""

    def __init__(self, reading: str, split: str, reason: str) -> None:
        self.reading, self.split = reading, split
        super().__init__(reason)


class Inputs:
    """The decoded images of a split, all of which can be read as far as one knows.

    Args:
        split: which images.
        contents: their keys, uint64 [n, 2].
        data: how they are resized.
        image_size: side of the square in pixels.
        reading: `IN_TURN` where nobody has looked at them before; else as `decode_split` takes it.
        rows: them, where they are kept.
        converted: format -> how many of them go through Pillow, where somebody has looked.

    Attributes:
        contents: see there.
        facts: what decoding depends on.
        kept: whether they are kept, and not decoded whenever they are read.
        failure: why an image could not be read; TensorFlow, when it calls this, passes on words alone.
    """

    def __init__(
        self,
        split: Split,
        contents: np.ndarray,
        data: DataRecipe,
        image_size: int,
        reading: str,
        rows: Rows | None = None,
        converted: Mapping[str, int] | None = None,
    ) -> None:
        self._split, self._data, self._size, self._reading = split, data, image_size, reading
        self.contents, self.facts, self._rows, self.kept = (
            contents,
            input_facts(data, image_size),
            rows,
            rows is not None,
        )
        self._known, self._seen = converted, dict[int, str]()
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
    def from_front(self) -> bool:
        """Whether to read one image means to read all before it."""
        return not self.kept and _from_front(self._split)

    @property
    def once(self) -> bool:
        """Whether they are to be read only once."""
        return not self.kept and self._reading != AGAIN

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        if self._rows is not None:
            return self._rows[np.asarray(positions)]
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
        if self._rows is not None:
            yield from (self._rows[batch] for batch in batches)
            return
        rows = np.concatenate([np.zeros(0, np.int64), *batches])
        for part in _decoded(self._split, rows, self._data, self._size, list(map(len, batches))):
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
) -> tuple[Inputs, dict[int, str]]:
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
        The readable images; and for each other one its position in the split and the reason.
    """
    contents = content_keys(split, cache, progress)
    facts, about = input_facts(data, image_size), {"data": split.examples.origin}
    inputs = ArrayKey("inputs", facts, (image_size, image_size, 3), "uint8", about)
    # One byte an image: what is known of images of which nothing else is kept.
    readable = ArrayKey("readable", facts, (), "uint8", about)
    kept = cache.on_disk and _mostly(cache.store, inputs, contents)
    if reading == IN_TURN and not kept and not _mostly(cache.store, readable, contents):
        return Inputs(split, contents, data, image_size, IN_TURN), {}
    work = _Decoding(split, data, image_size, contents, cache, progress)
    rows = None
    if kept or reading == AGAIN:
        rows = work.keep(inputs)
        if rows is None:
            size = size_text(split.count * inputs.row_bytes)
            progress.note(
                f"Decoded {split.name} images are not kept ({size}): each is decoded whenever it is read"
            )
    known = rows if rows is not None else work.keep(readable)
    assert known is not None, "what is known of the images has a place in memory"
    how = CHECKED if reading == IN_TURN else reading
    converted = dict(Counter(known.notes().values()))
    left = np.delete(work.contents, list(work.reasons), axis=0)
    return Inputs(without(split, work.reasons), left, data, image_size, how, rows, converted), work.reasons


def input_facts(data: DataRecipe, image_size: int) -> dict[str, Any]:
    """What decoded images depend on, apart from the files."""
    return {
        "image_size": image_size,
        "resize": data.resize,
        "significant_bits": data.significant_bits or 16,
        "decode": DECODE_VERSION,
        "tensorflow": tf.__version__,
    }


class _Decoding:
    """Images that are decoded into the store, and why some of them cannot be.

    Attributes:
        contents: keys of the images.
        reasons: position -> why it cannot be read.
    """

    def __init__(
        self,
        split: Split,
        data: DataRecipe,
        image_size: int,
        contents: np.ndarray,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._split, self._data, self._size = split, data, image_size
        self._cache, self._progress = cache, progress
        self.contents, self.reasons = contents.copy(), dict[int, str]()
        self._tracker: Tracker | None = None
        self._stack = contextlib.ExitStack()

    def keep(self, key: ArrayKey) -> Rows | None:
        """The rows of all images that can be read, kept where there is a place; None where there is none."""
        cache, excluded = self._cache, list[str]()
        missing = np.flatnonzero(~cache.store.look(key, self.contents))
        files = self._split.examples.stamps.shape[1] > 0
        if cache.on_disk and files and 0 < len(missing) < self._split.count:
            # What could not be read has no row; perhaps the file was mended since, and its time put back.
            self.contents[missing] = fresh_keys(self._split, missing, self.contents[missing])
        from_front, live = _from_front(self._split), list[str]()

        def place(missing: Mapping[str, int], room: int) -> Mapping[str, str]:
            if key.output == "readable":
                return {key.output: "disk" if 20 * missing[key.output] < room and not excluded else "memory"}
            chosen = cache.places(missing, room, [key.output], excluded, "decoded images", live_if_off=False)
            live[:] = [name for name, where in chosen.items() if where == "live"]
            return chosen

        while True:
            self.reasons.clear()
            self._lost = len(first_of_each(self.contents[missing]))
            try:
                rows = self._rows(cache.store, key, place, from_front)
                if rows is None and live and from_front:
                    # To read one image means to read all before it.
                    rows = self._rows(cache.scratch, key, all_on_disk, in_one=True)
                return rows
            except WriteError as error:
                if excluded or cache.recipe.mode in ("disk", "memory"):
                    raise
                self._progress.warn(f"Decoded {self._split.name} images cannot be kept: {error}")
                excluded.append("disk")

    def _rows(self, store: Store, key: ArrayKey, place: Any, in_one: bool) -> Rows | None:
        with contextlib.ExitStack() as self._stack:
            self._tracker = None
            store.open([key], self.contents, self._compute, place, self._progress, in_one)
        there = store.has(key, self.contents)
        names = {int(at): self.contents[at].tobytes() for at in np.flatnonzero(~there)}
        lost = {names[at]: reason for at, reason in self.reasons.items() if at in names}
        self.reasons |= {at: lost[name] for at, name in names.items() if name in lost}
        if int(there.sum()) + len(self.reasons) < self._split.count:
            return None
        return store.rows(key, self.contents[there])

    def _compute(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        (name,) = outputs
        if self._tracker is None:  # one for all parcels
            tracker = self._progress.track(f"decode {self._split.name}", self._lost)
            self._tracker = self._stack.enter_context(tracker)
        lengths = [min(BLOCK_ROWS, len(positions) - start) for start in range(0, len(positions), BLOCK_ROWS)]
        for part in _decoded(self._split, positions, self._data, self._size, lengths, self._tracker):
            self.reasons |= {int(positions[at]): reason for at, reason in part.reasons.items()}
            _remember_looks(self._split, positions, part)
            good = _readable(part)
            rows = part.pixels[good] if name == "inputs" else np.ones(len(good), np.uint8)
            notes = {int(positions[at]): kind for at, kind in part.converted.items()}
            yield Part(positions[part.start + good], {name: rows}, notes)


def _mostly(store: Store, key: ArrayKey, contents: np.ndarray) -> bool:
    """Whether more than half of the rows are there: the rest is looked at, too."""
    return 2 * int(store.look(key, contents).sum()) > len(contents)


def _decoded(
    split: Split,
    rows: np.ndarray,
    data: DataRecipe,
    image_size: int,
    lengths: Sequence[int],
    tracker: Any = None,
) -> Iterator[Decoded]:
    """Images at increasing positions of a split, in parts of these lengths."""
    advance, bits = tracker.advance if tracker else None, data.significant_bits or 16
    read, indices = split.examples.indexed, split.indices[rows]
    return decode_in_chunks(read, indices, image_size, data.resize, lengths, advance, bits)


def _from_front(split: Split) -> bool:
    return split.examples.place.startswith("tfds:")


def _readable(part: Decoded) -> np.ndarray:
    return np.delete(np.arange(len(part.pixels)), [at - part.start for at in part.reasons])


def _remember_looks(split: Split, rows: np.ndarray, part: Decoded) -> None:
    """Keep the thumbnails of images while they are at hand; `rows` are the positions in the split of all parts."""
    readable = _readable(part)
    positions = split.indices[rows[part.start + readable]]
    new = split.examples.looks.unseen(positions)  # what is decoded in every epoch is looked at in the first
    if len(new):
        split.examples.looks.add(positions[new], part.pixels[readable[new]])
