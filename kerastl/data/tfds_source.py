"""Classification sets of TensorFlow Datasets that are prepared on this machine; never downloads.

What TFDS stores can only be read from front to back. Indexing therefore reads a split once for its
labels, and for which examples are equal (without decoding one), and every later reading passes over the
examples that are not wanted: it costs the bytes between the first and the last wanted one, not those of
the wanted ones alone.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.duplicates import copies_of, digest_of
from kerastl.data.examples import (
    SPLIT_NAMES,
    TRAIN,
    Examples,
    fingerprint,
    listed,
    no_stamps,
    repeated,
    text_column,
)
from kerastl.data.kinds import IMAGE, TEXT, Kind
from kerastl.data.skipped import SkippedNames
from kerastl.data.tfds_listing import INFO_FILE, prepared_datasets, tfds_folder
from kerastl.data.tfds_reading import Part, raw_reader, rows_of
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import DataRecipe


def open_tfds(name: str, data: DataRecipe, kind: Kind | None = None) -> Examples:
    """Index a prepared TFDS set by its name.

    Without keys of the recipe that say otherwise, 'train' is trained on; 'validation' and 'test' are
    used where the set has them with labels (some publish their test examples with -1 in their place).

    Args:
        name: `NAME`, `NAME/config`, `NAME:version` or `NAME/config:version`.
        data: `data_dir`, `train_split`, `validation_split` and `test_split` are read; a split is written
            as TFDS writes it, such as `train[:80%]`; `text_column`, where texts have several features.
        kind: of the examples; images where the set has some, else texts, without it.

    Returns:
        Examples with ids such as `train:000123`: the position within TFDS' own split, whatever part of
        it is used. The image as stored is its encoded form (TFDS stores PNG or JPEG always), a text its UTF-8.

    Raises:
        DataError: if the set is unknown, not prepared, not for classification of images or texts, or its splits
            are not as asked for.
    """
    builder = open_builder(name, data.data_dir)
    kind, key, label_key = _feature_keys(builder, name, data, kind)
    parts, splits = list[Part](), list[np.ndarray]()
    labels, digests = list[np.ndarray](), list[np.ndarray]()
    skipped = SkippedNames()
    for split, spec, is_default in split_specs(builder, name, data):
        keys = key, label_key
        found = [_labelled(builder, keys, *piece) for piece in pieces_of(builder, name, split, spec)]
        if not sum(len(part.stored) for part, _, _ in found):
            if not is_default or split == TRAIN:
                raise DataError(
                    f"The {split} split '{spec}' of 'tfds:{name}' holds no labels (TFDS marks {kind.noun}s without a label "
                    f"with -1). Choose another data.{split}_split, or leave it out to have it carved from train."
                )
            skipped.add(f"split '{spec}'", f"its {kind.noun}s have no labels")
            continue
        for part, part_labels, part_digests in found:
            if len(part.stored) < part.stop - part.start:
                left_out = part.stop - part.start - len(part.stored)
                skipped.add(f"split '{part.split}'", f"{left_out:,} {kind.noun}s without a label")
            parts.append(part)
            labels.append(part_labels)
            digests.append(part_digests)
            splits.append(repeated(split, len(part_labels)))
    ids = text_column([f"{part.split}:{index:06d}" for part in parts for index in part.stored])
    _check_disjoint(ids, np.concatenate(splits), name, kind)
    examples = _columns(builder, parts, ids, labels, np.concatenate(splits), (kind, key, label_key), skipped)
    return replace(examples, contents=copies_of(np.concatenate(digests)))


def open_builder(name: str, data_dir: str | None) -> Any:
    """The read-only side of a prepared set.

    Raises:
        DataError: it is unknown, or not prepared.
    """
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(data_dir) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=folder, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = [
            *tfds.list_builders(with_community_datasets=False),
            *(prepared for prepared, _ in prepared_datasets(data_dir)),
        ]
        raise DataError(
            f"Unknown TFDS set '{name}'.{nearest(name.partition('/')[0].partition(':')[0], known)} Expected a name from "
            f"`kerastl datasets`, or a set prepared in '{tfds_folder(data_dir)}'."
        ) from error
    except (ValueError, AssertionError, OSError) as error:
        # TFDS answers an unknown config, version or data folder with a page of text.
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"TFDS cannot open '{name}': {reason} Expected NAME, NAME/config or NAME/config:version."
        ) from error
    if not (Path(builder.data_path) / INFO_FILE).is_file():
        where = f", data_dir={data_dir!r}" if data_dir else ""
        raise DataError(
            f"The TFDS set '{name}' is not prepared in '{builder.data_path}', and kerastl downloads nothing by itself. "
            "To get it, on a machine with a network:\n"
            f"  python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'{where}).download_and_prepare()\"\n"
            "If it lies elsewhere, set data.data_dir (--data-dir) or TFDS_DATA_DIR to the folder that holds "
            f"'{builder.name}/'."
        )
    return builder


def _feature_keys(builder: Any, name: str, data: DataRecipe, kind: Kind | None) -> tuple[Kind, str, str]:
    """The kind of the set's examples, and the names of their feature and of the class label."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features) if hasattr(builder.info.features, "keys") else {}
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]
    label = _chosen(labels, (*supervised, "label"))
    for each in (IMAGE, TEXT) if kind is None else (kind,):
        # Exactly this class: subclasses of Image are masks and labelled images, which are answers, not questions.
        found = [key for key in features if type(features[key]) is getattr(tfds.features, each.feature)]
        if each is IMAGE:
            found = [key for key in found if np.dtype(features[key].np_dtype) in (np.uint8, np.uint16)]
        asked = [data.text_column] * (each is TEXT and data.text_column != DataRecipe().text_column)
        chosen = _chosen(found, (*asked, *supervised, each.noun))
        if label is not None and chosen is not None and (not asked or chosen in asked):
            return each, chosen, label
    nouns = f"{IMAGE.noun} or {TEXT.noun}" if kind is None else kind.noun
    wanted = f"{IMAGE.feature} or {TEXT.feature}" if kind is None else kind.feature
    several = " Of several texts data.text_column names one." if kind is not IMAGE else ""
    described = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise DataError(
        f"The TFDS set '{name}' is not one for {nouns} classification. Expected one {wanted} feature and a ClassLabel among its "
        f"features; it has {described or builder.info.features}.{several}"
    )


