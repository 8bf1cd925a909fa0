"""Pooling of sequences leaves out the steps that only fill up, in the whole model and on both sides of a cut."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from encoder_reference import BERT_CONFIG, random_tensors, write_folder
from toy_transformer import network_on, sentences, transformer

from kerastl.model.build import Network, build_model
from kerastl.model.cut import BELOW, cut
from kerastl.model.encoder_config import read_config
from kerastl.model.encoder_weights import load_folder
from kerastl.model.encoders import build_encoder
from kerastl.model.freezing import blocks, thaw
from kerastl.model.head_input import (
    JOIN_POOLINGS,
    STEP_JOIN_POOLINGS,
    STEP_POOLINGS,
    make_pooling,
    pooled_features,
    pooling_choices,
)
from kerastl.recipe.schema import HeadRecipe

LENGTHS = np.array([1, 3, 6, 8], np.int32)
STATES = np.random.default_rng(0).normal(size=(4, 8, 5)).astype(np.float32) - 0.5
ROWS = [states[:count] for states, count in zip(STATES, LENGTHS, strict=True)]
EXPECTED = {
    "avg": np.stack([row.mean(0) for row in ROWS]),
    "max": np.stack([row.max(0) for row in ROWS]),
    "gem": np.stack([(np.maximum(row, 1e-6).astype(float) ** 3).mean(0) ** (1 / 3) for row in ROWS]),
    "first": STATES[:, 0],
}
EXPECTED["avgmax"] = np.concatenate([EXPECTED["avg"], EXPECTED["max"]], axis=1)


def pooled(name: str, states: np.ndarray, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    pooling = make_pooling(name, (None, 5), "float32", with_length=True)
    return np.array(pooling([keras.ops.convert_to_tensor(each) for each in (states, lengths)]))


@pytest.mark.parametrize("name", EXPECTED)
def test_only_real_steps_are_pooled(name: str) -> None:
    np.testing.assert_allclose(pooled(name, STATES), EXPECTED[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("filler", [0.0, 1e30, -1e30])
def test_no_filling_up_changes_what_is_pooled(name: str, filler: float) -> None:
    changed = np.where(np.arange(8)[:, None] < LENGTHS[:, None, None], STATES, filler).astype(np.float32)
    longer = np.pad(changed, [(0, 0), (0, 5), (0, 0)], constant_values=filler)
    np.testing.assert_array_equal(pooled(name, changed), pooled(name, STATES))
    np.testing.assert_allclose(pooled(name, longer), pooled(name, STATES), rtol=1e-6, atol=1e-7)
    if name != "first" and filler >= 0:
        without = np.array(make_pooling(name, (None, 5), "float32")(longer))
        assert np.abs(without - EXPECTED[name])[:3].max() > 1e-2, "the control: without a length it does"


def test_an_example_of_no_steps_is_pooled_to_numbers() -> None:
    for name in ("avg", "max", "avgmax"):
        assert (pooled(name, STATES, np.zeros(4, np.int32)) == 0).all()


def test_sixteen_bits_are_pooled_in_32() -> None:
    coarse = keras.ops.cast(STATES, "bfloat16")
    exact = np.array(keras.ops.cast(coarse, "float32"))
    found = make_pooling("avg", (None, 5), "bfloat16", with_length=True)(
        [coarse, keras.ops.convert_to_tensor(LENGTHS)]
    )
    rows = [states[:count].mean(0) for states, count in zip(exact, LENGTHS, strict=True)]
    np.testing.assert_allclose(found, np.stack(rows), rtol=1e-6, atol=1e-7)


def test_an_unknown_pooling_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'median'"):
        make_pooling("median", (None, 5), "float32", with_length=True)
    with pytest.raises(ValueError, match="unknown pooling 'first'"):
        make_pooling("first", (3, 4, 5), "float32")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> keras.Model:
    folder = write_folder(tmp_path_factory.mktemp("bert"), BERT_CONFIG, random_tensors(BERT_CONFIG))
    config = read_config(folder)
    found = build_encoder(config, "encoder")
    load_folder(found, config, folder)
    return found


def network_of(encoder: keras.Model, masked: bool = True, **head: Any) -> Network:
    """The encoder with a head that answers something other than zero."""
    plain = network_on(encoder)
    spec = dataclasses.replace(plain.spec, length="length" if masked else None, feature_channels=12)
    network = build_model(encoder, spec, HeadRecipe(**head), 3)
    kernel = network.logits.kernel
    kernel.assign(np.random.default_rng(3).normal(size=kernel.shape))
    return network


def examples(steps: int = 8) -> dict[str, Any]:
    pieces = np.random.default_rng(1).integers(1, 40, (4, 8))
    pieces = np.pad(pieces * (np.arange(8) < LENGTHS[:, None]), [(0, 0), (0, steps - 8)])
    arrays = {"pieces": pieces.astype(np.int32), "length": LENGTHS}
    return {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem", "first"])
def test_logits_do_not_depend_on_filling_up(encoder: keras.Model, pooling: str) -> None:
    network = network_of(encoder, pooling=pooling)
    logits = np.array(network.model(examples(), training=False))
    np.testing.assert_allclose(network.model(examples(13), training=False), logits, rtol=1e-4, atol=1e-5)
    if pooling != "first":
        others = network_of(encoder, masked=False, pooling=pooling).model
        assert np.abs(np.array(others(examples(13))) - np.array(others(examples()))).max() > 1e-2, (
            "the control"
        )


@pytest.mark.parametrize("head", [
    {"pooling": "avg"}, {"pooling": "avgmax"}, {"pooling": "first"}, {"pooling": "gem"},
    {"pooling": "avgmax", "features": "joins"}, {"pooling": "first", "features": "joins"}, {"pooling": "avg", "features": "embeddings,layer_2"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("point", ["backbone", "layer_2", "layer_1", "embeddings", "input"])
def test_prefix_and_suffix_pool_as_the_whole(encoder: keras.Model, head: dict[str, Any], point: str) -> None:
    network, inputs = network_of(encoder, **head), examples()
    whole = np.array(network.model(inputs, training=False))
    parts = cut(network, point)
    assert parts.carried == (("pieces", "length") if point == "input" else ("length",))
    given = parts.prefix(*parts.outputs)(inputs, training=False)
    entry = {"activation": given["activation"]} if point != "input" else {}
    entry |= {name: inputs[name] for name in parts.carried}
    kept = network.reads.within(parts.under)
    if kept.names:
        channels = {name: width for name, width in network.reads.channels.items() if name in parts.under}
        below = dataclasses.replace(kept, channels=channels)
        entry[BELOW] = keras.ops.convert_to_tensor(below.of(np.array(given["under"])))
    np.testing.assert_array_equal(parts.suffix(entry, training=False), whole)
    stored = np.array(given["pooled" if network.reads.channels is None else "joins"])
    np.testing.assert_array_equal(network.head(network.reads.of(stored), training=False), whole)


@pytest.mark.parametrize("features", ["last", "joins"])
def test_the_first_step_is_read_without_a_length(features: str) -> None:
    plain = network_on(transformer(mask="computed"))
    spec = dataclasses.replace(plain.spec, stepped=True)
    network = build_model(plain.backbone, spec, HeadRecipe(pooling="first", features=features), 3)
    network.logits.kernel.assign(np.random.default_rng(3).normal(size=network.logits.kernel.shape))
    inputs, kind = sentences(plain.backbone)["token_ids"], "pooled" if features == "last" else "joins"
    whole = network.model(inputs, training=False)
    stored = np.array(cut(network, "block_1").prefix(kind)(inputs, training=False)[kind])
    np.testing.assert_array_equal(network.head(network.reads.of(stored), training=False), whole)
    assert stored.shape[1] == len(STEP_POOLINGS if features == "last" else STEP_JOIN_POOLINGS)
    assert pooling_choices(spec)[-1] == "first"
    assert pooling_choices(plain.spec) == ("avg", "avgmax"), "the control"
    assert cut(plain, "block_1").prefix("joins")(inputs)["joins"].shape[1] == len(JOIN_POOLINGS)


def test_what_is_stored_of_sequences_serves_a_head_of_any_pooling(encoder: keras.Model) -> None:
    stored = np.array(cut(network_of(encoder), "layer_1").prefix("pooled")(examples())["pooled"])
    assert stored.shape == (4, len(STEP_POOLINGS), 12) and stored.dtype == np.float32
    for pooling in ("avg", "max", "avgmax", "gem", "first"):
        network = network_of(encoder, pooling=pooling)
        logits = network.head(pooled_features(stored, pooling), training=False)
        np.testing.assert_array_equal(logits, network.model(examples(), training=False))


def test_training_the_suffix_trains_the_whole(encoder: keras.Model) -> None:
    network = network_of(keras.models.clone_model(encoder), pooling="avg")
    parts, inputs = cut(network, "layer_1"), examples()
    entry = parts.prefix("activation")(inputs, training=False) | {"length": inputs["length"]}
    before = np.array(network.model(inputs, training=False))
    parts.suffix.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts.suffix.fit(
        {name: np.array(each) for name, each in entry.items()}, np.array([0, 1, 2, 0]), epochs=2, verbose=0
    )
    after = np.array(network.model(inputs, training=False))
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, parts.suffix(entry, training=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("point", ["backbone", "layer_2", "embeddings", "input"])
def test_what_lies_above_the_point_trains_in_blocks_of_layers(encoder: keras.Model, point: str) -> None:
    network = network_of(keras.models.clone_model(encoder), pooling="avg")
    thaw(network, point)
    above = {"backbone": (), "layer_2": ("layer_3",), "embeddings": ("layer_3", "layer_2", "layer_1")}
    names = above.get(point, (*above["embeddings"], "embeddings"))
    wanted = {id(each) for name in names for each in network.backbone.get_layer(name).weights}
    trained = {id(each) for each in network.backbone.trainable_weights}
    assert trained == wanted
    parts = blocks(network, point)
    assert [len(block.variables) for block in parts[1:]] == [
        len(network.backbone.get_layer(name).weights) for name in names
    ]


def test_a_whole_model_needs_keras_alone(encoder: keras.Model, tmp_path: Path) -> None:
    network = network_of(encoder, pooling="avgmax", features="joins")
    cut(network, "layer_1")
    network.model.save(tmp_path / "model.keras")
    inputs = {name: np.array(each) for name, each in examples().items()}
    np.savez(tmp_path / "inputs.npz", **inputs)
    program = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras')\n"
        "np.save('logits.npy', model(dict(np.load('inputs.npz')), training=False))\n"
        "assert not any(name.startswith('kerastl') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), network.model(examples(), training=False))
