"""`datasets`: data sets that can be named. No TensorFlow at import."""

from __future__ import annotations

from dataclasses import dataclass

from kerastl.data.tfds_listing import prepared_datasets, tfds_folder


@dataclass(frozen=True)
class DatasetLine:
    """A data set that can be named.

    Attributes:
        name: what `--data` takes.
        prepared: whether it can be used on this machine right now.
        detail: where it lies or how to get it.
    """

    name: str
    prepared: bool
    detail: str


def datasets(data_dir: str | None = None) -> list[DatasetLine]:
    """Data sets that can be named, with those that TFDS has prepared here."""
    lines = [
        DatasetLine("digits", True, "1,797 handwritten digits in 10 classes, bundled with scikit-learn"),
        DatasetLine("definitions", True, "3,000 dictionary definitions in 10 classes, from WordNet"),
        DatasetLine(
            "DIR", True, "a folder with one folder a class, flat or under train/, validation/, test/"
        ),
        DatasetLine(
            "FILE.csv",
            True,
            "a manifest with the columns path (or text) and label; .parquet and .jsonl as well",
        ),
    ]
    prepared = prepared_datasets(data_dir)
    lines += [DatasetLine(f"tfds:{name}", True, detail) for name, detail in prepared]
    if not prepared:
        lines.append(DatasetLine("tfds:NAME", False, f"nothing is prepared in {tfds_folder(data_dir)}"))
    return lines
