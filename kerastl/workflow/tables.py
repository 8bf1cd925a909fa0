"""The CSV files of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.data.examples import Splits
from kerastl.run import write_text_atomic


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dictionaries with the same keys as CSV with a header; no rows make an empty file."""
    header = list(rows[0]) if rows else []
    _write(path, header, ([row[name] for name in header] for row in rows))


def write_splits(path: Path, splits: Splits) -> None:
    """Write the split and the labels of every image."""

    def labels_of(label: Any) -> str:
        if not splits.train.examples.multi_label:
            return splits.class_names[label]
        return "|".join(name for name, present in zip(splits.class_names, label, strict=True) if present)

    rows = (
        (split.name, identity, labels_of(label))
        for split in splits
        for identity, label in zip(split.ids, split.labels, strict=True)
    )
    _write(path, ["split", "id", "label"], rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