def _chosen(keys: list[str], preferred: Sequence[str]) -> str | None:
    """The first of the preferred keys that there is, or the only key."""
    return next((key for key in preferred if key in keys), keys[0] if len(keys) == 1 else None)


def split_specs(builder: Any, name: str, data: DataRecipe) -> Iterator[tuple[str, str, bool]]:
    """(our split, TFDS' words for it, whether it is only the default), for those there are.

    Raises:
        DataError: there is nothing to train on.
    """
    present = list(builder.info.splits)
    asked = {split: getattr(data, f"{split}_split") for split in SPLIT_NAMES}
    # Whoever tests on 'validation', or trains on 'train+validation', does not mean to validate on it too.
    taken = {piece.partition("[")[0].strip() for spec in asked.values() if spec for piece in spec.split("+")}
    for split in SPLIT_NAMES:
        if asked[split] is not None or (split in present and (split == TRAIN or split not in taken)):
            yield split, asked[split] or split, asked[split] is None
        elif split == TRAIN:
            raise DataError(
                f"The TFDS set '{name}' has no split 'train'. Set data.train_split to one of {listed(present, 20)}."
            )


def pieces_of(builder: Any, name: str, split: str, spec: str) -> list[tuple[str, int, int]]:
    """The stretches of stored splits that a split in TFDS' words means: (stored split, start, stop).

    Raises:
        DataError: TFDS does not understand it.
    """
    import tensorflow_datasets as tfds

    stored = builder.info.splits
    try:
        instructions = tfds.core.ReadInstruction.from_spec(spec).to_absolute(stored)
    except (ValueError, KeyError, AssertionError) as error:
        base = spec.partition("[")[0]
        hint = "" if base in stored else nearest(base, stored)
        raise DataError(
            f"data.{split}_split = '{spec}' is no split of 'tfds:{name}'.{hint} Expected one of {listed(list(stored), 20)}, "
            "or a part of one such as train[:80%]."
        ) from error
    return [
        (
            piece.splitname,
            piece.from_ or 0,
            stored[piece.splitname].num_examples if piece.to is None else piece.to,
        )
        for piece in instructions
    ]


