"""Entities in prepared TFDS sets whose sentences are words and tags, such as `conll2003` and `wikiann/en`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerastl.data.annotated import Annotated, Entities, from_words, types_of
from kerastl.data.skipped import SkippedNames
from kerastl.data.tfds_reading import rows_of
from kerastl.data.tfds_source import open_builder, pieces_of, split_specs
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe
from kerastl.task.tags import is_tag, scheme_of, spans_of

# Among several features that could be meant; `conll2003` has chunks as well, which are tags of the same form.
_WORDS, _TAGS = ("tokens", "words"), ("ner", "tags", "ner_tags")


def read_tfds_entities(name: str, data: DataRecipe) -> dict[str, Entities]:
    """The sentences of a prepared TFDS set, by our names of its splits.

    Args:
        name: `NAME`, `NAME/config`, `NAME:version` or `NAME/config:version`.
        data: `data_dir`, `train_split`, `validation_split` and `test_split` are read.

    Returns:
        `train`, and `validation` and `test` where the set has them; all of the same types. The place of a sentence is its
        position in the stored split.

    Raises:
        DataError: the set is unknown, not prepared, has no words with tags, or its splits are not as asked for.
    """
    builder = open_builder(name, data.data_dir)
    words_key, tags_key = _feature_keys(builder, name)
    names = builder.info.features[tags_key].feature.names
    tagged: dict[str, list[tuple[int, list[str], list[str]]]] = {}
    skipped: dict[str, SkippedNames] = {}
    for split, spec, _ in split_specs(builder, name, data):
        tagged[split], skipped[split] = [], SkippedNames()
        for stored, start, stop in pieces_of(builder, name, split, spec):
            places = np.arange(start, stop)
            for place, row in zip(
                places,
                rows_of(builder, stored, places, words_key, tags_key) if stop > start else (),
                strict=True,
            ):
                words = [word.decode("utf-8", "replace") for word in row[words_key].tolist()]
                tags = [names[code] if code >= 0 else "" for code in row[tags_key].tolist()]
                if words and len(words) == len(tags) and all(tags):
                    tagged[split].append((int(place), words, tags))
                else:
                    skipped[split].add(f"{stored}:{place:06d}", "without words, or without a tag for each")
    scheme = scheme_of(tags for rows in tagged.values() for _, _, tags in rows)
    documents = {split: tuple(_annotated(*row) for row in rows) for split, rows in tagged.items()}
    types = types_of([each for several in documents.values() for each in several])
    origin = f"TFDS set {builder.info.full_name}"
    return {
        split: Entities(several, types, origin, scheme, skipped[split].warnings())
        for split, several in documents.items()
    }


def _annotated(place: int, words: list[str], tags: list[str]) -> Annotated:
    return from_words(words, spans_of(tags), place)


def _feature_keys(builder: Any, name: str) -> tuple[str, str]:
    """Names of the features with the words and with their tags."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features) if hasattr(builder.info.features, "keys") else {}
    sequences = {
        key: feature.feature
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Sequence) and hasattr(feature, "feature")
    }
    words = [key for key, inner in sequences.items() if isinstance(inner, tfds.features.Text)]
    tags = [
        key
        for key, inner in sequences.items()
        if isinstance(inner, tfds.features.ClassLabel) and inner.names and all(map(is_tag, inner.names))
    ]
    found = [
        next((key for key in preferred if key in keys), keys[0] if len(keys) == 1 else None)
        for preferred, keys in ((_WORDS, words), (_TAGS, tags))
    ]
    if found[0] is None or found[1] is None:
        described = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
        raise DataError(
            f"The TFDS set '{name}' has no entities. Expected a Sequence of Text (words), and a Sequence of ClassLabel whose names "
            f"are tags such as O, B-PER, I-PER; it has {described or builder.info.features}."
        )
    return found[0], found[1]
