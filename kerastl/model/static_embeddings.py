"""Static embeddings of pieces as a backbone: one table, whose rows do not depend on each other (model2vec, potion).

A model2vec folder (https://github.com/MinishLab/model2vec) holds `config.json` and `model.safetensors` with a tensor `embeddings`, in
newer versions also `weights`, one factor a piece, and `mapping`, for pieces that share a row; the first may be in 8 bits. The mean of the
rows of an example's pieces is its vector: here the sequence of rows is the activation and the mean is the head's pooling. model2vec then
divides vectors by their lengths where `normalize` is set; a head that standardises its features has no need of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from kerastl.errors import UserError
from kerastl.model.encoder_config import CONFIG_FILE, read_json
from kerastl.model.encoder_weights import check_fit, read_finite, weights_file, wrong_tensors
from kerastl.model.encoders import LENGTH, PIECES
from kerastl.model.safetensors import TensorEntry, read_header
from kerastl.model.steps import steps_seen

MODEL_TYPE = "model2vec"
TABLE, FACTORS, MAPPING = "embeddings", "weights", "mapping"


@dataclass(frozen=True)
class StaticConfig:
    """All that the graph of static embeddings follows from.

    Attributes:
        vocabulary: Number of pieces that have an embedding.
        width: Of each.
    """

    vocabulary: int
    width: int


def build_static(config: StaticConfig, name: str = "static") -> keras.Model:
    """Static embeddings with random values, under the current dtype policy.

    Args:
        config: Their sizes.
        name: Of the model.

    Returns:
        Functional model of two inputs, in this order: `pieces`, int32 [batch, steps], 0 and above and below
        `config.vocabulary`; `length`, int32 [batch], how many of them are real, from the left -> embeddings [batch, steps,
        width], zeros where a step only fills up.
    """
    pieces = keras.Input((None,), dtype="int32", name=PIECES)
    length = keras.Input((), dtype="int32", name=LENGTH)
    rows = layers.Embedding(config.vocabulary, config.width, name="pieces_embedding")(pieces)
    seen = ops.expand_dims(steps_seen(rows, length), 2)
    return keras.Model([pieces, length], ops.where(seen, rows, 0.0), name=name)


def read_static_config(folder: Path) -> StaticConfig:
    """The sizes of the static embeddings in a model2vec folder.

    Args:
        folder: With `config.json` and `model.safetensors`.

    Raises:
        UserError: It is none; the message says what is expected.
    """
    path = folder / CONFIG_FILE
    kind = read_json(path).get("model_type")
    if kind != MODEL_TYPE:
        raise UserError(f"'{path}': model_type = {kind!r}. Expected {MODEL_TYPE}, for static embeddings.")
    path = weights_file(folder)
    stored = read_header(path)
    shape = stored[TABLE].shape if TABLE in stored else ()
    if len(shape) != 2:
        check_fit(
            path,
            folder.name,
            [f"'{TABLE}' is missing" if not shape else f"'{TABLE}' has shape {shape}, not two sides"],
        )
    return StaticConfig(
        stored[MAPPING].shape[0] if MAPPING in stored and stored[MAPPING].shape else shape[0], shape[1]
    )


def load_static(backbone: keras.Model, config: StaticConfig, folder: Path) -> Path:
    """Give static embeddings the values of a model2vec folder; factors are multiplied in.

    Args:
        backbone: From `build_static`; after an error its values are what they were.
        config: Its sizes.
        folder: With `config.json` and `model.safetensors`.

    Returns:
        Path of the file that was read.

    Raises:
        UserError: Something is absent, damaged or not finite, or does not fit: the message lists every tensor.
    """
    read_static_config(folder)
    path = weights_file(folder)
    stored = read_header(path)
    check_fit(path, backbone.name, _problems(stored, config))
    table = read_finite(stored[TABLE]).astype(np.float32)
    if MAPPING in stored:
        mapping = stored[MAPPING].read()
        outside = (mapping < 0) | (mapping >= len(table))
        check_fit(
            path,
            backbone.name,
            [f"'{MAPPING}' names rows that '{TABLE}' does not have"] * bool(outside.any()),
        )
        table = table[mapping]
    if FACTORS in stored:
        table = table * read_finite(stored[FACTORS]).astype(np.float32)[:, None]
    backbone.get_layer("pieces_embedding").embeddings.assign(table)
    return path


def _problems(stored: Mapping[str, TensorEntry], wanted: StaticConfig) -> list[str]:
    rows = wanted.vocabulary if MAPPING not in stored else stored[TABLE].shape[0]
    shapes: dict[str, tuple[int, ...]] = {TABLE: (rows, wanted.width), FACTORS: (wanted.vocabulary,)}
    problems = wrong_tensors({name: stored[name] for name in shapes if name in stored}, shapes, [TABLE])
    if MAPPING in stored and (
        stored[MAPPING].shape != (wanted.vocabulary,) or "I" not in stored[MAPPING].dtype
    ):
        mapping = stored[MAPPING]
        problems.append(
            f"'{MAPPING}' has shape {mapping.shape} and dtype {mapping.dtype}, not ({wanted.vocabulary},) and I64"
        )
    return problems + [f"'{name}' is not known" for name in stored if name not in (*shapes, MAPPING)]
