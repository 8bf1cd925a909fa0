"""A CSV or Parquet table with a path and a label in each row, for data that do not lie in class folders."""

from __future__ import annotations

import csv
import os
import posixpath
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kerastl.data.examples import (
    Examples,
    SkippedNames,
    fingerprint,
    listed,
    text_column,
)
from kerastl.data.files import encoded_files
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import DataRecipe

MANIFEST_SUFFIXES = (".csv", ".parquet")
SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "": "",
}  # fmt: skip
LABEL_SEPARATOR = "|"
_SHOWN_PROBLEMS = 3

_Row = tuple[int, str, str, str, str]
"""Line number, path, label, split, group; '' for what the table does not have."""


def open_manifest(path: Path, data: DataRecipe) -> Examples:
    """Index the images that a table names; relative paths start from the table's own folder.

    The order of the rows means nothing: examples are sorted by path. Files that are missing are found
    when they are read, unless all of them are.

    Args:
        path: a .csv (UTF-8; separated by comma, semicolon or tab; with a header) or .parquet file.
        data: names of the columns, and whether labels are `multi_label`.

    Raises:
        DataError: if columns, labels or paths are missing, or rows contradict each other.
    """
    table = _Table(path, data)
    for row in _parquet_rows(table) if path.suffix.lower() == ".parquet" else _csv_rows(table):
        table.add(row)
    table.raise_problems()
    if not table.ids:
        raise DataError(f"The manifest '{path}' has a header, but no rows. Expected a row for each image.")
    return _columns(table)


@dataclass
class _Table:
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

    def add(self, row: _Row) -> None:
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
                label = LABEL_SEPARATOR.join(_words(label))
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


def _csv_rows(table: _Table) -> Iterator[_Row]:
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


def _rows_of(file: TextIO, table: _Table) -> Iterator[_Row]:
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


def _parquet_rows(table: _Table) -> Iterator[_Row]:
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


def _find_columns(table: _Table, present: list[str]) -> set[str]:
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


def _columns(table: _Table) -> Examples:
    order = sorted(range(len(table.ids)), key=table.ids.__getitem__)
    skipped = SkippedNames()
    kept = _without_repeats(table, order, skipped)
    # Files that were listed twice with one label are dropped here, the rest of the columns follows `kept`.
    ids = text_column(table.ids)[kept]
    splits = text_column(table.splits)[kept]
    groups = text_column(table.groups)[kept]
    root = str(table.path.parent)
    sizes, changed = _file_states(table, os.path.abspath(root), ids)
    codes = np.frombuffer(table.label_codes, dtype=np.intc)[kept]
    labels, class_names = _labels(table, codes)
    return Examples(
        ids=ids,
        labels=labels,
        class_names=class_names,
        groups=groups,
        splits=splits,
        encoded=encoded_files(root, ids),
        origin=f"manifest {table.path}",
        fingerprint=fingerprint((ids, splits, groups), (labels, sizes, changed), *class_names),
        skipped=skipped.lines(),
    )


def _without_repeats(table: _Table, order: list[int], skipped: SkippedNames) -> np.ndarray:
    """Row positions in order of path, each path once; sorted, equal paths are neighbours."""
    kept: list[int] = []
    for row in order:
        if not kept or table.ids[row] != table.ids[kept[-1]]:
            kept.append(row)
            continue
        first = kept[-1]
        for what, column in (("label", table.label_codes), ("split", table.splits), ("group", table.groups)):
            if column[row] != column[first]:
                other = table.lines[first]
                table.problem(
                    table.lines[row],
                    f"'{table.ids[row]}' has another {what} here than in {table.row_word} {other}.",
                )
                break
        else:
            skipped.add(
                table.ids[row],
                f"{table.row_word} {table.lines[row]} repeats {table.row_word} {table.lines[first]}",
            )
    table.raise_problems()
    return np.array(kept, dtype=np.int64)


def _file_states(table: _Table, root: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 size in bytes (-1 where the file is missing) and time of change in ns, for the fingerprint."""
    sizes, changed = array("q"), array("q")
    for path in ids:
        try:
            state = os.stat(f"{root}/{path}" if path[0] != "/" else path)
        except (OSError, ValueError):
            sizes.append(-1)
            changed.append(0)
        else:
            sizes.append(state.st_size)
            changed.append(state.st_mtime_ns)
    size_column = np.frombuffer(sizes, dtype=np.int64)
    if (size_column < 0).all():
        raise DataError(
            f"None of the {len(ids):,} files in the manifest '{table.path}' exists; looked for {listed(list(ids), 3)}, "
            f"relative to '{table.path.parent}'. Move the manifest beside them, or write absolute paths."
        )
    return size_column, np.frombuffer(changed, dtype=np.int64)


def _words(label: str) -> list[str]:
    return sorted({word.strip() for word in label.split(LABEL_SEPARATOR)} - {""})


def _labels(table: _Table, codes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 [n] or uint8 [n, classes], and the sorted class names; `codes` number the distinct label texts."""
    texts = list(table.labels)
    if not table.data.multi_label:
        names = tuple(sorted(texts))
        rank = {name: position for position, name in enumerate(names)}
        return np.array([rank[text] for text in texts], dtype=np.int32)[codes], names
    sets = [set(_words(text)) for text in texts]
    names = tuple(sorted(set().union(*sets)))
    if not names:
        raise DataError(
            f"No row of the manifest '{table.path}' has a label in column '{table.data.label_column}'. "
            f"Expected labels separated by {LABEL_SEPARATOR}."
        )
    column = {name: position for position, name in enumerate(names)}
    hot = np.zeros((len(sets), len(names)), dtype=np.uint8)
    for row, words in enumerate(sets):
        hot[row, [column[word] for word in words]] = 1
    return hot[codes], names
