"""The rows of a CSV or Parquet manifest: read one by one, checked one by one, gathered as columns."""

from __future__ import annotations

import csv
import json
import os
import posixpath
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kerastl.data.examples import listed
from kerastl.data.names import SPLIT_WORDS, class_name, words_of
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import DataRecipe

# Between the labels of one row in `Table.labels`: no label holds it.
BETWEEN_LABELS = "\0"
_SHOWN_PROBLEMS = 3
# What Excel takes, and some programs write, as a line before the header.
_EXCEL_SEPARATORS = ("sep=,", "sep=;", "sep=\t", "sep=|", "sep=")
_ZERO_OR_ONE = {"0": 0, "0.0": 0, "false": 0, "": 0, "1": 1, "1.0": 1, "true": 1}

Row = tuple[int, str, str, str, str]
"""Line number, path, label, split, group; '' for what the table does not have."""


@dataclass
class Table:
    """Columns while they grow, a row for each row of the manifest, or of a DataFrame that is handed over.

    Attributes:
        path: of the manifest; relative paths in it start from its folder.
        data: names of the columns.
        name: of the table, for messages.
        frame: the DataFrame; None where `path` is a file.
    """

    path: Path
    data: DataRecipe
    name: str = ""
    frame: Any = None
    ids: list[str] = field(default_factory=list)
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
        line, path, label, split, group = row
        given = SPLIT_WORDS.get(split.lower()) if split else ""
        if not path:
            self.problem(line, f"no path in column '{self.data.path_column}'.")
        elif not label and not self.data.several_labels:
            self.problem(line, f"no label in column '{self.data.label_column}' for '{path}'.")
        elif given is None:
            hint = nearest(split.lower(), list(SPLIT_WORDS))
            self.problem(
                line,
                f"unknown split '{split}'.{hint} Expected train, validation, test, or nothing to have it carved.",
            )
        else:
            if not label.isascii() and not unicodedata.is_normalized("NFC", label):
                self.composed.append(label)
            if self.data.several_labels:
                label = BETWEEN_LABELS.join(words_of(label, self.data.label_separator))
            else:
                label = class_name(label)
            self.ids.append(self._identity(path))
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
    read = _parquet_cells if table.path.suffix.lower() == ".parquet" else _csv_cells
    read = read if table.frame is None else _frame_cells
    marks: list[str] = []

    def choose(present: list[str], first: Sequence[str]) -> list[str]:
        found = _find_columns(table, present, first)
        marks[:] = [] if table.data.label_column in found else _marked_columns(table, present, first)
        table.marks = [class_name(name) for name in marks]
        unread = [name for name in present if name and name not in found]
        if unread and not marks:
            table.notes.append(
                f"Columns of the table that are not read: {listed(unread)}. data.split_column and data.group_column name what "
                "divides the images, and what keeps some of them together."
            )
        return [name if name in found else "" for name in _column_names(table.data)] + marks

    for line, (path, label, split, group, *values) in read(table, choose):
        yield line, path, _marked(table, line, marks, values) if marks else label, split, group


# From the columns that there are, and the values of the first row, to those that are wanted; '' for an empty one.
_Choose = Callable[[list[str], Sequence[str]], list[str]]
_Cells = Iterator[tuple[int, list[str]]]


def _csv_cells(table: Table, choose: _Choose) -> _Cells:
    try:
        with open(table.path, encoding="utf-8-sig", newline="") as file:
            yield from _cells_of(file, table, choose)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The manifest '{table.path}' is not UTF-8 text (byte {error.start:,}). Save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(f"The manifest '{table.path}' is not valid CSV: {error}.") from error
    except OSError as error:
        raise DataError(f"Cannot read the manifest '{table.path}': {error.strerror}.") from error


