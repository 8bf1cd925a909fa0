"""What the registry says of encoders is true of the networks, and their weights are found in folders."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from encoder_reference import BERT_CONFIG, random_tensors, write_folder
from test_static_embeddings import CONFIG as STATIC_CONFIG
from test_static_embeddings import TABLE

from kerastl.backbones import (
    BUNDLED_WEIGHTS_FOLDER,
    ENCODER,
    TEXT,
    BackboneSpec,
    backbone_names,
    get_backbone,
    spec_from_dict,
)
from kerastl.errors import UserError, WeightsError
from kerastl.modality import InputSpec
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone, build_model
from kerastl.model.encoder_spec import draft_of, measured, read_folder
from kerastl.model.graph import cut_points
from kerastl.model.weights import WEIGHTS_DIR_VARIABLE, load_weights, weights_at_hand
from kerastl.recipe.schema import HeadRecipe

FAST = ("minilm_l6", "bert_tiny", "electra_small")
INPUTS = {"pieces": InputSpec((16,), "int32"), "length": InputSpec((), "int32")}


@pytest.fixture(autouse=True)
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(WEIGHTS_DIR_VARIABLE, raising=False)
    yield
    keras.backend.clear_session()
    gc.collect()


def prove(spec: BackboneSpec) -> None:
    backbone = build_backbone(spec, INPUTS)
    assert backbone.name == spec.name and backbone.count_params() == spec.parameters
    assert backbone.output_shape == (None, None, spec.feature_channels)
    layers = dict(spec.arguments)["layers"]
    names = [f"layer_{number}" for number in range(layers, 0, -1)]
    assert spec.unfreeze_points == ("backbone", *names[1:], "embeddings", "input")
    points = cut_points(backbone)
    assert all(
        tuple(each.name for each in points[name].carried) == ("length",)
        for name in (*names[1:], "embeddings")
    )
    weights = {layer.name: layer.count_params() for layer in backbone.layers if layer.weights}
    above = [0]
    for name in names:
        above.append(above[-1] + weights[name])
    assert spec.trained_parameters == (*above, above[-1] + weights["embeddings"])
    assert spec.length in [each.name for each in backbone.inputs]


@pytest.mark.parametrize("name", FAST)
def test_figures_are_true(name: str) -> None:
    prove(get_backbone(name))


def test_figures_are_true_of_the_table_that_ships() -> None:
    spec = get_backbone("minilm_static")
    config = read_folder(BUNDLED_WEIGHTS_FOLDER / "minilm_static")
    assert dataclasses.asdict(config) == dict(spec.arguments)  # type: ignore[arg-type]
    found = measured(spec)
    assert {key: getattr(spec, key) for key in found} == found and spec.unfreeze_points == (
        "backbone",
        "input",
    )
    assert spec.parameters == config.vocabulary * config.width


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in backbone_names(TEXT) if get_backbone(name).builder == ENCODER and name not in FAST],
)
def test_figures_are_true_of_every_encoder(name: str) -> None:
    prove(get_backbone(name))


@pytest.mark.parametrize("change", [{"parameters": 1}, {"feature_channels": 127}, {"trained_parameters": (0, 1)}, {"unfreeze_points": ("backbone", "input")}])  # fmt: skip
def test_the_proof_fails_for_a_false_entry(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        prove(dataclasses.replace(get_backbone("bert_tiny"), **change))


def test_published_sizes_are_those_of_the_papers() -> None:
    """Of Hugging Face's own counts, without the pooler and the embeddings of first and second sentences."""
    assert get_backbone("bert_base_uncased").parameters == 109_482_240 - 768 * 769 - 2 * 768
    assert get_backbone("distilbert_base_uncased").parameters == 66_362_880
    assert get_backbone("minilm_l6").parameters == 22_713_216 - 384 * 385 - 2 * 384


def test_networks_for_texts_and_for_images_are_listed_apart() -> None:
    texts, images = backbone_names(TEXT), backbone_names()
    assert "minilm_l6" in texts and "resnet50" in images and not set(texts) & set(images)
    assert all(
        get_backbone(name).modality == TEXT and get_backbone(name).length == "length" for name in texts
    )
    assert all(
        get_backbone(name).modality == "image" and get_backbone(name).length is None for name in images
    )
    assert all(
        get_backbone(name).bundled_weights
        or get_backbone(name).published[0].url.startswith("https://huggingface.co/")
        for name in texts
    )


