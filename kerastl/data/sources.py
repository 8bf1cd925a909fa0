"""Which kind of source the recipe's `data.source` names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kerastl.backbones import BUNDLED_DATA
from kerastl.data.definitions import open_definitions
from kerastl.data.digits import open_digits
from kerastl.data.entities import open_entities
from kerastl.data.examples import Examples
from kerastl.data.folder import open_folder
from kerastl.data.grouping import group_by_pattern
from kerastl.data.kinds import IMAGE, KINDS, TEXT, Kind
from kerastl.data.manifest import MANIFEST_SUFFIXES, open_manifest
from kerastl.data.names import checked_names
from kerastl.data.tfds_source import open_tfds
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import HANDED, DataRecipe

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
EXPECTED = (
    "Expected a folder with one folder a class, a .csv, .parquet or .jsonl manifest, tfds:NAME (see `kerastl datasets`), "
    "digits or definitions"
)
# Name, kind and examples of the data that ship with kerastl.
_BUNDLED = {"digits": (IMAGE, open_digits), "definitions": (TEXT, open_definitions)}


def open_examples(data: DataRecipe) -> Examples:
    """Index the labelled examples that a recipe names; none is decoded.

    Whether the labels suffice for training (two classes, two examples of each) is checked by
    `make_splits`, so that a trained model can be evaluated on fewer.

    Args:
        data: the recipe's `data`.

    Returns:
        The examples, with the splits that the source itself gives.

    Raises:
        DataError: if the source does not exist, is empty, or is not laid out as expected, or if a class has a
            name that no model can be exported with.
    """
    kind = None if data.modality is None else KINDS[data.modality]
    examples = _open(data, kind)
    if data.group_pattern is not None:
        examples = group_by_pattern(examples, data.group_pattern)
    found = kind or next(kind for kind in KINDS.values() if kind.noun == examples.noun)
    return replace(checked_names(examples), recipe=replace(data, modality=found.modality))


def _open(data: DataRecipe, kind: Kind | None) -> Examples:
    source = data.source.strip()
    if data.task == "entities" and source and not source.startswith(HANDED):
        return open_entities(source, data)
    if not source:
        raise DataError(f"data.source is empty. {EXPECTED}.")
    if source.startswith(HANDED):
        raise DataError(
            f"data.source = '{source}': these data were handed over in Python, and a recipe cannot open them again. Name data "
            "(--data FOLDER), or pass the data in Python: kerastl.load(RUN).evaluate(data), kerastl.fit(RECIPE, data)."
        )
    path = Path(source).expanduser()
    is_manifest = path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir()
    if data.several_labels and not is_manifest:
        raise DataError(
            f"data.task = 'multi_label', but '{source}' gives each example one label. Expected a .csv, .parquet or "
            ".jsonl manifest with labels separated by | (or data.task = 'classification', where a model is still to be trained)."
        )
    if source in _BUNDLED:
        of_kind, opened = _BUNDLED[source]
        if kind not in (None, of_kind):
            raise DataError(
                f"data.source = '{source}' are {of_kind.noun}s, and data.modality = '{data.modality}'. Name others (--data)."
            )
        examples = opened()
        hidden = (f"These are {examples.origin}; the folder of that name is --data ./{source}",)
        return replace(examples, warnings=hidden * path.is_dir())
    if source.lower().startswith("tfds:"):
        return open_tfds(source[len("tfds:") :], data, kind)
    if re.match("https?://", source) or (path.is_file() and path.suffix.lower() in ARCHIVES):
        raise DataError(f"data.source '{source}' has to be downloaded and unpacked first. {EXPECTED}.")
    if not path.exists():
        raise DataError(f"data.source '{source}' does not exist.{_nearest_path(path)} {EXPECTED}.")
    if is_manifest:
        return open_manifest(path, data, kind)
    if not path.is_dir():
        raise DataError(
            f"data.source '{source}' is a file, but neither .csv nor .parquet nor .jsonl. {EXPECTED}."
        )
    return open_folder(path, data.group_subfolders, kind)


def _nearest_path(path: Path) -> str:
    """A hint: the most similar name beside the missing one, or how far the path does exist."""
    parent = path.parent
    if not parent.is_dir():
        there = next((folder for folder in parent.parents if folder.is_dir()), None)
        return f" Its folder '{parent}' does not exist either" + (f"; '{there}' does." if there else ".")
    try:
        names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    hint = nearest(path.name, [*names, *BUNDLED_DATA])
    if hint or len(path.parts) > 1 or path.suffix:
        return hint
    return f" If a TFDS set is meant, write 'tfds:{path.name}'."
