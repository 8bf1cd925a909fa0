"""Decoded examples: kept in the store where they are read again; else decoded in one stream."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kerastl.data.examples import Split, without
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.content_keys import content_keys, fresh_keys
from kerastl.modality import Batch, Modality
from kerastl.modality.cuts import converted_from, is_cut
from kerastl.modality.read import Decoded, decode_in_chunks
from kerastl.progress import Progress, Tracker, size_text
from kerastl.store.array import ArrayKey, Rows, first_of_each
from kerastl.store.block import BLOCK_ROWS
from kerastl.store.store import Part, Store, all_on_disk
from kerastl.writing import WriteError

# How the examples of a run are read, from the least work to the most.
IN_TURN = "in turn"
CHECKED = "checked"
AGAIN = "again"
# The array of one byte an example: what is known of examples of which nothing else is kept.
READABLE = "readable"


class OtherReading(Exception):
    """Examples cannot be read as it was thought; `reading` says how they can, `split` which ones."""

    def __init__(self, reading: str, split: str, reason: str) -> None:
        self.reading, self.split = reading, split
        super().__init__(reason)


class Inputs:
    """The decoded examples of a split, all of which can be read as far as one knows.

    Args:
        split: which examples.
        contents: their keys, uint64 [n, 2].
        modality: decodes them.
        reading: `IN_TURN` where none was looked at before; else as `decode_split` takes it.
        rows: name of an input -> its rows, where they are kept.
        notes: what there is to note of an example -> of how many, where that is known; see `kerastl.modality.cuts`.

    Attributes:
        contents: see there.
        modality: see there.
        kept: whether they are kept, and not decoded whenever they are read.
        failure: why an example could not be read; TensorFlow, when it calls this, passes on words alone.
    """

    def __init__(
        self,
        split: Split,
        contents: np.ndarray,
        modality: Modality,
        reading: str,
        rows: Mapping[str, Rows] | None = None,
        notes: Mapping[str, int] | None = None,
    ) -> None:
        self._split, self._reading, self._rows = split, reading, rows
        self.contents, self.modality, self.kept = contents, modality, rows is not None
        self._known, self._seen = notes, dict[int, str]()
        self.failure: DataError | None = None

    def __len__(self) -> int:
        return self._split.count

    @property
    def converted(self) -> dict[str, int]:
        """Format -> how many of the examples were converted first, as far as they were read."""
        kinds: Counter[str] = Counter()
        for note, count in self._counts().items():
            kinds[converted_from(note)] += count
        return {kind: count for kind, count in kinds.items() if kind}

    @property
    def cut(self) -> int:
        """Number of examples that are cut, as far as they were read."""
        return sum(count for note, count in self._counts().items() if is_cut(note))

    @property
    def notes(self) -> Mapping[int, str]:
        """Position -> what there is to note of the example, of those that were read in turn or `note` told of."""
        return self._seen

    def note(self, notes: Mapping[int, str]) -> None:
        """Take in what was noted of examples, by their positions, when an earlier run read them."""
        self._seen |= notes

    def _counts(self) -> Mapping[str, int]:
        return Counter(self._seen.values()) if self._known is None else self._known

    @property
    def from_front(self) -> bool:
        """True if reading one example means reading all before it."""
        return not self.kept and _from_front(self._split)

    @property
    def once(self) -> bool:
        """True if they are to be read only once."""
        return not self.kept and self._reading != AGAIN

    def __getitem__(self, positions: np.ndarray) -> Batch:
        """Named inputs at int [b], [b, ...]."""
        positions = np.asarray(positions)
        if self._rows is not None:
            return {name: rows[positions] for name, rows in self._rows.items()}
        rows, back = np.unique(positions, return_inverse=True)
        return {name: values[back] for name, values in next(self.in_turn([rows])).items()}

    def in_turn(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """The inputs of each batch, in one pass over the files.

        Args:
            batches: positions that increase, also from each batch to the next.

        Raises:
            OtherReading: an example cannot be read, and none had been looked at before.
            DataError: an example cannot be read any more.
        """
        if self._rows is not None:
            yield from (self[batch] for batch in batches)
            return
        rows = np.concatenate([np.zeros(0, np.int64), *batches])
        for part in _decoded(self._split, rows, self.modality, list(map(len, batches))):
            self._seen |= {int(rows[position]): note for position, note in part.notes.items()}
            for position, reason in part.reasons.items():
                name = self._split.ids[rows[position]]
                if self._reading == IN_TURN:
                    raise OtherReading(CHECKED, self._split.name, f"{name} cannot be read: {reason}")
                message = (
                    f"{name} could be read when the work began, and cannot now: {reason}. Nothing of it is kept, as cache.mode "
                    "or a lack of room has it. Put the file back, and start again"
                )
                # Another one than what is raised, whose traceback holds TensorFlow's threads until the process ends.
                self.failure = DataError(message)
                raise DataError(message)
            if self.once:  # else they were looked at when they were checked or kept
                _remember_looks(self._split, rows, part, self.modality)
            yield part.inputs

    def check_read_again(self) -> None:
        """To be called by what is going to read all examples in every epoch.

        Raises:
            OtherReading: they were to be read once, so nothing of them was kept.
        """
        if self.once:
            raise OtherReading(AGAIN, self._split.name, "they are read in every epoch")


def decode_split(
    split: Split, modality: Modality, cache: Cache, progress: Progress, reading: str = AGAIN
) -> tuple[Inputs, dict[int, str]]:
    """Make the examples of one split readable, decoded; they are kept only where they are going to be read again.

    Args:
        split: which examples.
        modality: decodes them.
        cache: keeps them.
        progress: listens.
        reading: `AGAIN`: they are kept where the cache has a place, else decoded whenever they are read. `CHECKED`: read
            once more after this, so only which of them can be read is kept. `IN_TURN`: that is not looked at either, unless it is known.

    Returns:
        The readable examples; and for each other one its position in the split and the reason.
    """
    contents = content_keys(split, cache, progress)
    facts, about = modality.facts(), {"data": split.examples.origin}
    inputs = {
        name: ArrayKey(f"inputs_{name}", facts, each.shape, each.dtype, about)
        for name, each in modality.spec.items()
    }
    readable = ArrayKey(READABLE, facts, (), "uint8", about)
    kept = cache.on_disk and all(_mostly(cache.store, key, contents) for key in inputs.values())
    if reading == IN_TURN and not kept and not _mostly(cache.store, readable, contents):
        return Inputs(split, contents, modality, IN_TURN), {}
    work = _Decoding(split, modality, contents, cache, progress)
    rows = None
    if kept or reading == AGAIN:
        rows = work.keep(inputs)
        if rows is None:
            size = size_text(split.count * sum(key.row_bytes for key in inputs.values()))
            progress.note(
                f"Decoded {split.name} {modality.noun}s are not kept ({size}): each is decoded whenever it is read"
            )
    known = rows if rows is not None else work.keep({READABLE: readable})
    assert known is not None, "what is known of the examples has a place in memory"
    how = CHECKED if reading == IN_TURN else reading
    notes = dict(Counter(next(iter(known.values())).notes().values()))
    left = np.delete(work.contents, list(work.reasons), axis=0)
    return Inputs(without(split, work.reasons), left, modality, how, rows, notes), work.reasons


class _Decoding:
    """Examples that are decoded into the store, and why some of them cannot be.

    Attributes:
        contents: keys of the examples.
        reasons: position -> why it cannot be read.
    """

    def __init__(
        self, split: Split, modality: Modality, contents: np.ndarray, cache: Cache, progress: Progress
    ) -> None:
        self._split, self._modality = split, modality
        self._cache, self._progress = cache, progress
        self.contents, self.reasons = contents.copy(), dict[int, str]()
        self._tracker: Tracker | None = None
        self._stack = contextlib.ExitStack()

    def keep(self, arrays: Mapping[str, ArrayKey]) -> dict[str, Rows] | None:
        """The rows of all examples that can be read, by name of their input, kept where there is a place; None where there is none."""
        cache, excluded, keys = self._cache, list[str](), list(arrays.values())
        missing = np.flatnonzero(~np.all([cache.store.look(key, self.contents) for key in keys], axis=0))
        files = self._split.examples.stamps.shape[1] > 0
        if cache.on_disk and files and 0 < len(missing) < self._split.count:
            # What could not be read has no row; perhaps the file was mended since, and its time put back.
            self.contents[missing] = fresh_keys(self._split, missing, self.contents[missing])
        from_front, live = _from_front(self._split), list[str]()

        def place(missing: Mapping[str, int], room: int) -> Mapping[str, str]:
            if READABLE in missing:
                return {READABLE: "disk" if 20 * missing[READABLE] < room and not excluded else "memory"}
            order, kind = [key.output for key in keys], self._modality
            what, smaller = f"decoded {kind.noun}s", kind.smaller
            chosen = cache.places(missing, room, order, excluded, what, live_if_off=False, smaller=smaller)
            live[:] = [name for name, where in chosen.items() if where == "live"]
            # Of no use without the others.
            return dict.fromkeys(chosen, "live") if live else chosen

        while True:
            self.reasons.clear()
            self._lost = len(first_of_each(self.contents[missing]))
            try:
                rows = self._rows(cache.store, arrays, place, from_front)
                if rows is None and live and from_front:
                    # To read one example means to read all before it.
                    rows = self._rows(cache.scratch, arrays, all_on_disk, in_one=True)
                return rows
            except WriteError as error:
                if excluded or cache.recipe.mode in ("disk", "memory"):
                    raise
                self._progress.warn(
                    f"Decoded {self._split.name} {self._modality.noun}s cannot be kept: {error}"
                )
                excluded.append("disk")

    def _rows(
        self, store: Store, arrays: Mapping[str, ArrayKey], place: Any, in_one: bool
    ) -> dict[str, Rows] | None:
        keys = list(arrays.values())
        with contextlib.ExitStack() as self._stack:
            self._tracker = None
            store.open(keys, self.contents, self._compute, place, self._progress, in_one)
        there = np.all([store.has(key, self.contents) for key in keys], axis=0)
        names = {int(at): self.contents[at].tobytes() for at in np.flatnonzero(~there)}
        lost = {names[at]: reason for at, reason in self.reasons.items() if at in names}
        self.reasons |= {at: lost[name] for at, name in names.items() if name in lost}
        if int(there.sum()) + len(self.reasons) < self._split.count:
            return None
        return {name: store.rows(key, self.contents[there]) for name, key in arrays.items()}

    def _compute(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        if self._tracker is None:  # one for all parcels
            tracker = self._progress.track(
                f"decode {self._split.name}", self._lost, f"{self._modality.noun}s"
            )
            self._tracker = self._stack.enter_context(tracker)
        lengths = [min(BLOCK_ROWS, len(positions) - start) for start in range(0, len(positions), BLOCK_ROWS)]
        for part in _decoded(self._split, positions, self._modality, lengths, self._tracker.advance):
            self.reasons |= {int(positions[at]): reason for at, reason in part.reasons.items()}
            _remember_looks(self._split, positions, part, self._modality)
            good = _readable(part)
            rows = {f"inputs_{name}": values for name, values in part.inputs.items()}
            rows[READABLE] = np.ones(part.count, np.uint8)
            notes = {int(positions[at]): note for at, note in part.notes.items()}
            yield Part(positions[part.start + good], {name: rows[name][good] for name in outputs}, notes)


def _mostly(store: Store, key: ArrayKey, contents: np.ndarray) -> bool:
    """True if more than half of the rows are there: then the rest is looked up, too."""
    return 2 * int(store.look(key, contents).sum()) > len(contents)


def _decoded(
    split: Split, rows: np.ndarray, modality: Modality, lengths: Sequence[int], *advance: Any
) -> Iterator[Decoded]:
    """Examples at increasing positions of a split, in parts of these lengths."""
    return decode_in_chunks(modality, split.raw(rows), lengths, *advance)


def _from_front(split: Split) -> bool:
    return split.examples.place.startswith("tfds:")


def _readable(part: Decoded) -> np.ndarray:
    return np.delete(np.arange(part.count), [at - part.start for at in part.reasons])


def _remember_looks(split: Split, rows: np.ndarray, part: Decoded, modality: Modality) -> None:
    """Keep the sketches of examples while they are at hand; `rows` are the positions in the split of all parts."""
    readable = _readable(part)
    positions = split.indices[rows[part.start + readable]]
    new = split.examples.looks.unseen(positions)  # what is decoded in every epoch is looked at in the first
    if len(new):
        inputs = {name: values[readable[new]] for name, values in part.inputs.items()}
        split.examples.looks.add(positions[new], modality.sketches(inputs))
