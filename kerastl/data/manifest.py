"""A table (CSV, JSON lines, Parquet) with a path or text and a label a row, for data that do not lie in class folders."""

from __future__ import annotations

import glob
import os
import re
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from kerastl.data.contents import examples_in_memory
from kerastl.data.duplicates import digest_of, equal_files
from kerastl.data.examples import (
    Examples,
    files_in,
    fingerprint,
    listed,
    text_column,
)
from kerastl.data.kinds import IMAGE, Kind
from kerastl.data.manifest_cells import JSONL_SUFFIXES
from kerastl.data.manifest_rows import BETWEEN_LABELS, Table, read_rows
from kerastl.data.names import doubtful_separators, empty_words
from kerastl.data.skipped import SkippedNames
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe

MANIFEST_SUFFIXES = (".csv", ".parquet", *JSONL_SUFFIXES)


def open_manifest(path: Path, data: DataRecipe, kind: Kind | None = None) -> Examples:
    """Index the images that a table names, or the texts that it holds; relative paths start from the table's own folder.

    The order of the rows means nothing: examples are sorted by path, texts by a digest. Files that are missing are found
    when they are read, unless all of them are. Texts are read whole and stay in memory.

    Args:
        path: a .csv (UTF-8; separated by comma, semicolon, tab or |; with a header), .jsonl or .parquet file.
        data: names of the columns, and whether an example may have several labels.
        kind: of the examples; by the columns without it.

    Raises:
        DataError: if columns, labels, paths or texts are missing, or rows contradict each other.
    """
    return examples_of_table(Table(path, data, kind=kind))


def examples_of_table(table: Table) -> Examples:
    """Index the examples that a table names, of a manifest or handed over in Python; see `open_manifest`."""
    for row in read_rows(table):
        table.add(row)
    table.raise_problems()
    if not table.lines:
        raise DataError(f"The {table.name} has a header, but no rows. Expected a row for each {table.noun}.")
    return _columns(table) if table.kind is None or table.kind.in_files else _texts(table, table.kind)


def _texts(table: Table, kind: Kind) -> Examples:
    """The rows of a table that holds the texts themselves."""
    digests = np.array([digest_of(text) for text in table.texts], np.int64)
    order = np.argsort(digests, kind="stable")
    codes = np.frombuffer(table.label_codes, dtype=np.intc)[order]
    labels, class_names = _labels(table, codes)
    groups = text_column(table.groups)[order]
    return examples_in_memory(
        [table.texts[row] for row in order.tolist()],
        digests[order],
        labels,
        class_names,
        text_column(table.splits)[order],
        groups,
        noun=kind.noun,
        origin=_origin(table),
        place=os.path.abspath(table.path),
        recipe=replace(table.data, modality=kind.modality),
        warnings=_warnings(table, codes, class_names, groups),
    )


def _origin(table: Table) -> str:
    return table.name if table.frame is not None else f"manifest {table.path}"


def _columns(table: Table) -> Examples:
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
        raw=files_in(root, ids),
        noun=table.noun,
        origin=_origin(table),
        place=os.path.abspath(root),
        stamps=np.stack([sizes, changed], axis=1),
        fingerprint=fingerprint((ids, splits, groups), (labels, sizes, changed), *class_names),
        skipped=skipped.lines(),
        warnings=(*skipped.warnings(), *_warnings(table, codes, class_names, groups)),
        contents=equal_files(root, ids, sizes),
        recipe=replace(table.data, modality=IMAGE.modality),
    )


def _without_repeats(table: Table, order: list[int], skipped: SkippedNames) -> np.ndarray:
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
                "rows that repeat another",
            )
    table.raise_problems()
    return np.array(kept, dtype=np.int64)


def _file_states(table: Table, root: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
            f"None of the {len(ids):,} files in the {table.name} exists; looked for {listed(list(ids), 3)}, "
            f"relative to '{table.path.parent}'. {_elsewhere(root, list(ids))}"
        )
    return size_column, np.frombuffer(changed, dtype=np.int64)


def _elsewhere(root: str, ids: list[str]) -> str:
    with_suffix = glob.glob(glob.escape(os.path.join(root, ids[0])) + ".*")
    if with_suffix:
        return f"There is '{os.path.basename(with_suffix[0])}': write paths with their suffix."
    if any(re.match("[a-z]{2,}:/", path) for path in ids):
        return "Addresses are not fetched: download the images, and write their paths."
    if any(path[1:2] == ":" for path in ids):
        return "Paths such as C:/ belong to a Windows machine: write them relative to the manifest."
    return "Move the manifest beside them, or write absolute paths."


def _warnings(
    table: Table, codes: np.ndarray, class_names: tuple[str, ...], groups: np.ndarray
) -> tuple[str, ...]:
    """Warnings about cells that were read otherwise than they are written, and about likely mistakes in the table."""
    lines = list(table.notes)
    if table.respelled:
        lines.append(
            f"{len(table.respelled):,} paths are written otherwise than on this disk, with \\ or in another Unicode form, "
            f"and were read all the same, such as {listed(table.respelled, 1)}."
        )
    if table.composed:
        lines.append(
            f"{len(table.composed):,} labels are written in another Unicode form than NFC and were read in it, such as "
            f"{listed(table.composed, 1)}."
        )
    texts = list(table.labels)
    rows = dict(zip(texts, np.bincount(codes, minlength=len(texts)).tolist(), strict=True))
    separator = table.data.label_separator if table.data.several_labels else ""
    cells = [text.split(BETWEEN_LABELS) for text in texts] if separator else [[text] for text in texts]
    words: dict[str, int] = {}
    for text, labels in zip(texts, cells, strict=True):
        for label in labels:
            words[label] = words.get(label, 0) + rows[text]
    never = [mark for mark in table.marks if mark not in words]
    if never:
        lines.append(f"Columns that are 1 in no row are no classes: {listed(never)}.")
    lines += empty_words(
        words, "label", "take these rows out, or leave the cell empty where data.task = 'multi_label'"
    )
    lines += empty_words(Counter(groups), "group", "leave the cell empty")
    lines += doubtful_separators(class_names, separator, all(len(labels) < 2 for labels in cells))
    return tuple(lines)


def _labels(table: Table, codes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 [n] or uint8 [n, classes], and the sorted class names; `codes` number the distinct label texts."""
    texts = list(table.labels)
    if not table.data.several_labels:
        names = tuple(sorted(texts))
        rank = {name: position for position, name in enumerate(names)}
        return np.array([rank[text] for text in texts], dtype=np.int32)[codes], names
    sets = [set(text.split(BETWEEN_LABELS)) - {""} for text in texts]
    names = tuple(sorted(set().union(*sets)))
    if not names:
        raise DataError(
            f"No row of the {table.name} has a label in column '{table.data.label_column}'. "
            f"Expected labels separated by {table.data.label_separator}."
        )
    column = {name: position for position, name in enumerate(names)}
    hot = np.zeros((len(sets), len(names)), dtype=np.uint8)
    for row, words in enumerate(sets):
        hot[row, [column[word] for word in words]] = 1
    return hot[codes], names
