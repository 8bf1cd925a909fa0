"""The bundled source of texts: definitions of nouns from WordNet, so that a demo needs no download."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np

from kerastl.data.contents import examples_in_memory
from kerastl.data.duplicates import digest_of
from kerastl.data.examples import CARVE, Examples, repeated
from kerastl.data.kinds import TEXT
from kerastl.recipe.schema import DataRecipe

DEFINITIONS_FILE = Path(__file__).parent / "wordnet" / "definitions.csv"


def open_definitions() -> Examples:
    """Definitions of nouns under the kind of thing that they describe, 300 of each of ten kinds, without given splits.

    They are from WordNet 3.0 (Princeton University, 2006, https://wordnet.princeton.edu), whose licence lies beside them;
    `tools/wordnet_definitions.py` chose them. The file is a manifest as `data.source` takes them.

    Returns:
        3,000 examples, known by digests of their texts in UTF-8.
    """
    texts, names = _definitions()
    class_names = tuple(sorted(set(names)))
    return examples_in_memory(
        texts,
        np.array([digest_of(text) for text in texts], np.int64),
        np.array([class_names.index(name) for name in names], np.int32),
        class_names,
        repeated(CARVE, len(texts)),
        repeated("", len(texts)),
        noun=TEXT.noun,
        origin="the definitions from WordNet that ship with kerastl",
        place="WordNet definitions",
        recipe=DataRecipe(source="definitions", modality=TEXT.modality),
    )


@lru_cache(maxsize=1)
def _definitions() -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    with DEFINITIONS_FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(row["text"].encode() for row in rows), tuple(row["label"] for row in rows)
