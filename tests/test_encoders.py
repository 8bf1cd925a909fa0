"""Encoders of Keras' own layers: equal to a reference in float64, cut without a difference, loaded whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from encoder_reference import (
    BERT_CONFIG,
    CONFIGS,
    DISTILBERT_CONFIG,
    ELECTRA_CONFIG,
    Tensors,
    encode,
    random_tensors,
    safetensors_bytes,
    write_folder,
)

from kerastl.errors import UserError, WeightsError
from kerastl.model.cut import split_backbone
from kerastl.model.encoder_config import encoder_config, read_config
from kerastl.model.encoder_weights import load_folder
from kerastl.model.encoders import build_encoder
from kerastl.model.graph import cut_points, trained_parameters, unfreeze_points
from kerastl.model.safetensors import read_header

LENGTHS = np.array([1, 4, 9, 12], np.int32)
STEPS = 12


def batch_of(
    vocabulary: int, lengths: np.ndarray = LENGTHS, steps: int = STEPS, seed: int = 1, low: int = 1
) -> list[Any]:
    """Random pieces with zeros where they only fill up, and the lengths."""
    pieces = np.random.default_rng(seed).integers(low, vocabulary, (len(lengths), steps))
    return tensors([(pieces * (np.arange(steps) < lengths[:, None])).astype(np.int32), lengths])


def tensors(arrays: list[np.ndarray]) -> list[Any]:
    return [keras.ops.convert_to_tensor(each) for each in arrays]


def loaded(folder: Path) -> keras.Model:
    config = read_config(folder)
    encoder = build_encoder(config)
    load_folder(encoder, config, folder)
    return encoder


def furthest(states: Any, pieces: Any, lengths: Any, config: dict[str, Any], stored: Tensors) -> float:
    """The largest difference of any real step from the reference."""
    rows = zip(np.array(states), np.array(pieces), np.array(lengths), strict=True)
    return max(
        np.abs(row[:count] - encode(config, stored, own[:count])[-1]).max() for row, own, count in rows
    )


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (BERT_CONFIG, ""),
    "bert with a head": (BERT_CONFIG, "bert."),
    "distilbert": (DISTILBERT_CONFIG, "distilbert."),
    "electra": (ELECTRA_CONFIG, "electra."),
    "electra of one width": ({**ELECTRA_CONFIG, "embedding_size": 12}, ""),
    "tanh": (BERT_CONFIG | {"hidden_act": "gelu_new"}, ""),
    "relu": (DISTILBERT_CONFIG | {"activation": "relu"}, ""),
    "epsilon": (BERT_CONFIG | {"layer_norm_eps": 0.1}, ""),
}


@pytest.mark.parametrize(("config", "prefix"), VARIANTS.values(), ids=VARIANTS)
def test_an_encoder_is_the_reference(config: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    stored = random_tensors(config)
    heads = {"cls.predictions.bias": np.zeros(3, np.float32), "embeddings.position_ids": np.arange(16)}
    named = {prefix + name: array for name, array in stored.items()}
    encoder = loaded(write_folder(tmp_path, config, named | heads))
    pieces, lengths = batch_of(config["vocab_size"])
    states = encoder([pieces, lengths], training=False)
    assert furthest(states, pieces, lengths, config, stored) < 1e-5
    other = config | {"layer_norm_eps": 1e-3 if config.get("layer_norm_eps", 0) < 0.01 else 1e-12}
    assert furthest(states, pieces, lengths, other, stored) > 1e-4, "the control: an epsilon tells them apart"


def test_exact_and_approximate_activations_differ(tmp_path: Path) -> None:
    stored = random_tensors(BERT_CONFIG)
    pieces, lengths = batch_of(40)
    exact = loaded(write_folder(tmp_path, BERT_CONFIG, stored))([pieces, lengths])
    assert furthest(exact, pieces, lengths, BERT_CONFIG | {"hidden_act": "gelu_new"}, stored) > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_of_16_and_32_bits_with_old_names(dtype: str, tmp_path: Path) -> None:
    exact = random_tensors(BERT_CONFIG)
    if dtype == "bfloat16":
        written = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in exact.items()}
        stored = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in written.items()}
    else:
        written = {name: array.astype(dtype) for name, array in exact.items()}
        stored = {name: array.astype(np.float32) for name, array in written.items()}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in written.items()
    }
    assert any(name.endswith("gamma") for name in old)
    encoder = loaded(write_folder(tmp_path, BERT_CONFIG, old))
    pieces, lengths = batch_of(40)
    assert furthest(encoder([pieces, lengths]), pieces, lengths, BERT_CONFIG, stored) < 1e-5


def cuts_are_exact(encoder: keras.Model, pieces: Any, lengths: Any) -> None:
    whole = np.array(encoder([pieces, lengths], training=False))
    count = len(encoder.layers) - len([each for each in encoder.layers if not each.weights]) - 1
    names = [f"layer_{number}" for number in range(1, count + 1)]
    assert list(cut_points(encoder)) == ["embeddings", *names]
    points = unfreeze_points(encoder)
    assert points == ("backbone", *reversed(names[:-1]), "embeddings", "input")
    trained = trained_parameters(encoder, points)
    assert trained[0] == 0 and trained[-1] == encoder.count_params() and list(trained) == sorted(set(trained))
    for point in points[1:-1]:
        halves = split_backbone(encoder, point)
        assert halves.carried == ("length",), "the pieces are not read above a cut"
        entry = halves.below([pieces, lengths], training=False)[point]
        above = halves.above([entry, lengths], training=False)["backbone"]
        np.testing.assert_array_equal(above, whole)
        nothing = halves.above([keras.ops.zeros_like(entry), lengths], training=False)["backbone"]
        assert np.abs(np.array(nothing) - whole).max() > 1e-2
        below = {id(weight) for weight in halves.below.weights}
        others = {id(weight) for weight in halves.above.weights}
        assert not below & others and below | others == {id(weight) for weight in encoder.weights}


def padding_changes_nothing(encoder: keras.Model, pieces: Any, lengths: Any, tolerance: float) -> None:
    whole = np.array(encoder([pieces, lengths], training=False))
    real = np.arange(pieces.shape[1]) < np.array(lengths)[:, None]
    for filler in (0, 7):
        wider = keras.ops.pad(pieces, [[0, 0], [0, 4]], constant_values=filler)
        states = np.array(encoder([wider, lengths], training=False))[:, : pieces.shape[1]]
        assert np.abs(states - whole)[real].max() <= tolerance
    longer = np.array(encoder([pieces, keras.ops.full_like(lengths, pieces.shape[1])], training=False))
    assert np.abs(longer - whole)[real].max() > 1e-2, "the control: without the mask padding matters"


@pytest.mark.parametrize("kind", CONFIGS)
def test_cuts_are_exact_and_padding_changes_nothing(kind: str, tmp_path: Path) -> None:
    encoder = loaded(write_folder(tmp_path, CONFIGS[kind], random_tensors(CONFIGS[kind])))
    pieces, lengths = batch_of(40)
    cuts_are_exact(encoder, pieces, lengths)
    padding_changes_nothing(encoder, pieces, lengths, 1e-5)


def test_steps_are_told_apart_in_16_bits_past_256(tmp_path: Path) -> None:
    config = encoder_config(BERT_CONFIG | {"max_position_embeddings": 400})
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        encoder = build_encoder(config)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    lengths = np.array([299, 301], np.int32)
    pieces, lengths = batch_of(40, lengths, 310)
    states = np.array(keras.ops.cast(encoder([pieces, lengths]), "float32"))
    assert np.isfinite(states).all()
    changed = np.array(pieces)
    changed[0, 299] = 1 + changed[0, 299] % 30
    others = np.array(keras.ops.cast(encoder([*tensors([changed]), lengths]), "float32"))
    np.testing.assert_array_equal(others[0, :299], states[0, :299])
    changed[0, 298] = 1 + changed[0, 298] % 30
    others = np.array(keras.ops.cast(encoder([*tensors([changed]), lengths]), "float32"))
    assert np.abs(others[0, :290] - states[0, :290]).max() > 0, "the control: the last real step matters"


def test_a_saved_encoder_needs_keras_alone(tmp_path: Path) -> None:
    config = ELECTRA_CONFIG | {"hidden_act": "gelu_new"}
    encoder = loaded(write_folder(tmp_path / "folder", config, random_tensors(config)))
    pieces, lengths = batch_of(40)
    split_backbone(encoder, "layer_1")
    encoder.save(tmp_path / "encoder.keras")
    np.savez(tmp_path / "inputs.npz", pieces=pieces, lengths=lengths)
    program = (
        "import sys, keras, numpy as np\n"
        "given = np.load('inputs.npz')\n"
        "model = keras.saving.load_model('encoder.keras')\n"
        "np.save('states.npy', model([given['pieces'], given['lengths']], training=False))\n"
        "assert not any(name.startswith('kerastl') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        np.load(tmp_path / "states.npy"), encoder([pieces, lengths], training=False)
    )


BAD_CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another architecture": (BERT_CONFIG | {"model_type": "roberta"}, ["model_type = 'roberta'", "bert, distilbert, electra"]),
    "none": ({}, ["model_type = None"]),
    "a slip": (BERT_CONFIG | {"model_type": "brt"}, ["Did you mean 'bert'?"]),
    "relative positions": (BERT_CONFIG | {"position_embedding_type": "relative_key"}, ["position_embedding_type = 'relative_key': expected 'absolute'"]),
    "a decoder": (BERT_CONFIG | {"is_decoder": True}, ["is_decoder = True: expected False"]),
    "an activation": (BERT_CONFIG | {"hidden_act": "silu"}, ["hidden_act = 'silu': expected one of gelu, gelu_new"]),
    "an activation of DistilBERT": (DISTILBERT_CONFIG | {"activation": "swish"}, ["activation = 'swish'"]),
    "several": (
        BERT_CONFIG | {"hidden_size": 0, "vocab_size": "many", "num_hidden_layers": True},
        ["hidden_size = 0: expected a whole number above 0", "vocab_size = 'many'", "num_hidden_layers = True"],
    ),
    "heads": (BERT_CONFIG | {"num_attention_heads": 5}, ["num_attention_heads = 5: expected a divisor of hidden_size = 12"]),
    "epsilon": (BERT_CONFIG | {"layer_norm_eps": "small"}, ["layer_norm_eps = 'small'"]),
    "embeddings": (ELECTRA_CONFIG | {"embedding_size": -1}, ["embedding_size = -1"]),
}  # fmt: skip


@pytest.mark.parametrize(("config", "fragments"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_another_network_is_refused_by_its_config(
    config: dict[str, Any], fragments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        read_config(tmp_path)
    for fragment in [str(tmp_path / "config.json"), *fragments]:
        assert fragment in str(caught.value)


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


NUMBERS = bytes(8)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "should have 0 bytes, the file has 0"),
    "a short header": ((99).to_bytes(8, "little") + b"{}", "header should have 99 bytes, the file has 10"),
    "a pickle": (b"PK\x03\x04" + bytes(60), "its header should have"),
    "no JSON": ((4).to_bytes(8, "little") + b"{{{{", "no JSON of tensors"),
    "no object": ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
    "a name twice": ((15).to_bytes(8, "little") + b'{"a": 1,"a": 2}', "'a' stands there twice"),
    "no offsets": (header(a={"dtype": "F32", "shape": [2]}) + NUMBERS, "tensor 'a' lacks its dtype, shape or data_offsets"),
    "an unknown dtype": (header(a=entry("F8_E4M3")) + NUMBERS, "tensor 'a' has dtype 'F8_E4M3'"),
    "a negative side": (header(a=entry(shape=(-2,))) + NUMBERS, "tensor 'a' has shape [-2]"),
    "a fraction": (header(a=entry(shape=(2.0,))) + NUMBERS, "tensor 'a' has shape [2.0]"),
    "too few bytes": (header(a=entry(offsets=(0, 4))) + NUMBERS, "tensor 'a' of shape [2] and dtype F32 takes 8 bytes"),
    "cut off": (header(a=entry()) + NUMBERS[:-1], "tensor 'a' ends at byte 8 of its arrays, of which there are 7"),
    "too long": (header(a=entry()) + NUMBERS + b"x", "1 bytes at its end belong to no tensor"),
    "an overlap": (header(a=entry(), b=entry(offsets=(4, 12))) + bytes(12), "tensor 'b' overlaps 'a'"),
    "a gap": (header(a=entry(), b=entry(offsets=(12, 20))) + bytes(20), "4 bytes before tensor 'b' belong to none"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_damaged_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.int64),
        "none": np.zeros((0, 3), np.float16),
        "scalar": np.array(2.5, np.float16),
    }
    path.write_bytes(safetensors_bytes(arrays))
    found = read_header(path)
    assert list(found) == ["a", "b", "none", "scalar"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].read(), array)
        assert found[name].read().dtype == array.dtype


def without(name: str) -> Any:
    return lambda stored: {key: value for key, value in stored.items() if key != name}


QUERY, SEGMENTS = "encoder.layer.1.attention.self.query.weight", "embeddings.token_type_embeddings.weight"
BAD_TENSORS: dict[str, tuple[Any, list[str]]] = {
    "one is missing": (without(QUERY), [f"'{QUERY}' is missing", "in 1 tensor."]),
    "segments are missing": (without(SEGMENTS), [f"'{SEGMENTS}' is missing"]),
    "no segment": (lambda stored: stored | {SEGMENTS: np.zeros((0, 12), np.float32)}, [f"'{SEGMENTS}' has shape (0, 12)"]),
    "one too many": (lambda stored: stored | {"encoder.layer.3.output.dense.bias": np.zeros(12, np.float32)}, ["'encoder.layer.3.output.dense.bias' is not known"]),
    "of another shape": (lambda stored: stored | {QUERY: np.zeros((12, 11), np.float32)}, [f"'{QUERY}' has shape (12, 11), not (12, 12)"]),
    "of whole numbers": (lambda stored: stored | {QUERY: np.zeros((12, 12), np.int64)}, [f"'{QUERY}' has dtype I64"]),
    "all problems at once": (
        lambda stored: without(QUERY)(stored) | {"extra": np.zeros(1, np.float32), SEGMENTS: np.zeros((2, 3), np.float32)},
        [f"'{QUERY}' is missing", "'extra' is not known", f"'{SEGMENTS}' has shape (2, 3)", "in 3 tensors."],
    ),
    "not finite": (lambda stored: stored | {QUERY: np.full((12, 12), np.nan, np.float32)}, ["not finite", QUERY]),
    "of another architecture": (lambda stored: random_tensors(DISTILBERT_CONFIG), ["is missing", "'transformer.layer.0.ffn.lin1.weight' is not known"]),
}  # fmt: skip


@pytest.mark.parametrize(("change", "fragments"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_what_does_not_fit_is_refused_whole(change: Any, fragments: list[str], tmp_path: Path) -> None:
    config = encoder_config(BERT_CONFIG)
    encoder = build_encoder(config)
    before = encoder.get_weights()
    folder = write_folder(tmp_path, BERT_CONFIG, change(random_tensors(BERT_CONFIG)))
    with pytest.raises(WeightsError) as caught:
        load_folder(encoder, config, folder)
    for fragment in [str(folder / "model.safetensors"), "Nothing was loaded", *fragments]:
        assert fragment in str(caught.value)
    for one, other in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_of_other_sizes_or_without_weights_is_refused(tmp_path: Path) -> None:
    config = encoder_config(BERT_CONFIG)
    encoder = build_encoder(config)
    smaller = BERT_CONFIG | {"vocab_size": 30}
    with pytest.raises(WeightsError, match="vocabulary is 30, not 40"):
        load_folder(encoder, config, write_folder(tmp_path / "a", smaller, random_tensors(smaller)))
    write_folder(tmp_path / "b", BERT_CONFIG, {})
    (tmp_path / "b" / "model.safetensors").unlink()
    (tmp_path / "b" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(WeightsError, match="safe_serialization"):
        load_folder(encoder, config, tmp_path / "b")
    with pytest.raises(WeightsError, match=r"config\.json.*No such file"):
        load_folder(encoder, config, tmp_path / "c")
    with pytest.raises(WeightsError, match="is no JSON"):
        (tmp_path / "b" / "config.json").write_text("{")
        load_folder(encoder, config, tmp_path / "b")


@pytest.mark.weights
def test_minilm_is_the_reference_and_its_cuts_are_exact(weights_folder: Path) -> None:
    folder = weights_folder / "minilm_l6"
    if not folder.is_dir():
        pytest.skip("MiniLM is not at ../shared/weights")
    encoder = loaded(folder)
    stored = {name: entry.read() for name, entry in read_header(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    lengths = np.array([3, 17, 40, 64], np.int32)
    pieces, lengths = batch_of(30_000, lengths, 64, low=1000)
    states = encoder([pieces, lengths], training=False)
    assert furthest(states, pieces, lengths, config, stored) < 1e-5
    cuts_are_exact(encoder, pieces, lengths)
    padding_changes_nothing(encoder, pieces, lengths, 1e-5)


@pytest.mark.weights
def test_minilm_knows_what_sentences_mean(weights_folder: Path) -> None:
    folder = weights_folder / "minilm_l6"
    if not folder.is_dir():
        pytest.skip("MiniLM is not at ../shared/weights")
    encoder = loaded(folder)
    numbers = {word: at for at, word in enumerate((folder / "vocab.txt").read_text().splitlines())}
    sentences = (
        "[CLS] a man is playing a guitar on stage [SEP]",
        "[CLS] someone plays music in a concert hall [SEP]",
        "[CLS] the stock market fell sharply today [SEP]",
    )
    rows = [[numbers[word] for word in sentence.split()] for sentence in sentences]
    steps = max(map(len, rows))
    pieces = np.array([row + [0] * (steps - len(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    states = np.array(encoder(tensors([pieces, lengths]), training=False))
    means = np.stack([row[:count].mean(0) for row, count in zip(states, lengths, strict=True)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    near, far, other = means[0] @ means[1], means[0] @ means[2], means[1] @ means[2]
    assert near > 0.4 and far < 0.15 and other < 0.15, (near, far, other)
