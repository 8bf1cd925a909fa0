"""KerasHub presets by their files alone: what they say of examples, and which are refused, without KerasHub and TensorFlow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_presets import OFFSET, SCALE, write_json, write_tokenizer

from kerastl import presets
from kerastl.errors import RecipeError, UserError
from kerastl.export.facts import without_folders
from kerastl.modality.text.beside_weights import vocabulary_keys
from kerastl.modality.text.text_keys import TextData
from kerastl.presets import Scaling, check_preset, label_of, lowercase_of, read_preset, scaling_of
from kerastl.recipe import BackboneRecipe, DataRecipe, Recipe
from kerastl.recipe.rule import default_name

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film"]
VIT = {"image_shape": [32, 32, 3], "patch_size": [8, 8]}
BERT = {"vocabulary_size": 5, "max_sequence_length": 16}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """KerasHub as far as a look for it goes; nothing here imports it."""
    monkeypatch.setattr(
        presets.importlib.util, "find_spec", lambda name: importlib.util.spec_from_loader(name, None)
    )


def written(folder: Path, sizes: dict[str, Any], name: str = "ViTBackbone", **more: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"class_name": name, "registered_name": f"keras_hub>{name}", "config": sizes, **more}
    write_json(folder / "config.json", config)
    (folder / "model.weights.h5").write_bytes(b"weights")
    return f"kerashub:{folder}"


def of_texts(folder: Path, **more: Any) -> str:
    name = written(folder, BERT, "BertBackbone", **more)
    write_tokenizer(folder, PIECES)
    return name


def test_a_preset_tells_what_its_examples_are(tmp_path: Path) -> None:
    vit, bert = read_preset(written(tmp_path / "vit", VIT)), read_preset(of_texts(tmp_path / "bert"))
    assert (vit.modality, vit.tower, vit.vocabulary) == ("image", None, None)
    assert (bert.modality, bert.vocabulary, bert.positions) == ("text", 5, 16)
    two = {
        "vision_encoder": {"class_name": "V", "config": VIT},
        "text_encoder": {"class_name": "T", "config": BERT},
    }
    siglip = read_preset(written(tmp_path / "siglip", two))
    assert (siglip.modality, siglip.tower, siglip.sizes) == ("image", "vision_encoder", VIT)
    assert Recipe(backbone=BackboneRecipe(name=bert.name)).modality == "text"
    assert Recipe(backbone=BackboneRecipe(name=vit.name)).modality == "image"


def test_scale_offset_and_size_are_the_converters(tmp_path: Path) -> None:
    preset = read_preset(written(tmp_path / "vit", VIT))
    assert scaling_of(preset) is None
    values = {"image_size": [48, 48], "scale": SCALE, "offset": OFFSET}
    write_json(preset.folder / "image_converter.json", {"config": values})
    assert scaling_of(preset) == Scaling(tuple(SCALE), tuple(OFFSET), 48)
    write_json(preset.folder / "image_converter.json", {"config": {"scale": 0.5, "offset": None}})
    assert scaling_of(preset) == Scaling(0.5, 0.0, None)
    write_json(preset.folder / "image_converter.json", {"config": {"scale": [1, 2]}})
    with pytest.raises(UserError, match=r"image_converter.json: scale = \[1, 2\]. Expected a number"):
        scaling_of(preset)


def test_the_vocabulary_and_the_case_are_the_tokenizers(tmp_path: Path) -> None:
    preset = read_preset(of_texts(tmp_path / "bert"))
    assert lowercase_of(preset) is True
    spec: Any = type(
        "Spec", (), {"name": "bert", "arguments": (("vocabulary", 5),), "preprocessing": "cased"}
    )
    found = vocabulary_keys(TextData(), preset.folder, spec)
    assert found == {"vocabulary": str(preset.folder / "assets/tokenizer/vocabulary.txt"), "lowercase": False}
    (preset.folder / "assets/tokenizer/vocabulary.txt").unlink()
    (preset.folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"There is no vocab\.txt and no tokenizer\.json"):
        vocabulary_keys(TextData(), preset.folder, spec)


def no_folder(folder: Path) -> str:
    return f"kerashub:{folder / 'none'}"


def no_config(folder: Path) -> str:
    return f"kerashub:{folder}"


def hugging_face(folder: Path) -> str:
    write_json(folder / "config.json", {"model_type": "bert", "hidden_size": 12})
    return f"kerashub:{folder}"


def no_json(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return f"kerashub:{folder}"


def a_list(folder: Path) -> str:
    write_json(folder / "config.json", [])
    return f"kerashub:{folder}"


def no_weights(folder: Path) -> str:
    name = written(folder, VIT)
    (folder / "model.weights.h5").unlink()
    return name


def sharded(folder: Path) -> str:
    name = no_weights(folder)
    for each in ("model.weights.json", "model_00000.weights.h5"):
        (folder / each).write_bytes(b"")
    (folder / "model_00000.weights.h5").rename(folder / "model.weights.0.h5")
    return name


def pieces_of_another_kind(folder: Path) -> str:
    name = written(folder, BERT, "RobertaBackbone")
    write_json(folder / "tokenizer.json", {"class_name": "RobertaTokenizer", "config": {}})
    return name


BROKEN: dict[str, tuple[Callable[[Path], str], str]] = {
    "no folder": (no_folder, r"none': no such folder. Expected kerashub: and a folder"),
    "no name": (lambda folder: "kerashub:", "no such folder"),
    "another folder": (no_config, "there is no config.json in"),
    "Hugging Face's": (hugging_face, "is not KerasHub's. It is a folder of Hugging Face: pass it by --weights"),
    "no JSON": (no_json, "config.json cannot be read as JSON"),
    "a list": (a_list, "holds no JSON object"),
    "audio": (lambda folder: written(folder, {"num_mels": 80}, "WhisperBackbone"), "WhisperBackbone is a network of neither images nor texts"),
    "both": (lambda folder: written(folder, {**VIT, **BERT}, "Both"), "Both is a network of neither images nor texts alone"),
    "no weights": (no_weights, "there is no such file. Expected its weights in .*model.weights.h5"),
    "several files": (sharded, "they lie in 2 files"),
    "another tokenizer": (pieces_of_another_kind, "its RobertaTokenizer cuts texts with tensorflow-text .*Expected a preset with WordPiece"),
    "no tokenizer": (lambda folder: written(folder, BERT, "BertBackbone"), "there is no tokenizer.json. Expected a preset with WordPiece"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_a_backbone_is_refused_when_the_recipe_is_made(tmp_path: Path, kind: str) -> None:
    make, message = BROKEN[kind]
    name = make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Recipe(backbone=BackboneRecipe(name=name))
    assert name in str(caught.value)
    check_preset(of_texts(tmp_path / "control"))


def test_other_weights_and_keys_of_other_examples_are_refused(tmp_path: Path) -> None:
    name = written(tmp_path / "vit", VIT)
    for weights in ("imagenet", str(tmp_path / "vit/model.weights.h5")):
        with pytest.raises(
            RecipeError, match=r"backbone.weights = .*expected pretrained, those of the preset, or none"
        ):
            Recipe(backbone=BackboneRecipe(name=name, weights=weights))
    Recipe(backbone=BackboneRecipe(name=name, weights="none"))


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(tmp_path / "vit", VIT)
    Recipe(backbone=BackboneRecipe(name=name))
    monkeypatch.setattr(presets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed: pip install "kerastl\[kerashub\]"'):
        Recipe(backbone=BackboneRecipe(name=name))
    with pytest.raises(UserError, match=r'pip install "kerastl\[kerashub\]"'):
        read_preset("kerashub:vit_base")


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ("presets/vit_tiny/", "vit_tiny"),
        ("vit_base", "vit_base"),
        ("kaggle://keras/vit/keras/vit_base/3", "vit_base"),
        ("..", Path("..").resolve().name),
    ],
)
def test_a_preset_is_called_by_its_folder(place: str, label: str) -> None:
    assert label_of(f"kerashub:{place}") == label


def test_the_run_is_named_for_it_and_no_folder_is_published(tmp_path: Path) -> None:
    name = written(tmp_path / "Vit.Tiny", VIT)
    recipe = Recipe(backbone=BackboneRecipe(name=name), data=DataRecipe(source="photos"))
    assert default_name(recipe) == "photos-vit.tiny"
    assert without_folders(name) == "kerashub:Vit.Tiny"
    assert without_folders("kerashub:kaggle://keras/vit/keras/vit_base/3").startswith("kerashub:kaggle:")


def test_recipes_are_checked_without_tensorflow(tmp_path: Path) -> None:
    names = [written(tmp_path / "vit", VIT), of_texts(tmp_path / "bert")]
    program = (
        "import sys, importlib.util as u\nu.find_spec = lambda name: 1\n"
        "from kerastl.recipe import BackboneRecipe, Recipe\n"
        f"print([Recipe(backbone=BackboneRecipe(name=name)).modality for name in {names!r}])\n"
        "print(sorted({'tensorflow', 'keras', 'keras_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['image', 'text']", "[]"], done.stderr
