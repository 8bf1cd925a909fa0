"""KerasHub presets as backbones: small ones with random weights that the tests save themselves, from their folder to a served model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Kerastl
from hub_presets import (
    OF_IMAGES,
    OF_TEXTS,
    OFFSET,
    POSITIONS,
    SCALE,
    SIDE,
    needs_keras_hub,
    network,
    save_images,
    save_texts,
    write_json,
)
from test_entity_fit import in_columns, sentences
from test_entity_fit import vocabulary as vocabulary_of_people
from test_text_fit import reviews, vocabulary

from kerastl.export.formats import FORMATS, missing_packages

pytestmark = [pytest.mark.slow, needs_keras_hub]
POINTS = {
    "vit": ("backbone", "transformer_block_2", "transformer_block_1", "vit_patching_and_embedding", "input"),
    "dinov2": ("backbone", "layers_1", "layers_0", "dinov2_backbone_embeddings", "input"),
    "siglip": ("backbone", "vision_encoder_block_1", "vision_encoder_block_0", "vision_embedding", "input"),
    "mit": (
        *(
            "backbone",
            "hierarchical_encoder_1_0",
            "patch_and_embed_1",
            "hierarchical_encoder_0_1",
            "hierarchical_encoder_0_0",
        ),
        *("patch_and_embed_0", "input"),
    ),
    "resnet": ("backbone", "stack0_block0_out", "pool1_pool", "input"),
    "bert": ("backbone", "transformer_layer_0", "embeddings_dropout", "embeddings_add", "input"),
    "distilbert": (
        *("backbone", "transformer_layer_0", "embeddings_dropout", "token_and_position_embedding", "input"),
    ),
}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Name of each preset as recipes have it, and KerasHub's network in it."""
    import keras

    keras.utils.set_random_seed(3)
    root, found = tmp_path_factory.mktemp("presets"), {}
    for name in (*OF_IMAGES, *OF_TEXTS):
        own = network(name)
        save = (
            save_images if name in OF_IMAGES else lambda own, folder: save_texts(own, folder, vocabulary(40))
        )
        found[name] = f"kerashub:{save(own, root / name)}", own
    return found


def examples(name: str) -> tuple[list[Any], dict[str, Any]]:
    """Inputs of a backbone, and the same as KerasHub's network takes them."""
    from keras import ops

    generator = np.random.default_rng(1)
    if name in OF_IMAGES:
        pixels = generator.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
        return [ops.convert_to_tensor(pixels)], {"images": pixels * np.float32(SCALE) + np.float32(OFFSET)}
    length = np.array([16, 4, 9], np.int32)
    mask = np.arange(16) < length[:, None]
    pieces = np.where(mask, generator.integers(4, 40, (3, 16)), 0).astype(np.int32)
    theirs = {
        "token_ids": pieces,
        "padding_mask": mask.astype(np.int32),
        "segment_ids": np.zeros_like(pieces),
    }
    return [ops.convert_to_tensor(each) for each in (pieces, length)], theirs


def expected(name: str, own: Any, theirs: dict[str, Any]) -> np.ndarray:
    """KerasHub's own answer."""
    if name in OF_IMAGES:
        tower = own.vision_encoder if name == "siglip" else own
        return np.array(tower(theirs if isinstance(tower.input, dict) else theirs["images"], training=False))
    found = own({each.name: theirs[each.name] for each in own.inputs}, training=False)
    return np.array(found["sequence_output"] if isinstance(found, dict) else found)


def modality_for(spec: Any) -> Any:
    from kerastl.modality.image import Image
    from kerastl.modality.text import Text

    return Text(None, max_pieces=16) if spec.modality == "text" else Image(SIDE)


def loaded(name: str) -> tuple[Any, Any]:
    """Spec and backbone, with its weights, of a preset."""
    from kerastl.backbones import get_backbone
    from kerastl.model.build import build_backbone

    spec = get_backbone(name)
    return spec, build_backbone(spec, modality_for(spec).spec)