def test_listing_encoders_needs_no_tensorflow() -> None:
    code = (
        "import sys, kerastl.backbones as b; assert len(b.backbone_names(b.TEXT)) >= 11; "
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(("inputs", "fragments"), [
    (Image(32).spec, ["takes pieces and length, not pixels", "Expected data whose kind is text"]),
    ({**INPUTS, "pieces": InputSpec((513,), "int32")}, ["513 pieces", "512 at most"]),
], ids=["pixels", "too long"])  # fmt: skip
def test_inputs_that_it_does_not_take_are_refused(inputs: Any, fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone(get_backbone("bert_tiny"), inputs)
    assert all(fragment in str(caught.value) for fragment in ["bert_tiny", *fragments])


@pytest.fixture
def small(tmp_path: Path) -> tuple[BackboneSpec, Path]:
    """The spec of a small encoder and a folder of folders with its weights."""
    folder = write_folder(tmp_path / "weights" / "small", BERT_CONFIG, random_tensors(BERT_CONFIG))
    draft = draft_of("small", read_folder(folder), preprocessing="uncased", modality=TEXT)
    return dataclasses.replace(draft, **measured(draft)), folder.parent


def test_weights_are_found_in_folders(
    small: tuple[BackboneSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folders = small
    backbone = build_backbone(spec, INPUTS)
    table = random_tensors(BERT_CONFIG)["embeddings.word_embeddings.weight"]
    own = str(folders / "small")
    for weights, folder in ((own, None), ("pretrained", str(folders)), ("pretrained", None)):
        if weights == "pretrained" and folder is None:
            assert not weights_at_hand(spec, 0, weights)
            monkeypatch.setenv(WEIGHTS_DIR_VARIABLE, str(folders))
        backbone.set_weights([np.zeros_like(each) for each in backbone.get_weights()])
        assert weights_at_hand(spec, 0, weights, folder)
        loaded = load_weights(backbone, spec, weights, folder)
        assert loaded.origin == "file" and loaded.path == str(folders / "small" / "model.safetensors")
        assert loaded.sha256 and len(loaded.sha256) == 64
        np.testing.assert_array_equal(backbone.get_weights()[0], table)
    assert load_weights(backbone, spec, "none").path is None


@pytest.mark.parametrize(("weights", "fragments"), [
    ("pretrained", ["at hand", "hf download", "KERASTL_WEIGHTS_DIR"]),
    ("imagenet", ["there are none for"]),
    ("nowhere", ["'nowhere' is no folder", "Hugging Face folder"]),
    (__file__, ["is no folder"]),
], ids=["pretrained", "imagenet", "nowhere", "file"])  # fmt: skip
def test_weights_that_are_not_there_are_refused(weights: str, fragments: list[str], tmp_path: Path) -> None:
    spec = get_backbone("bert_tiny")
    backbone = build_backbone(spec, INPUTS)
    assert not weights_at_hand(spec, 0, weights, str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load_weights(backbone, spec, weights, str(tmp_path))
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_another_folder_is_refused(small: tuple[BackboneSpec, Path]) -> None:
    backbone = build_backbone(get_backbone("bert_tiny"), INPUTS)
    with pytest.raises(WeightsError, match=r"does not fit backbone 'bert_tiny': vocabulary is 40, not 30522"):
        load_weights(backbone, get_backbone("bert_tiny"), str(small[1] / "small"))


def test_a_static_folder_is_a_backbone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "potion", STATIC_CONFIG, {"embeddings": TABLE})
    draft = draft_of("potion", read_folder(folder), preprocessing="uncased", modality=TEXT)
    spec = dataclasses.replace(draft, **measured(draft))
    assert spec.unfreeze_points == ("backbone", "input") and spec.parameters == TABLE.size
    backbone = build_backbone(spec, INPUTS)
    load_weights(backbone, spec, str(folder))
    network = build_model(backbone, spec, HeadRecipe(pooling="avg"), 2)
    network.logits.kernel.assign(np.ones(network.logits.kernel.shape))
    pieces = np.array([[1, 2, 0], [5, 0, 0]], np.int32)
    given = {"pieces": pieces, "length": np.array([2, 1], np.int32)}
    logits = network.model({name: keras.ops.convert_to_tensor(each) for name, each in given.items()})
    np.testing.assert_allclose(logits[:, 0], [TABLE[[1, 2]].mean(0).sum(), TABLE[5].sum()], rtol=1e-5)


def test_the_model_has_the_names_and_types_of_the_inputs() -> None:
    spec = get_backbone("bert_tiny")
    network = build_model(build_backbone(spec, INPUTS), spec, HeadRecipe(pooling="first"), 2)
    assert {each.name: each.dtype for each in network.model.inputs} == {"pieces": "int32", "length": "int32"}
    assert network.feature_count == 128


def test_a_spec_survives_the_way_through_plain_values() -> None:
    spec = get_backbone("electra_small")
    assert (
        spec_from_dict(dataclasses.asdict(spec) | {"published": [dataclasses.asdict(spec.published[0])]})
        == spec
    )


@pytest.mark.weights
def test_minilm_is_loaded_by_its_name(weights_folder: Path) -> None:
    if not (weights_folder / "minilm_l6").is_dir():
        pytest.skip("MiniLM is not at ../shared/weights")
    spec = get_backbone("minilm_l6")
    backbone = build_backbone(spec, INPUTS)
    loaded = load_weights(backbone, spec, "pretrained", str(weights_folder))
    assert loaded.path == str(weights_folder / "minilm_l6" / "model.safetensors")
    assert abs(float(np.std(backbone.get_weights()[0])) - 0.05) < 0.03