def _cells_of(file: TextIO, table: Table, choose: _Choose) -> _Cells:
    first = file.readline()
    skipped = 0
    if first.strip().lower() in _EXCEL_SEPARATORS:
        first, skipped = file.readline(), 1
    if not first.strip():
        raise DataError(
            f"The manifest '{table.path}' is empty. Expected a header with the columns '{table.data.path_column}' and "
            f"'{table.data.label_column}', and a row for each image."
        )
    # csv.Sniffer guesses from letters as well; the header alone says which separator there is.
    delimiter = max(",;\t|", key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    file.seek(0)
    if skipped:
        file.readline()
    reader = csv.reader(file, delimiter=delimiter)
    header = [name.strip() for name in next(reader)]
    at: list[int] | None = None
    width = len(header)
    for cells in reader:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != width:
            table.problem(
                reader.line_num + skipped,
                f"{len(cells)} values where the header has {width}. Put values that hold a '{delimiter}' in quotes.",
            )
            continue
        if at is None:
            at = [header.index(name) if name else -1 for name in choose(header, cells)]
        yield reader.line_num + skipped, [cells[place].strip() if place >= 0 else "" for place in at]
    if at is None:
        choose(header, [])


def _parquet_cells(table: Table, choose: _Choose) -> _Cells:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"Reading '{table.path}' needs pyarrow, which is not installed: pip install kerastl[parquet]. "
            "Or save the manifest as .csv."
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(table.path)
        present = list(file.schema_arrow.names)
        head = next(file.iter_batches(batch_size=1), None)
        first = [_as_text(column[0].as_py()) for column in head.columns] if head is not None else []
        names = choose(present, first)
        line = 0
        for batch in file.iter_batches(columns=sorted(set(names) - {""})):
            values = [batch.column(name).to_pylist() if name else [""] * len(batch) for name in names]
            for cells in zip(*values, strict=True):
                line += 1
                yield line, [_as_text(cell) for cell in cells]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The manifest '{table.path}' cannot be read as Parquet: {error}") from error


def _frame_cells(table: Table, choose: _Choose) -> _Cells:
    """The rows of a DataFrame, counted from 0 as `iloc` does."""
    present = [str(name) for name in table.frame.columns]
    columns = dict(zip(present, table.frame.columns, strict=True))
    first = [_as_text(next(iter(table.frame[name]), None)) for name in columns.values()]
    names = choose(present, first)
    count = len(table.frame)
    values = [table.frame[columns[name]] if name else [""] * count for name in names]
    for row, cells in enumerate(zip(*values, strict=True)):
        # pandas' own mark for no value says neither that it is equal to itself nor that it is not
        yield row, ["" if type(cell).__name__ == "NAType" else _as_text(cell) for cell in cells]


def _as_text(cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "backslashreplace")
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, (list, tuple)):
        return json.dumps([str(item) for item in cell if item is not None], ensure_ascii=False)
    return "" if cell is None or cell != cell else str(cell)


def _column_names(data: DataRecipe) -> tuple[str, str, str, str]:
    return data.path_column, data.label_column, data.split_column, data.group_column


def _find_columns(table: Table, present: list[str], first: Sequence[str]) -> set[str]:
    """Those of the recipe's four columns that the table has; path and label, or marks in its place, it must have."""
    data = table.data
    problems = []
    for key, name in (("path_column", data.path_column), ("label_column", data.label_column)):
        if name not in present and not (key == "label_column" and _marked_columns(table, present, first)):
            hint = nearest(name.lower(), [word for word in present if word])
            problems.append(f"no column '{name}' (data.{key}).{hint}")
    # An optional column under another name than the default was asked for.
    for key, name in (("split_column", data.split_column), ("group_column", data.group_column)):
        if name not in present and name != getattr(DataRecipe(), key):
            problems.append(f"no column '{name}' (data.{key}).{nearest(name.lower(), present)}")
    repeats = sorted({name for name in _column_names(data) if present.count(name) > 1})
    problems += [f"more than one column '{name}'." for name in repeats]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise DataError(f"The {table.name} has the columns {listed(present, limit=20)}:{lines}")
    return {name for name in _column_names(data) if name in present}


def _marked_columns(table: Table, present: list[str], first: Sequence[str]) -> list[str]:
    """The columns of 0 and 1, one a label, of a table that has no label column; none where one was asked for."""
    if table.data.label_column != DataRecipe().label_column:
        return []
    marks = [
        name
        for name, value in zip(present, first, strict=False)
        if name and value and name not in _column_names(table.data) and value.strip().lower() in _ZERO_OR_ONE
    ]
    if len(marks) < 2:
        return []
    others = [name for name in present if name and name not in (*marks, *_column_names(table.data))]
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
