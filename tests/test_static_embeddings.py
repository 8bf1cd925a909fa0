"""Static embeddings: the mean of the rows of an example's pieces is its vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from encoder_reference import Tensors, write_folder

from kerastl.errors import UserError, WeightsError
from kerastl.model.head_input import make_pooling
from kerastl.model.static_embeddings import StaticConfig, build_static, load_static, read_static_config

CONFIG: dict[str, Any] = {
    "model_type": "model2vec",
    "hidden_dim": 6,
    "normalize": True,
    "seq_length": 1000000,
}
TABLE = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
FACTORS = np.random.default_rng(1).uniform(0.1, 2, 20).astype(np.float64)
PIECES = np.array([[3, 4, 4, 0], [19, 0, 0, 0], [0, 0, 0, 0]], np.int32)
LENGTHS = np.array([3, 1, 0], np.int32)


def vectors(folder: Path) -> np.ndarray:
    config = read_static_config(folder)
    backbone = build_static(config)
    load_static(backbone, config, folder)
    pieces, lengths = keras.ops.convert_to_tensor(PIECES), keras.ops.convert_to_tensor(LENGTHS)
    rows = backbone([pieces, lengths], training=False)
    assert (np.array(rows)[np.arange(4) >= LENGTHS[:, None]] == 0).all()
    return np.array(make_pooling("avg", (None, config.width), "float32", with_length=True)([rows, lengths]))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_mean_of_real_pieces_is_the_vector(dtype: Any, tmp_path: Path) -> None:
    table = TABLE.astype(dtype)
    found = vectors(write_folder(tmp_path, CONFIG, {"embeddings": table}))
    wide = table.astype(np.float64)
    np.testing.assert_allclose(found[0], wide[[3, 4, 4]].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1], wide[19], rtol=1e-6)
    assert (found[2] == 0).all(), "an example without a piece"


def test_factors_and_shared_rows_are_multiplied_in(tmp_path: Path) -> None:
    mapping = np.arange(20) // 2
    stored: Tensors = {"embeddings": TABLE[:10], "weights": FACTORS, "mapping": mapping}
    found = vectors(write_folder(tmp_path, CONFIG, stored))
    rows = TABLE[:10][mapping].astype(float) * FACTORS[:, None]
    np.testing.assert_allclose(found[0], rows[[3, 4, 4]].mean(0), rtol=1e-6)
    assert np.abs(found[0] - TABLE[[3, 4, 4]].mean(0)).max() > 1e-2


def test_a_table_in_8_bits_is_multiplied_by_its_factors(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).integers(-127, 128, (20, 6)).astype(np.int8)
    found = vectors(write_folder(tmp_path, CONFIG, {"embeddings": rows, "weights": FACTORS}))
    np.testing.assert_allclose(found[1], rows[19] * FACTORS[19], rtol=1e-6)


def test_saved_embeddings_are_loaded_by_keras(tmp_path: Path) -> None:
    backbone = build_static(StaticConfig(20, 6))
    backbone.save(tmp_path / "static.keras")
    inputs = [keras.ops.convert_to_tensor(each) for each in (PIECES, LENGTHS)]
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "static.keras")(inputs), backbone(inputs)
    )


BAD: dict[str, tuple[dict[str, Any], Tensors, list[str]]] = {
    "another network": (CONFIG | {"model_type": "bert"}, {"embeddings": TABLE}, ["model_type = 'bert'", "Expected model2vec"]),
    "no table": (CONFIG, {"weights": FACTORS}, ["'embeddings' is missing"]),
    "a vector": (CONFIG, {"embeddings": TABLE[0]}, ["'embeddings' has shape (6,)"]),
    "another width": (CONFIG, {"embeddings": TABLE[:, :5]}, ["'embeddings' has shape (20, 5), not (20, 6)"]),
    "several problems": (
        CONFIG,
        {"embeddings": TABLE[:19], "weights": FACTORS[:3], "more": FACTORS},
        ["in 3 tensors", "'embeddings' has shape (19, 6)", "'weights' has shape (3,), not (20,)", "'more' is not known"],
    ),
    "rows that are not there": (CONFIG, {"embeddings": TABLE[:5], "mapping": np.arange(20)}, ["'mapping' names rows"]),
    "not finite": (CONFIG, {"embeddings": TABLE * np.inf}, ["not finite"]),
    "whole numbers": (CONFIG, {"embeddings": TABLE.astype(np.int64)}, ["has dtype I64"]),
    "factors in 8 bits": (CONFIG, {"embeddings": TABLE, "weights": FACTORS.astype(np.int8)}, ["'weights' has dtype I8"]),
}  # fmt: skip


@pytest.mark.parametrize(("config", "stored", "fragments"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_whole(
    config: dict[str, Any], stored: Tensors, fragments: list[str], tmp_path: Path
) -> None:
    backbone = build_static(StaticConfig(20, 6))
    before = backbone.get_weights()[0]
    with pytest.raises(UserError) as caught:
        load_static(backbone, StaticConfig(20, 6), write_folder(tmp_path, config, stored))
    for fragment in [str(tmp_path), *fragments]:
        assert fragment in str(caught.value)
    np.testing.assert_array_equal(backbone.get_weights()[0], before)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, {})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"There is no .*model\.safetensors"):
        read_static_config(tmp_path)
