"""The nouns of the data room: labelled examples as columns, and the splits that point into them.

A million examples must stay cheap, so there is no object per example: each property is one array.
Text columns have dtype object. A fixed-width `<U` column costs four bytes for every character of the
*longest* value in every row, so that one path of 1,000 characters among a million would cost 4 GB; an
object column costs a pointer a row, and values that repeat (splits, groups, the empty string) are one
shared string. NumPy's StringDType is denser still, but TensorFlow and older pickles cannot read it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kerastl.data.looks import Looks
from kerastl.data.step_labels import Labels, StepLabels, answered
from kerastl.modality import RawExample
from kerastl.recipe.schema import DataRecipe
from kerastl.task import Task, task_named

TRAIN, VALIDATION, TEST = SPLIT_NAMES = ("train", "validation", "test")
CARVE = ""

_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples of one source, in the order of their identities (for TFDS: in stored order).

    Attributes:
        ids: object [n] of unique str. A path relative to the source's folder with forward slashes (an
            absolute path where the file lies elsewhere), `split:index` for TFDS, `digits:index`.
        labels: int32 [n], an index into `class_names`; or uint8 [n, classes], 0 or 1, for multi-label; or a label a step.
        class_names: sorted, or in TFDS' own order.
        groups: object [n] of str; equal values must stay in one split; '' for none.
        splits: object [n] of 'train', 'validation', 'test', or '' where the split is still to be carved.
        raw: strictly increasing int64 indices -> the raw examples in that order, one after the other: bytes, or the path of the
            file that holds them. DataError where TFDS cannot read what it stores.
        origin: the source in words, for messages.
        place: what the ids are relative to, such as the absolute path of a folder.
        stamps: int64 [n, k], what tells that a file was replaced: size and time of change of files.
        fingerprint: sha256 hex over ids, labels, splits, groups, and for files their size and time of change.
        skipped: a line 'name: reason' for each thing left out while indexing.
        warnings: what the user may want to know, such as labels that look like a mistake.
        contents: int64 [n], equal where examples are equal byte for byte, -1 for one that is like no other;
            None where that is not known.
        looks: sketches of those that were decoded; grows.
        skipped_pictures: how many of the skipped are pictures, such as broken links to them.
        noun: one example, for messages.
        recipe: names the source, or the kind of what was handed over in Python; None where nobody may ask.
        annotated: object [n], of each text the `kerastl.data.annotated.Annotated` that it is, or is a part of; None of other examples.
        words: object [n], of rows of a network whose words are labelled: int [words, 2], where each labelled word begins and ends in
            the annotated text, in code points.
    """

    ids: np.ndarray
    labels: Labels
    class_names: tuple[str, ...]
    groups: np.ndarray
    splits: np.ndarray
    raw: Callable[[np.ndarray], Iterator[RawExample]]
    origin: str
    place: str
    stamps: np.ndarray
    fingerprint: str
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    contents: np.ndarray | None = None
    looks: Looks = field(init=False)
    skipped_pictures: int = 0
    noun: str = "example"
    recipe: DataRecipe | None = None
    annotated: np.ndarray | None = None
    words: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "looks", Looks(len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def task(self) -> Task:
        """The task of the labels."""
        if isinstance(self.labels, StepLabels):
            return task_named("entities")
        return task_named("classification" if self.labels.ndim == 1 else "multi_label")


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, validation and test: increasing positions in the examples."""

    name: str
    examples: Examples
    indices: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """Identities, object [count] of str."""
        return self.examples.ids[self.indices]

    @property
    def labels(self) -> Labels:
        """Labels, int32 [count], or uint8 [count, classes] for multi-label, or a label a step."""
        return self.examples.labels[self.indices]

    @property
    def groups(self) -> np.ndarray:
        """Groups, object [count] of str; '' for none."""
        return self.examples.groups[self.indices]

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.indices)

    def raw(self, positions: np.ndarray) -> Iterator[RawExample]:
        """The raw examples at increasing positions of the split; see `Examples`."""
        return self.examples.raw(self.indices[positions])


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of one source; no example is in two of them.

    Attributes:
        fingerprint: sha256 hex over the examples' fingerprint and which of them is in which split.
        warnings: what the user may want to know, such as classes without a test example.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.validation, self.test))

    def counts(self) -> dict[str, int]:
        """Number of examples in each split, by its name; of documents where they are read in rows of the network."""
        return {split.name: _whole_count(split.labels) for split in self}


def _whole_count(labels: Labels) -> int:
    return len(np.unique(labels.documents)) if isinstance(labels, StepLabels) else len(labels)


def without(split: Split, positions: Iterable[int]) -> Split:
    """The split less some of its examples, for example those that cannot be read.

    Args:
        split: the split to leave them out of.
        positions: positions within the split, 0..count-1, in any order.

    Raises:
        IndexError: if a position is not in the split.
    """
    left_out = np.asarray(sorted(positions), dtype=np.int64)
    return Split(split.name, split.examples, np.delete(split.indices, left_out))


def some_examples(examples: Examples, classes: np.ndarray) -> Examples:
    """The examples of some of their classes, numbered anew.

    An example that loses one of several labels stays; one that has lost its only label does not.

    Args:
        examples: to choose from.
        classes: int [k], increasing, the classes to keep.
    """
    own = whole_labels(examples)
    if examples.task.exclusive:
        rows = np.flatnonzero(np.isin(own, classes))
        labels = np.searchsorted(classes, own[rows]).astype(np.int32)
    else:
        rows = np.flatnonzero(own[:, classes].any(axis=1) | ~own.any(axis=1))
        labels = own[rows][:, classes]
    names = tuple(examples.class_names[code] for code in classes)
    return replace(
        examples,
        ids=examples.ids[rows],
        labels=labels,
        class_names=names,
        groups=examples.groups[rows],
        splits=examples.splits[rows],
        raw=lambda indices: examples.raw(rows[np.asarray(indices, dtype=np.int64)]),
        stamps=examples.stamps[rows],
        fingerprint=fingerprint((), (rows,), examples.fingerprint, *names),
        contents=None if examples.contents is None else examples.contents[rows],
        annotated=None if examples.annotated is None else examples.annotated[rows],
    )


def whole_labels(examples: Examples) -> np.ndarray:
    """The labels of examples that are not cut into rows yet."""
    assert isinstance(examples.labels, np.ndarray), "rows are made of splits"
    return examples.labels


def files_in(root: str, ids: np.ndarray) -> Callable[[np.ndarray], Iterator[Path]]:
    """`Examples.raw` of examples that are files; relative ids (object [n] of str) start from the folder `root`."""
    base = os.path.abspath(root)
    # Paths are joined here and not while indexing: the columns hold no second copy of them.
    return lambda indices: (Path(base, ids[index]) for index in indices)


def label_counts(labels: Labels, class_count: int) -> np.ndarray:
    """Number of examples of each class, or of labelled steps, int64 [class_count]."""
    labels = answered(labels)
    if labels.ndim == 2:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=class_count).astype(np.int64)


def text_column(values: Sequence[str]) -> np.ndarray:
    """A column of text as object [n]; see the module's docstring for why."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def repeated(value: str, count: int) -> np.ndarray:
    """A column in which every row is the same string, held once."""
    column = np.empty(count, dtype=object)
    column.fill(value)
    return column


def fingerprint(text_columns: Iterable[np.ndarray], number_columns: Iterable[np.ndarray], *facts: str) -> str:
    """sha256 hex over whole columns, piece by piece so that no second copy of them is held.

    Args:
        text_columns: object [n] of str.
        number_columns: integers of any shape.
        *facts: further words that identify the data, such as class names.
    """
    digest = hashlib.sha256()
    for column in text_columns:
        for start in range(0, len(column), _ROWS_AT_ONCE):
            piece = "\0".join(column[start : start + _ROWS_AT_ONCE]) + "\0"
            digest.update(piece.encode("utf-8", "surrogatepass"))
        digest.update(b"\1")
    for numbers in number_columns:
        digest.update(repr(numbers.shape).encode())
        digest.update(np.ascontiguousarray(numbers, dtype="<i8" if numbers.ndim == 1 else None).data)
    digest.update("\0".join(facts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def spread_positions(count: int, at_most: int) -> np.ndarray:
    """Up to `at_most` of the positions 0..count-1, spread evenly over them: int64, increasing."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).astype(np.int64))


def no_stamps(count: int) -> np.ndarray:
    """The stamps of examples that cannot be replaced one by one."""
    return np.zeros((count, 0), np.int64)


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Names for a message: `'a', 'b' and 3 more`."""
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"
