"""The rows of a CSV or Parquet manifest: read one by one, checked one by one, gathered as columns."""

from __future__ import annotations

import csv
import posixpath
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kerastl.data.examples import listed
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import DataRecipe

SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "": "",
}  # fmt: skip
LABEL_SEPARATOR = "|"
_SHOWN_PROBLEMS = 3

Row = tuple[int, str, str, str, str]
"""Line number, path, label, split, group; '' for what the table does not have."""


@dataclass
class Table:
    """Columns while they grow, a row for each row of the manifest."""

    path: Path
    data: DataRecipe
    ids: list[str] = field(default_factory=list)
    label_codes: array[int] = field(default_factory=lambda: array("i"))
    labels: dict[str, int] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    _shared: dict[str, str] = field(default_factory=dict)

    @property
    def row_word(self) -> str:
        """What a row's number counts: lines of the text, or rows of the table."""
        return "row" if self.path.suffix.lower() == ".parquet" else "line"

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
            raise DataError(f"The manifest '{self.path}' has rows that cannot be used:{lines}{rest}")

    def add(self, row: Row) -> None:
        """Append a row, or remember what is wrong with it."""
        line, path, label, split, group = row
        given = SPLIT_WORDS.get(split.lower())
        if not path:
            self.problem(line, f"no path in column '{self.data.path_column}'.")
        elif not label and not self.data.multi_label:
            self.problem(line, f"no label in column '{self.data.label_column}' for '{path}'.")
        elif given is None:
            hint = nearest(split.lower(), [word for word in SPLIT_WORDS if word])
            self.problem(
                line,
                f"unknown split '{split}'.{hint} Expected train, validation, test, or nothing to have it carved.",
            )
        else:
            if self.data.multi_label:
                label = LABEL_SEPARATOR.join(words_of(label))
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
        return posixpath.normpath(path) if "./" in path or "//" in path else path


def read_rows(table: Table) -> Iterator[Row]:
    """The rows of the table's file.

    Raises:
        DataError: it cannot be read, or lacks columns.
    """
    return _parquet_rows(table) if table.path.suffix.lower() == ".parquet" else _csv_rows(table)


def _csv_rows(table: Table) -> Iterator[Row]:
    try:
        with open(table.path, encoding="utf-8-sig", newline="") as file:
            yield from _rows_of(file, table)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The manifest '{table.path}' is not UTF-8 text (byte {error.start:,}). Save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(f"The manifest '{table.path}' is not valid CSV: {error}.") from error
    except OSError as error:
        raise DataError(f"Cannot read the manifest '{table.path}': {error.strerror}.") from error


def _rows_of(file: TextIO, table: Table) -> Iterator[Row]:
    first = file.readline()
    if not first.strip():
        raise DataError(
            f"The manifest '{table.path}' is empty. Expected a header with the columns '{table.data.path_column}' and "
            f"'{table.data.label_column}', and a row for each image."
        )
    # csv.Sniffer guesses from letters as well; the header alone says which separator there is.
    delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter)
    header = [name.strip() for name in next(reader)]
    where = _find_columns(table, header)
    at = [header.index(name) if name in where else -1 for name in _column_names(table.data)]
    path_at, label_at, split_at, group_at = at
    width = len(header)
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) != width:
            table.problem(
                reader.line_num,
                f"{len(cells)} values where the header has {width}. Put values that hold a '{delimiter}' in quotes.",
            )
            continue
        yield (
            reader.line_num,
            cells[path_at].strip(),
            cells[label_at].strip(),
            cells[split_at].strip() if split_at >= 0 else "",
            cells[group_at].strip() if group_at >= 0 else "",
        )


def _parquet_rows(table: Table) -> Iterator[Row]:
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
        where = _find_columns(table, list(file.schema_arrow.names))
        names = _column_names(table.data)
        line = 0
        for batch in file.iter_batches(columns=sorted(where)):
            values = [
                batch.column(name).to_pylist() if name in where else [""] * len(batch) for name in names
            ]
            for cells in zip(*values, strict=True):
                line += 1
                path, label, split, group = (_as_text(cell) for cell in cells)
                yield line, path, label, split, group
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The manifest '{table.path}' cannot be read as Parquet: {error}") from error


def _as_text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, (list, tuple)):
        return LABEL_SEPARATOR.join(str(item) for item in cell)
    return "" if cell is None else str(cell)


def _column_names(data: DataRecipe) -> tuple[str, str, str, str]:
    return data.path_column, data.label_column, data.split_column, data.group_column


def _find_columns(table: Table, present: list[str]) -> set[str]:
    """Those of the recipe's four columns that the table has; path and label it must have."""
    data = table.data
    problems = []
    for key, name in (("path_column", data.path_column), ("label_column", data.label_column)):
        if name not in present:
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
        raise DataError(f"The manifest '{table.path}' has the columns {listed(present, limit=20)}:{lines}")
    return {name for name in _column_names(data) if name in present}


def words_of(label: str) -> list[str]:
    """The labels of a multi-label cell, sorted and without repeats; none for an empty cell."""
    return sorted({word.strip() for word in label.split(LABEL_SEPARATOR)} - {""})
