"""Networks of one's own for texts: any functional Keras model of pieces and their number in a `.keras` file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from test_text_fit import reviews, vocabulary

import kerastl
from kerastl.backbones import get_backbone
from kerastl.errors import DataError, UserError
from kerastl.modality.text import Text
from kerastl.modality.text.vocabulary import Vocabulary
from kerastl.model.build import build_backbone
from kerastl.model.encoder_config import EncoderConfig
from kerastl.model.encoders import build_encoder

PIECES, POSITIONS, WIDTH = 40, 24, 16


def encoder() -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_encoder(EncoderConfig("bert", PIECES, POSITIONS, WIDTH, 2, 2, 24, WIDTH))


def inputs_of(steps: int | None = None) -> list[Any]:
    return [
        keras.Input((steps,), dtype="int32", name="pieces"),
        keras.Input((), dtype="int32", name="length"),
    ]


def classifier() -> keras.Model:
    """As it may have been trained before: the encoder as one layer, pooling, classifier."""
    given = inputs_of()
    states = encoder()(given)
    return keras.Model(given, layers.Dense(5)(layers.GlobalAveragePooling1D()(states)))


def convolutions(steps: int | None = None) -> keras.Model:
    """Nothing in it looks at the length."""
    keras.utils.set_random_seed(1)
    given = inputs_of(steps)
    x = layers.Embedding(PIECES, WIDTH, name="table")(given[0])
    for number in (1, 2):
        y = layers.Conv1D(WIDTH, 3, padding="same", activation="relu", name=f"block{number}_conv")(x)
        x = layers.Add(name=f"block{number}_out")([x, y])
    return keras.Model(given, x)


def saved(model: keras.Model, folder: Path) -> str:
    path = folder / "my_encoder.keras"
    model.save(path)
    return str(path)


def examples(steps: int) -> dict[str, np.ndarray]:
    pieces = np.random.default_rng(0).integers(0, PIECES, (3, steps))
    return {"pieces": pieces.astype(np.int32), "length": np.array([1, steps // 2, steps], np.int32)}


MADE = {
    "encoder": (encoder, ("backbone", "layer_1", "embeddings", "input")),
    "classifier": (classifier, ("backbone", "layer_1", "embeddings", "input")),
    "convolutions": (convolutions, ("backbone", "block1_out", "table", "input")),
}


@pytest.mark.parametrize("kind", MADE)
def test_pieces_and_length_are_taken_and_the_layers_are_its_cut_points(kind: str, tmp_path: Path) -> None:
    make, points = MADE[kind]
    spec = get_backbone(saved(make(), tmp_path))
    assert (spec.modality, spec.length, spec.feature_channels) == ("text", "length", WIDTH)
    assert spec.unfreeze_points == points
    backbone = build_backbone(spec, Text(None, max_pieces=POSITIONS).spec)
    expected = encoder() if kind == "classifier" else make()
    for steps in (4, 9):
        np.testing.assert_array_equal(backbone(examples(steps)), expected(examples(steps)))


def test_a_network_of_ones_own_is_trained_on_texts_and_not_needed_after(tmp_path: Path) -> None:
    path, table = Path(saved(classifier(), tmp_path)), tmp_path / "reviews.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*reviews(160), strict=True)])
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary(PIECES)) + "\n", encoding="utf-8")
    made = kerastl.fit(
        str(path), str(table), runs_dir=tmp_path / "runs", max_pieces=POSITIONS, unfreeze_from="layer_1", seed=1,
        finetune_epochs=1, **{"data.lowercase": True},
    )  # fmt: skip
    path.unlink()
    (tmp_path / "vocab.txt").unlink()
    assert made.recipe.modality == "text" and (made.run / "vocab.txt").is_file()
    assert made.report.metrics.accuracy > 0.8
    again = kerastl.load(made.run)
    assert [
        each.label for each in again.predict(["the film was good lovely good", "the film was bad awful bad"])
    ] == ["pos", "neg"]


def test_a_network_that_is_handed_over_is_one_as_well(tmp_path: Path) -> None:
    lines = tmp_path / "vocab.txt"
    lines.write_text("\n".join(vocabulary(PIECES)) + "\n", encoding="utf-8")
    keys: dict[str, Any] = {"data.vocabulary": str(lines), "data.lowercase": False, "max_pieces": POSITIONS}
    net = kerastl.build(encoder(), kerastl.from_texts(*reviews(40)), **keys)
    assert net.unfreeze_points == MADE["encoder"][1]
    assert net.recipe.modality == "text" and net.recipe.data.lowercase is False


REFUSED = {
    "a fixed number of steps": (
        lambda: convolutions(8),
        "as one of texts, it takes 8 steps and no other number",
    ),
    "vectors alone": (
        lambda: keras.Model(
            given := inputs_of(), layers.Dense(2)(keras.ops.cast(given[1][:, None], "float32"))
        ),
        r"no activation \[batch, steps, channels\] that every path passes",
    ),
    "three inputs": (
        lambda: keras.Model([*inputs_of(), other := keras.Input((3,))], layers.Dense(2)(other)),
        r"as one of images, it has 3 inputs.*as one of texts, its inputs have the shapes",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_network_of_texts_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(UserError, match=message):
        get_backbone(saved(make(), tmp_path))


def test_more_steps_than_it_takes_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    spec = get_backbone(saved(encoder(), tmp_path))
    build_backbone(spec, Text(None, max_pieces=POSITIONS).spec)
    with pytest.raises(UserError, match=rf"cannot compute {POSITIONS + 1} steps: .*Set data\.max_pieces"):
        build_backbone(spec, Text(None, max_pieces=POSITIONS + 1).spec)


def test_it_needs_texts_and_a_vocabulary(tmp_path: Path, solid_colours: Path) -> None:
    path = saved(encoder(), tmp_path)
    with pytest.raises(DataError, match=r"are images, and the backbone .* takes texts"):
        kerastl.fit(path, str(solid_colours))
    with pytest.raises(
        UserError,
        match=r"There is no vocab\.txt and no tokenizer\.json in .* name another with data\.vocabulary",
    ):
        kerastl.fit(path, kerastl.from_texts(*reviews(40)))
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary(PIECES)) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"may be cased or uncased.*Set data\.lowercase"):
        kerastl.fit(path, kerastl.from_texts(*reviews(40)))


def test_a_vocabulary_with_more_pieces_than_its_table_is_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    spec = get_backbone(saved(encoder(), tmp_path))
    known = Vocabulary(tuple(vocabulary(PIECES)))
    build_backbone(spec, Text(known, max_pieces=POSITIONS).spec)
    more = Vocabulary((*known.pieces, "another"))
    with pytest.raises(UserError, match=f"does not take all of the {PIECES + 1} pieces of the vocabulary"):
        build_backbone(spec, Text(more, max_pieces=POSITIONS).spec)
