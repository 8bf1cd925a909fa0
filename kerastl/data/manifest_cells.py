"""The cells of a manifest's file, or of a DataFrame, as text: row by row of CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from kerastl.errors import DataError
from kerastl.modality.text_files import why_file_not_utf8

if TYPE_CHECKING:
    from kerastl.data.manifest_rows import Table

JSONL_SUFFIXES = (".jsonl", ".ndjson")
# What Excel takes, and some programs write, as a line before the header.
_EXCEL_SEPARATORS = ("sep=,", "sep=;", "sep=\t", "sep=|", "sep=")
# Python's own limit of 131,072 characters is below the longest texts.
_LONGEST_CELL = 1 << 30
_SHOWN_CHARACTERS = 40

# From the columns that there are, and the values of the first row, to those that are wanted; '' for an empty one.
Choose = Callable[[list[str], Sequence[str]], list[str]]
Cells = Iterator[tuple[int, list[str]]]


def csv_cells(table: Table, choose: Choose) -> Cells:
    """Rows of a .csv file: the line that each begins on, and its cells in the chosen columns.

    Raises:
        DataError: it cannot be read.
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with open(table.path, encoding="utf-8-sig", newline="") as file:
            yield from _cells_of(file, table, choose)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The manifest '{table.path}' is not UTF-8 text, {why_file_not_utf8(table.path)}. Save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(f"The manifest '{table.path}' is not valid CSV: {error}.") from error
    except OSError as error:
        raise DataError(f"Cannot read the manifest '{table.path}': {error.strerror}.") from error


def _cells_of(file: TextIO, table: Table, choose: Choose) -> Cells:
    first = file.readline()
    skipped = 0
    if first.strip().lower() in _EXCEL_SEPARATORS:
        first, skipped = file.readline(), 1
    if not first.strip():
        raise DataError(
            f"The manifest '{table.path}' is empty. Expected a header with the columns '{table.column}' and "
            f"'{table.data.label_column}', and a row for each {table.noun}."
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
    line = reader.line_num + skipped
    for cells in reader:
        begun, line = line + 1, reader.line_num + skipped
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != width:
            table.problem(
                begun,
                f"{len(cells)} values where the header has {width}. Put values that hold a '{delimiter}' in quotes.",
            )
            continue
        if at is None:
            at = [header.index(name) if name else -1 for name in choose(header, cells)]
        yield begun, [cells[place].strip() if place >= 0 else "" for place in at]
    if at is None:
        choose(header, [])


def jsonl_cells(table: Table, choose: Choose) -> Cells:
    """Rows of JSON lines (https://jsonlines.org): the line of each, and its values as text; a key may be left out.

    Raises:
        DataError: it cannot be read, or a line is no JSON object.
    """
    columns: dict[str, None] = {}
    first: dict[str, Any] = {}
    for _, values in _objects(table):
        first = first or values
        columns.update(dict.fromkeys(values))
    table.raise_problems()
    present = list(columns)
    if not present:
        raise DataError(
            f"The manifest '{table.path}' is empty. Expected a line for each {table.noun}, such as "
            f'{{"{table.column}": "...", "{table.data.label_column}": "..."}}.'
        )
    names = choose(present, [_as_text(first.get(name)) for name in present])
    for line, values in _objects(table):
        found = [values.get(name) if name else None for name in names]
        if any(isinstance(value, dict) for value in found) or isinstance(found[0], list):
            table.problem(line, f"an object or a list where a text is expected: {_shown(json.dumps(values))}")
        else:
            yield line, [_as_text(value) for value in found]


def _objects(table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines with their line numbers; what is none is remembered as a problem."""
    try:
        with open(table.path, encoding="utf-8-sig", newline="\n") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError) as error:
                    table.problem(line, f"no JSON: {str(error).partition(': line')[0]}, in {_shown(text)}")
                    continue
                if isinstance(values, dict):
                    yield line, values
                else:
                    table.problem(line, f"no JSON object, but {_shown(text)}")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The manifest '{table.path}' is not UTF-8 text, {why_file_not_utf8(table.path)}. Save it in UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read the manifest '{table.path}': {error.strerror}.") from error


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def parquet_cells(table: Table, choose: Choose) -> Cells:
    """Rows of a .parquet file, counted from 1.

    Raises:
        DataError: it cannot be read, or pyarrow is not installed.
    """
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


def frame_cells(table: Table, choose: Choose) -> Cells:
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