@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_TEXTS])
def test_a_preset_answers_as_kerashubs_network_and_is_cut_and_saved(
    name: str, presets: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    import keras

    from kerastl.model.cut import split_backbone

    place, own = presets[name]
    spec, backbone = loaded(place)
    inputs, theirs = examples(name)
    given = inputs if len(inputs) > 1 else inputs[0]
    whole = np.array(backbone(given, training=False))
    np.testing.assert_allclose(whole, expected(name, own, theirs), rtol=1e-5, atol=1e-5)
    if name in OF_IMAGES:
        plain = {"images": np.array(inputs[0])}
        assert np.abs(whole - expected(name, own, plain)).max() > 1e-2, "the control: scale and offset count"
    assert spec.unfreeze_points == POINTS[name]
    assert list(spec.trained_parameters) == sorted(set(spec.trained_parameters))
    for point in spec.unfreeze_points[1:-1]:
        halves = split_backbone(backbone, point)
        assert halves.below is not None and halves.above is not None
        assert halves.carried == (() if name in OF_IMAGES else ("length",))
        middle = halves.below(given, training=False)[point]
        above = halves.above([middle, inputs[-1]] if halves.carried else middle, training=False)
        np.testing.assert_array_equal(above["backbone"], whole)
    several = backbone.giving(spec.unfreeze_points[:-1])
    assert np.abs(np.array(several(given, training=False)[0]) - whole).max() == 0
    for model in (backbone, several):
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert again.name == backbone.name
        for one, other in zip(
            keras.tree.flatten(again(given, training=False)),
            keras.tree.flatten(model(given, training=False)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_what_fills_a_text_up_means_nothing(name: str, presets: dict[str, tuple[str, Any]]) -> None:
    from keras import ops

    backbone = loaded(presets[name][0])[1]
    (pieces, length), _ = examples(name)
    real = np.arange(16) < np.array(length)[:, None]
    other = np.where(real, pieces, 7).astype(np.int32)

    def states(given: Any, lengths: Any) -> np.ndarray:
        return np.array(
            backbone([ops.convert_to_tensor(given), ops.convert_to_tensor(lengths)], training=False)
        )[real]

    np.testing.assert_allclose(states(other, length), states(pieces, length), rtol=1e-5, atol=1e-5)
    full = np.full_like(length, 16)
    assert np.abs(states(other, full) - states(pieces, full)).max() > 1e-3, "the control"


def test_another_graph_or_scaling_has_another_name(
    presets: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    from kerastl.backbones import get_backbone

    place = presets["vit"][0]
    copy = Path(shutil.copytree(place.removeprefix("kerashub:"), tmp_path / "vit"))
    assert get_backbone(f"kerashub:{copy}").name == get_backbone(place).name
    write_json(copy / "image_converter.json", {"config": {"scale": 0.5}})
    os.utime(copy / "config.json", (1, 1))
    assert get_backbone(f"kerashub:{copy}").name != get_backbone(place).name
    (copy / "image_converter.json").unlink()
    os.utime(copy / "config.json", (2, 2))
    assert get_backbone(f"kerashub:{copy}").preprocessing == "identity"
    assert get_backbone(place).preprocessing == "its own"


def test_weights_are_the_presets_or_new_ones_and_damaged_ones_are_refused(
    presets: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    from kerastl.errors import WeightsError
    from kerastl.model.weights import load_weights, sha256_of

    copy = Path(shutil.copytree(presets["vit"][0].removeprefix("kerashub:"), tmp_path / "vit"))
    file = copy / "model.weights.h5"
    spec, backbone = loaded(f"kerashub:{copy}")
    before = backbone.get_weights()
    found = load_weights(backbone, spec, "pretrained")
    assert (found.origin, found.path, found.sha256) == ("file", str(file), sha256_of(file))
    assert all(map(np.array_equal, backbone.get_weights(), before))
    assert load_weights(backbone, spec, "none").origin == "none"
    assert not all(map(np.array_equal, backbone.get_weights(), before))
    wider = network("mit")
    wider.save_weights(file)
    with pytest.raises(WeightsError, match=r"model.weights.h5 does not fit .*config.json, or is damaged"):
        loaded(f"kerashub:{copy}")
    own = network("vit")
    own.set_weights([each * np.nan for each in own.get_weights()])
    own.save_weights(file)
    with pytest.raises(WeightsError, match="not finite"):
        loaded(f"kerashub:{copy}")


@pytest.mark.parametrize("features", ["last", "joins", "transformer_block_1"])
def test_the_first_step_is_pooled_at_any_blocks(features: str, presets: dict[str, tuple[str, Any]]) -> None:
    from kerastl.model.build import build_model
    from kerastl.model.cut import cut
    from kerastl.recipe import HeadRecipe

    spec, backbone = loaded(presets["vit"][0])
    network = build_model(backbone, spec, HeadRecipe(pooling="first", features=features), 2)
    inputs, _ = examples("vit")
    names = [*POINTS["vit"][-2:0:-1], "backbone"]
    outputs = dict(zip(names, backbone.giving(names)(inputs[0], training=False), strict=True))
    asked = {"last": ["backbone"], "joins": names}.get(features, [features])
    states = np.concatenate([np.array(outputs[name])[:, 0] for name in asked], axis=1)
    kept = "pooled" if features == "last" else "joins"
    stored = cut(network, "transformer_block_1").prefix(kept)(inputs[0], training=False)[kept]
    read = network.reads.of(np.array(stored))
    np.testing.assert_allclose(read, states, rtol=1e-6, atol=1e-6)
    means = np.concatenate([np.array(outputs[name]).mean(1) for name in asked], axis=1)
    assert np.abs(states - means).max() > 1e-2, "the control"
    network.logits.kernel.assign(np.random.default_rng(3).normal(size=network.logits.kernel.shape))
    logits = network.head(states, training=False)
    np.testing.assert_allclose(network.model(inputs[0], training=False), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_TEXTS])
def test_the_first_step_is_offered_where_every_block_gives_steps(
    name: str, presets: dict[str, tuple[str, Any]]
) -> None:
    from kerastl.backbones import get_backbone
    from kerastl.errors import RecipeError
    from kerastl.model.head_input import pooling_choices
    from kerastl.recipe import BackboneRecipe, HeadRecipe, Recipe, resolve

    place, _ = presets[name]
    stepped = name in ("vit", "dinov2", *OF_TEXTS)
    assert ("first" in pooling_choices(get_backbone(place))) == stepped
    recipe = Recipe(backbone=BackboneRecipe(name=place), head=HeadRecipe(pooling="first"))
    if stepped:
        assert resolve(recipe, 100, 2).head.pooling == "first"
    else:
        with pytest.raises(RecipeError, match=r"gives no steps.* Expected auto, avg, max, avgmax or gem"):
            resolve(recipe, 100, 2)


def test_a_network_that_kerashub_cannot_build_is_refused(
    presets: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    from kerastl.backbones import get_backbone
    from kerastl.errors import UserError

    copy = Path(shutil.copytree(presets["vit"][0].removeprefix("kerashub:"), tmp_path / "vit"))
    config = json.loads((copy / "config.json").read_text())
    for sizes, message in (
        ({"image_shape": [32, 48, 3]}, "its input has the shape"),
        ({"patch_size": 7}, "cannot build ViTBackbone"),
    ):
        changed = {**config, "config": {**config["config"], **sizes}}
        write_json(copy / "config.json", changed)
        os.utime(copy / "config.json", ns=(0, len(message)))
        with pytest.raises(UserError, match=message):
            get_backbone(f"kerashub:{copy}")


def test_a_name_that_kerashub_does_not_list_and_one_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.errors import UserError
    from kerastl.presets import read_preset

    # nothing answers there
    program = (
        "from kerastl.presets import read_preset\n"
        "for name in ('vit_base_patch16_224_imagenett', 'vit_base_patch16_224_imagenet'):\n"
        "    try:\n        read_preset('kerashub:' + name)\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
    )
    nowhere = {
        "KAGGLE_API_ENDPOINT": "http://127.0.0.1:9",
        "KAGGLEHUB_CACHE": str(tmp_path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=300,
    )
    unknown, offline = done.stdout.splitlines()
    assert unknown.startswith("UserError") and "Did you mean 'vit_base_patch16_224_imagenet'?" in unknown
    assert offline.startswith("UserError") and "could not be fetched from Kaggle" in offline
    assert "kagglehub.model_download('keras/vit/keras/vit_base_patch16_224_imagenet" in offline
    with pytest.raises(UserError, match="no such folder"):
        read_preset(f"kerashub:{tmp_path / 'vit'}")


def test_the_whole_job_on_images(
    presets: dict[str, tuple[str, Any]], tmp_path: Path, solid_colours: Path, kerastl: Kerastl
) -> None:
    shutil.copytree(presets["vit"][0].removeprefix("kerashub:"), tmp_path / "tiny")
    done = kerastl(
        "fit", "--data", solid_colours, "--backbone", "kerashub:tiny", "--unfreeze-from", "transformer_block_1",
        "--head-epochs", "5", "--finetune-epochs", "2", "--augment", "none", "--name", "colours",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = check_job(tmp_path, kerastl, "colours")
    assert report["metrics"]["accuracy"] >= 0.9
    convert(tmp_path, kerastl)
    image = next((solid_colours / "red").iterdir())
    answer = asked(
        tmp_path / "saved_models/colours/2", f"image_bytes=tf.constant([open({str(image)!r}, 'rb').read()])"
    )
    assert answer == [b"red"]


def test_the_whole_job_on_texts(
    presets: dict[str, tuple[str, Any]], tmp_path: Path, kerastl: Kerastl
) -> None:
    shutil.copytree(presets["bert"][0].removeprefix("kerashub:"), tmp_path / "tiny")
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*reviews(120), strict=True)])
    done = kerastl(
        "fit", "--data", "reviews.csv", "--backbone", "kerashub:tiny", "--unfreeze-from", "transformer_layer_0",
        "--finetune-epochs", "2", "--name", "reviews",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = check_job(tmp_path, kerastl, "reviews")
    assert report["metrics"]["accuracy"] >= 0.8
    record = json.loads((tmp_path / "saved_models/reviews/2/assets.extra/model.json").read_text())
    assert record["max_pieces"] == POSITIONS and record["lowercase"] is True
    convert(tmp_path, kerastl)
    answer = asked(
        tmp_path / "saved_models/reviews/2",
        "text=tf.constant(['good LOVELY great film moving good', 'bad, dull awful boring poor', ''])",
    )
    assert answer[:2] == [b"pos", b"neg"]
    done = kerastl("benchmark", next((tmp_path / "runs").iterdir()))
    assert done.returncode == 2 and "cannot be loaded in a process without kerastl" in done.stderr


def test_the_whole_job_on_entities(tmp_path: Path, kerastl: Kerastl) -> None:
    save_texts(network("bert", 60), tmp_path / "tiny", vocabulary_of_people(60))
    (tmp_path / "people.conll").write_text(in_columns(sentences(80)), encoding="utf-8")
    done = kerastl(
        "fit", "--data", "people.conll", "--backbone", "kerashub:tiny", "--unfreeze-from", "transformer_layer_0",
        "--finetune-epochs", "1", "--max-pieces", "12", "--name", "people",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = check_job(tmp_path, kerastl, "people")
    assert report["metrics"]["entities"]["f1"] > 0.9
    sent = "Anna Smith lives in  ROME , "
    counts, rows = asked(
        tmp_path / "saved_models/people/2",
        f"text=tf.constant([{sent * 9!r}, {sent!r}, ''])",
        "[answers['count'].tolist(), [list(zip(*(answers[name][at].tolist() for name in ('starts', 'ends', 'entities', 'types')))) "
        "for at in range(3)]]",
    )
    found = [row[:count] for row, count in zip(rows, counts, strict=True)]
    assert (0, 10, b"Anna Smith", b"PER") in found[1] and (21, 25, b"ROME", b"LOC") in found[1]
    assert len(found[0]) >= 18 and found[0][-1][0] > 8 * len(sent) and found[2] == []
    assert all((sent * 9)[start:end] == name.decode() for start, end, name, _ in found[0])


def test_entities_are_refused_where_no_words_can_be_told(
    presets: dict[str, tuple[str, Any]], tmp_path: Path, kerastl: Kerastl
) -> None:
    shutil.copytree(presets["bert"][0].removeprefix("kerashub:"), tmp_path / "bpe")
    shutil.rmtree(tmp_path / "bpe/assets")
    write_json(tmp_path / "bpe/tokenizer.json", {"class_name": "RobertaTokenizer", "config": {}})
    (tmp_path / "people.conll").write_text(in_columns(sentences(20)), encoding="utf-8")
    refused = {
        presets["vit"][0]: "takes images, which have no words. Expected a backbone for texts",
        "kerashub:bpe": "its RobertaTokenizer cuts texts with tensorflow-text",
    }
    for backbone, message in refused.items():
        done = kerastl("fit", "--data", "people.conll", "--backbone", backbone)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = kerastl(
        "fit", "--data", "people.conll", "--backbone", presets["bert"][0], "--set", "head.pooling=first"
    )
    assert done.returncode == 2 and "each word has an answer of its own" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def convert(folder: Path, kerastl: Kerastl) -> None:
    """Write a run's model in the formats for other runtimes, each through its check."""
    (run,) = (folder / "runs").iterdir()
    for name in ("litert", "onnx"):
        if not missing_packages(FORMATS[name]):
            done = kerastl("export", run, "--format", name)
            assert done.returncode == 0, done.stderr


def check_job(folder: Path, kerastl: Kerastl, name: str) -> dict[str, Any]:
    """The report of a run whose preset is gone, which is evaluated and exported again all the same."""
    (run,) = (folder / "runs").iterdir()
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    card = (folder / f"saved_models/{name}/1/assets.extra/model_card.md").read_text()
    assert "`kerashub:tiny`" in card and str(folder) not in card
    shutil.rmtree(folder / "tiny")
    done = kerastl("evaluate", run, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == report["metrics"]["accuracy"]
    done = kerastl("export", run)
    assert done.returncode == 0, done.stderr
    return report


def asked(model: Path, given: str, wanted: str = "answers['classes'][:, 0].tolist()") -> list[Any]:
    """Answers of an exported model in a process that has neither Keras nor KerasHub nor kerastl, nor tensorflow-text."""
    program = (
        "import sys\nfor name in ('keras', 'keras_hub', 'kerastl', 'tensorflow_text'):\n    sys.modules[name] = None\n"
        f"import tensorflow as tf\nmodel = tf.saved_model.load({str(model)!r})\n"
        f"answers = model.signatures['serving_default']({given})\n"
        "answers = {name: value.numpy() for name, value in answers.items()}\n"
        f"print({wanted})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[Any] = eval(done.stdout)
    return found
