"""LiteRT and ONNX of texts: from pieces and their number, checked by their own runtimes, with the vocabulary beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_formats import EACH
from toy_transformer import network_on

from kerastl.export.check import MIXED_PRECISION_TOLERANCE, check_export
from kerastl.export.compare import CheckExamples
from kerastl.export.formats import FORMATS, read_info, refusal, write_format
from kerastl.export.signature import Serving
from kerastl.modality.text import Text
from kerastl.modality.text.vocabulary import SPECIAL, Vocabulary, read_vocabulary
from kerastl.task.classification import CLASSIFICATION

PIECES, STEPS = 40, 8
VOCABULARY = Vocabulary((*SPECIAL, *(f"piece{at}" for at in range(PIECES - len(SPECIAL)))))
SERVING = Serving(("bad", "good", "so so"), Text(VOCABULARY, max_pieces=STEPS), threshold=0.5)
FLOATS = [each for each in EACH if each.values != ("litert-int8",)]


def model_with(pooling: str, seed: int = 3) -> Any:
    """A random encoder with a head that answers something other than the constant guess."""
    import keras

    from kerastl.model.build import build_model
    from kerastl.model.encoder_config import EncoderConfig
    from kerastl.model.encoders import build_encoder
    from kerastl.recipe.schema import HeadRecipe

    keras.utils.set_random_seed(seed)
    encoder = build_encoder(EncoderConfig("bert", PIECES, 16, 12, 2, 3, 20, 12))
    spec = dataclasses.replace(network_on(encoder).spec, length="length", feature_channels=12)
    built = build_model(encoder, spec, HeadRecipe(pooling=pooling), 3)
    built.logits.kernel.assign(np.random.default_rng(3).normal(size=built.logits.kernel.shape))
    return built.model


def texts_of(model: Any) -> CheckExamples:
    """Forty texts of different lengths, with the answers of a model in memory, half of them right."""
    from kerastl.jobs.convert import checked_examples

    random = np.random.default_rng(1)
    length = np.arange(40, dtype=np.int32) % (STEPS - 1) + 2
    pieces = random.integers(4, PIECES, (40, STEPS)) * (np.arange(STEPS) < length[:, None])
    inputs = {"pieces": pieces.astype(np.int32), "length": length}
    return checked_examples(model, inputs, random.integers(0, 3, 40), np.arange(40) >= 10, CLASSIFICATION)


@pytest.fixture(scope="module")
def model() -> Any:
    return model_with("avgmax")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Callable[[str], Path]:
    """The folder of the model in a format, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("f") / name
            write_format(model, SERVING, FORMATS[name], made[name], {})
        return made[name]

    return folder_of


@pytest.mark.parametrize("name", FLOATS)
def test_pieces_and_length_are_answered_as_in_memory(
    name: str, written: Callable[[str], Path], model: Any
) -> None:
    result = check_export(written(name), texts_of(model), SERVING, 1e-5, FORMATS[name])
    assert result.problems == ()
    assert (result.count, result.test_count, result.label_agreement) == (40, 30, 1.0)
    info = read_info(written(name))
    assert info["input"]["tensors"] == [
        {"name": "pieces", "dtype": "int32", "shape": [-1, STEPS]},
        {"name": "length", "dtype": "int32", "shape": [-1]},
    ]
    assert (info["modality"], info["input"]["max_pieces"], info["input"]["lowercase"]) == (
        "text",
        STEPS,
        True,
    )
    assert info["check"]["largest_difference"] == result.largest_difference


@pytest.mark.parametrize("name", FLOATS)
def test_the_vocabulary_lies_beside_the_model(name: str, written: Callable[[str], Path]) -> None:
    folder = written(name)
    assert {each.name for each in folder.iterdir()} == {
        FORMATS[name].file,
        "labels.txt",
        "format.json",
        "vocab.txt",
    }
    found = read_vocabulary(folder / "vocab.txt")
    assert found.pieces == VOCABULARY.pieces and found.digest == read_info(folder)["input"]["vocabulary"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("fault", ["other weights", "length is not looked at", "pieces in another order"])
def test_a_model_that_answers_otherwise_is_refused(
    name: str, fault: str, written: Callable[[str], Path], model: Any
) -> None:
    expected = texts_of(model_with("avgmax", seed=4) if fault == "other weights" else model)
    changed = dict(expected.inputs)
    if fault == "length is not looked at":
        changed["length"] = np.full_like(changed["length"], STEPS)
    if fault == "pieces in another order":
        changed["pieces"] = np.ascontiguousarray(changed["pieces"][:, ::-1])
    result = check_export(
        written(name), dataclasses.replace(expected, inputs=changed), SERVING, 1e-4, FORMATS[name]
    )
    assert "probabilities differ by up to" in result.problems[0] and "Worst in text" in result.problems[0]


@pytest.mark.parametrize("name", FLOATS)
def test_a_description_of_other_inputs_is_refused(
    name: str, written: Callable[[str], Path], model: Any, tmp_path: Path
) -> None:
    import shutil

    folder, examples = shutil.copytree(written(name), tmp_path / "changed"), texts_of(model)
    info = read_info(folder)
    for key, value, said in (
        ("dtype", "int64", "length.dtype is 'int32' in the model, and 'int64' in format.json."),
        ("name", "count", "The model takes length and pieces, and format.json says count and pieces."),
    ):
        info["input"]["tensors"][1][key] = value
        (folder / "format.json").write_text(json.dumps(info), encoding="utf-8")
        assert check_export(folder, examples, SERVING, 1e-4, FORMATS[name]).problems == (said,)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("pooling", ["avg", "max", "gem", "first"])
def test_every_pooling_is_converted(name: str, pooling: str, tmp_path: Path) -> None:
    made = model_with(pooling)
    write_format(made, SERVING, FORMATS[name], tmp_path / name, {})
    assert check_export(tmp_path / name, texts_of(made), SERVING, 1e-4, FORMATS[name]).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOATS)
def test_a_model_in_sixteen_bits_is_written_in_float32(name: str, tmp_path: Path) -> None:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = model_with("avg")
    finally:
        keras.config.set_dtype_policy("float32")
    write_format(made, SERVING, FORMATS[name], tmp_path / name, {})
    result = check_export(tmp_path / name, texts_of(made), SERVING, MIXED_PRECISION_TOLERANCE, FORMATS[name])
    assert result.problems == () and result.largest_difference > 0
    assert {each["dtype"] for each in read_info(tmp_path / name)["input"]["tensors"]} == {"int32"}


def test_a_benchmark_of_texts_speaks_of_texts() -> None:
    from kerastl.cli.benchmark import overview
    from kerastl.export.latency import Latency
    from kerastl.jobs.benchmark import Benchmark, BenchmarkRow

    row = BenchmarkRow("keras", 1000, (Latency(1, 1.0, 1.0, 1.0),), 0.5, 0.0, 0)
    told = overview(Benchmark(Path("run"), 40, 2, 5, (row,), {}, "text"))
    assert "decoded texts in; accuracy on 40 texts" in told and "pixel" not in told


def test_integers_of_eight_bits_do_not_hold_pieces() -> None:
    from kerastl.modality.image import Image

    said = refusal(FORMATS["litert-int8"], SERVING)
    assert "'litert-int8' takes inputs of eight bits, and pieces and length of a text are larger" in said
    assert said.endswith("Choose litert or onnx.")
    of_images = dataclasses.replace(SERVING, modality=Image(24))
    assert not refusal(FORMATS["litert"], SERVING) and not refusal(FORMATS["litert-int8"], of_images)
