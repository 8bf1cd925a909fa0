"""The rows of a manifest: read one by one, checked one by one, gathered as columns."""

from __future__ import annotations

import json
import os
import posixpath
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerastl.data.examples import listed
from kerastl.data.kinds import IMAGE, KINDS, TEXT, Kind
from kerastl.data.manifest_cells import JSONL_SUFFIXES, csv_cells, frame_cells, jsonl_cells, parquet_cells
from kerastl.data.names import SPLIT_WORDS, class_name, words_of
from kerastl.data.texts import is_unicode
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import DataRecipe

# Between the labels of one row in `Table.labels`: no label holds it.
BETWEEN_LABELS = "\0"
_SHOWN_PROBLEMS = 3
_LONGEST_SHOWN = 60
_ZERO_OR_ONE = {"0": 0, "0.0": 0, "false": 0, "": 0, "1": 1, "1.0": 1, "true": 1}

Row = tuple[int, str, str, str, str]
"""Line number, path or text, label, split, group; '' for what the table does not have."""


@dataclass
class Table:
    """Columns while they grow, a row for each row of the manifest, or of a DataFrame that is handed over.

    Attributes:
        path: of the manifest; relative paths in it start from its folder.
        data: names of the columns.
        name: of the table, for messages.
        frame: the DataFrame; None where `path` is a file.
        kind: of the examples; None until the columns say which.
        ids: paths of files; of texts their digests are the identities, and nothing stands here.
        texts: in UTF-8; of files nothing stands here.
    """

    path: Path
    data: DataRecipe
    name: str = ""
    frame: Any = None
    kind: Kind | None = None
    ids: list[str] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    label_codes: array[int] = field(default_factory=lambda: array("i"))
    labels: dict[str, int] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    marks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    respelled: list[str] = field(default_factory=list)
    composed: list[str] = field(default_factory=list)
    _shared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name or f"manifest '{self.path}'"

    @property
    def row_word(self) -> str:
        """The unit of a row's number: lines of the text, or rows of the table."""
        return "row" if self.frame is not None or self.path.suffix.lower() == ".parquet" else "line"

    @property
    def column(self) -> str:
        """The column with the examples or their paths."""
        return str(getattr(self.data, (self.kind or IMAGE).column_key))

    @property
    def noun(self) -> str:
        """One example, for messages."""
        return (self.kind or IMAGE).noun

    def problem(self, line: int, text: str) -> None:
        """Remember what is wrong with a row; only the first few are kept, all are counted."""
        self.problem_count += 1
        if len(self.problems) < _SHOWN_PROBLEMS:
            self.problems.append(f"{self.row_word} {line}: {text}")

    def raise_problems(self) -> None:
        """Raise one DataError for all rows that are wrong, if there are any."""
        if self.problems:
            more = self.problem_count - len(self.problems)
            rest = f"\n  - and {more:,} more" if more else ""
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            raise DataError(f"The {self.name} has rows that cannot be used:{lines}{rest}")

    def add(self, row: Row) -> None:
        """Append a row, or remember what is wrong with it."""
        line, cell, label, split, group = row
        in_files = self.kind is None or self.kind.in_files
        given = SPLIT_WORDS.get(split.lower()) if split else ""
        if not cell:
            self.problem(line, f"no {'path' if in_files else self.noun} in column '{self.column}'.")
        elif not label and not self.data.several_labels:
            self.problem(line, f"no label in column '{self.data.label_column}' for '{shortened(cell)}'.")
        elif given is None:
            hint = nearest(split.lower(), list(SPLIT_WORDS))
            self.problem(
                line,
                f"unknown split '{split}'.{hint} Expected train, validation, test, or nothing to have it carved.",
            )
        elif not in_files and not is_unicode(cell):
            self.problem(
                line, f"the {self.noun} holds half of a character (\\ud800 to \\udfff): write it in UTF-8."
            )
        else:
            if not label.isascii() and not unicodedata.is_normalized("NFC", label):
                self.composed.append(label)
            if self.data.several_labels:
                label = BETWEEN_LABELS.join(words_of(label, self.data.label_separator))
            else:
                label = class_name(label)
            if in_files:
                self.ids.append(self._identity(cell))
            else:
                self.texts.append(cell.encode())
            self.label_codes.append(self.labels.setdefault(label, len(self.labels)))
            self.splits.append(given)
            self.groups.append(self._shared.setdefault(group, group))
            self.lines.append(line)

    def _identity(self, path: str) -> str:
        """One spelling for one file: relative where it lies below the manifest, so that folders can move."""
        if path.startswith("/"):
            base = str(self.path.parent.absolute()) + "/"
            path = path.removeprefix(base)
        if "\\" in path or not path.isascii():
            path = self._as_on_disk(path)
        return posixpath.normpath(path) if "./" in path or "//" in path else path

    def _as_on_disk(self, path: str) -> str:
        """The path as the disk has it: with / for the backslash of Windows, and in the disk's Unicode form."""
        slashed = path.replace("\\", "/")
        spellings = [path, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
        found = next((each for each in spellings if os.path.exists(self.path.parent / each)), slashed)
        if found != path:
            self.respelled.append(path)
        return found


def read_rows(table: Table) -> Iterator[Row]:
    """The rows of the table's file.

    Raises:
        DataError: it cannot be read, or lacks columns.
    """
    suffix = table.path.suffix.lower()
    read = jsonl_cells if suffix in JSONL_SUFFIXES else csv_cells
    read = parquet_cells if suffix == ".parquet" else read
    read = read if table.frame is None else frame_cells
    marks: list[str] = []

    def choose(present: list[str], first: Sequence[str]) -> list[str]:
        table.kind = table.kind or _kind_of(table.data, present)
        found = _find_columns(table, present, first)
        marks[:] = [] if table.data.label_column in found else _marked_columns(table, present, first)
        table.marks = [class_name(name) for name in marks]
        unread = [name for name in present if name and name not in found]
        if unread and not marks:
            table.notes.append(
                f"Columns of the table that are not read: {listed(unread)}. data.split_column and data.group_column name what "
                f"divides the {table.noun}s, and what keeps some of them together."
            )
        return [name if name in found else "" for name in _column_names(table)] + marks

    for line, (cell, label, split, group, *values) in read(table, choose):
        yield line, cell, _marked(table, line, marks, values) if marks else label, split, group


def shortened(cell: str) -> str:
    """A cell's text, for a message."""
    return cell if len(cell) <= _LONGEST_SHOWN else cell[:_LONGEST_SHOWN] + "…"


def _kind_of(data: DataRecipe, present: list[str]) -> Kind:
    """Texts where only the column of texts is there."""
    return TEXT if data.text_column in present and data.path_column not in present else IMAGE


def _column_names(table: Table) -> tuple[str, str, str, str]:
    data = table.data
    return table.column, data.label_column, data.split_column, data.group_column


def _find_columns(table: Table, present: list[str], first: Sequence[str]) -> set[str]:
    """Those of the recipe's four columns that the table has; path and label, or marks in its place, it must have."""
    data = table.data
    problems = []
    kind = table.kind or IMAGE
    for key, name in ((kind.column_key, table.column), ("label_column", data.label_column)):
        if name not in present and not (key == "label_column" and _marked_columns(table, present, first)):
            hint = nearest(name.lower(), [word for word in present if word])
            hint = _other_kind(data, kind, present) or hint if key == kind.column_key else hint
            problems.append(f"no column '{name}' (data.{key}).{hint}")
    # An optional column under another name than the default was asked for.
    for key, name in (("split_column", data.split_column), ("group_column", data.group_column)):
        if name not in present and name != getattr(DataRecipe(), key):
            problems.append(f"no column '{name}' (data.{key}).{nearest(name.lower(), present)}")
    repeats = sorted({name for name in _column_names(table) if present.count(name) > 1})
    problems += [f"more than one column '{name}'." for name in repeats]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise DataError(f"The {table.name} has the columns {listed(present, limit=20)}:{lines}")
    return {name for name in _column_names(table) if name in present}


def _other_kind(data: DataRecipe, kind: Kind, present: list[str]) -> str:
    """A hint where the table has the column of another kind of example."""
    for other in KINDS.values():
        column = getattr(data, other.column_key)
        if other is not kind and column in present:
            return f" There is '{column}': for {other.noun}s set data.modality = '{other.modality}'."
    return ""


def _marked_columns(table: Table, present: list[str], first: Sequence[str]) -> list[str]:
    """The columns of 0 and 1, one a label, of a table that has no label column; none where one was asked for."""
    if table.data.label_column != DataRecipe().label_column:
        return []
    marks = [
        name
        for name, value in zip(present, first, strict=False)
        if name and value and name not in _column_names(table) and value.strip().lower() in _ZERO_OR_ONE
    ]
    if len(marks) < 2:
        return []
    others = [name for name in present if name and name not in (*marks, *_column_names(table))]
    passed = f"; passed over: {listed(others)}" if others else ""
    note = (
        f"There is no column 'label': labels are read from the columns of 0 and 1, {listed(marks)}{passed}."
    )
    if note not in table.notes:
        table.notes.append(note)
    return marks


def _marked(table: Table, line: int, marks: list[str], values: Sequence[str]) -> str:
    """The label of a row whose columns say 0 or 1 for each; as a list where there may be several."""
    labels = []
    for name, value in zip(marks, values, strict=True):
        mark = _ZERO_OR_ONE.get(value.lower())
        if mark is None:
            table.problem(line, f"'{value}' in column '{name}', where 0 or 1 is expected for each label.")
            return marks[0]
        labels += [name] * mark
    if table.data.several_labels:
        return json.dumps(labels, ensure_ascii=False)
    if len(labels) != 1:
        table.problem(
            line,
            f"{len(labels)} of the columns {listed(marks)} are 1, where one label is expected "
            "(data.task = 'multi_label' takes several, or none).",
        )
        return marks[0]
    return labels[0]