def _labelled(
    builder: Any, keys: tuple[str, str], split: str, start: int, stop: int
) -> tuple[Part, np.ndarray, np.ndarray]:
    """A stretch of a stored split, and of those in it that have a label int32 labels and digests of the examples."""
    if stop <= start:
        return Part(split, start, start, np.zeros(0, np.int64)), np.zeros(0, np.int32), np.zeros(0, np.int64)
    key, label_key = keys
    labels, digests = array("i"), array("q")
    # Every byte of a split is read for its labels anyway: a record is all that can be read at once.
    for row in rows_of(builder, split, np.arange(start, stop), key, label_key):
        labels.append(int(row[label_key]))
        digests.append(digest_of(row[key]))
    codes = np.frombuffer(labels, dtype=np.intc).astype(np.int32)
    has_label = codes >= 0
    part = Part(split, start, stop, start + np.flatnonzero(has_label))
    return part, codes[has_label], np.frombuffer(digests, dtype=np.int64)[has_label]


def _state(builder: Any) -> str:
    """Changes when a set is prepared anew, which may be under the same version: all files with their size and time."""
    states = []
    for file in sorted(Path(builder.data_path).iterdir()):
        state = file.stat()
        states.append(f"{file.name} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]


def _check_disjoint(ids: np.ndarray, splits: np.ndarray, name: str, kind: Kind) -> None:
    if len(set(ids)) == len(ids):
        return
    first: dict[str, str] = {}
    for identity, split in zip(ids, splits, strict=True):
        if identity in first:
            keys = sorted({f"data.{first[identity]}_split", f"data.{split}_split"})
            raise DataError(
                f"{' and '.join(keys)} of 'tfds:{name}' name the {kind.noun} '{identity}' twice, and perhaps more. "
                "Expected parts that do not overlap, such as train[:80%] and train[80%:]."
            )
        first[identity] = split


def _columns(
    builder: Any,
    parts: list[Part],
    ids: np.ndarray,
    part_labels: list[np.ndarray],
    splits: np.ndarray,
    keys: tuple[Kind, str, str],
    skipped: SkippedNames,
) -> Examples:
    kind, key, label_key = keys
    all_names = builder.info.features[label_key].names
    codes = np.concatenate(part_labels)
    present = np.unique(codes)
    names = tuple(all_names[code] for code in present)
    if len(present) < len(all_names):
        skipped.add(
            f"{len(all_names) - len(present):,} of {len(all_names):,} class names", f"no {kind.noun} has them"
        )
    labels = np.searchsorted(present, codes).astype(np.int32)
    state = _state(builder)
    return Examples(
        ids=ids,
        labels=labels,
        class_names=names,
        groups=repeated("", len(ids)),
        splits=splits,
        raw=raw_reader(builder, key, parts),
        noun=kind.noun,
        origin=f"TFDS set {builder.info.full_name}",
        place=f"tfds:{builder.info.full_name} in {builder.data_dir}, files {state}",
        stamps=no_stamps(len(ids)),
        fingerprint=fingerprint((ids, splits), (labels,), builder.info.full_name, state, *names),
        skipped=skipped.lines(),
        warnings=skipped.lines(),
    )
