"""Networks of one's own: any functional Keras model of images in a `.keras` file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import Kerastl
from keras import layers

from kerastl import build, finetune, from_folder, train_head, unfreeze
from kerastl.backbones import get_backbone
from kerastl.errors import RecipeError, UserError
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone
from kerastl.model.cut import split_backbone
from kerastl.model.weights import load_weights
from kerastl.recipe import BackboneRecipe, Recipe, resolve
from kerastl.recipe.schema import FinetunePhaseRecipe

SIDE = 32


def base(side: int | None = SIDE) -> keras.Model:
    """Two residual blocks of eight channels."""
    images = keras.Input((side, side, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(images)
    for number in (1, 2):
        y = layers.Conv2D(8, 3, padding="same", name=f"block{number}_conv")(x)
        y = layers.BatchNormalization(name=f"block{number}_bn")(y)
        y = layers.ReLU(name=f"block{number}_relu")(y)
        x = layers.Add(name=f"block{number}_out")([x, y])
    return keras.Model(images, x, name="base")


def wrapped(side: int | None = SIDE, rescale: bool = True) -> keras.Model:
    """As tutorials write it: rescaling, the base as one layer, pooling, classifier."""
    images = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(images) if rescale else images
    x = base(side)(x, training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(5, activation="softmax")(x))


def saved(model: keras.Model, folder: Path, name: str = "mine.keras") -> str:
    model.save(folder / name)
    return str(folder / name)


def pixels(count: int = 4, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.float32)


def test_what_lies_below_the_classifier_is_taken_and_cut_within_the_base(tmp_path: Path) -> None:
    model = wrapped()
    spec = get_backbone(saved(model, tmp_path))
    assert spec.unfreeze_points == ("backbone", "block1_out", "stem", "input")
    assert (spec.image_size, spec.feature_channels, spec.preprocessing) == (SIDE, 8, "its own")
    assert spec.parameters == model.get_layer("base").count_params()
    backbone = build_backbone(spec, Image(SIDE).spec)
    expected = keras.Model(model.inputs[0], model.layers[-3].input)(pixels(), training=False)
    found = backbone(pixels(), training=False)
    assert np.array_equal(found, expected)
    for point in spec.unfreeze_points[1:-1]:
        halves = split_backbone(backbone, point)
        below, above = halves.below, halves.above
        assert below is not None and above is not None
        assert np.array_equal(
            above(below(pixels(), training=False)[point], training=False)["backbone"], expected
        )


def test_a_network_that_says_no_size_takes_any(tmp_path: Path) -> None:
    spec = get_backbone(saved(wrapped(None), tmp_path))
    assert (spec.image_size, spec.max_image_size) == (224, None)
    assert build_backbone(spec, Image(48).spec).output_shape == (None, 24, 24, 8)


def test_the_name_tells_graphs_with_the_same_weights_apart(tmp_path: Path) -> None:
    with_rescaling, without = wrapped(), wrapped(rescale=False)
    without.set_weights(with_rescaling.get_weights())
    files = [saved(with_rescaling, tmp_path, "one.keras"), saved(without, tmp_path, "two.keras")]
    names = [get_backbone(file).name for file in files]
    assert names[0].split("_")[-1] != names[1].split("_")[-1]
    again = get_backbone(saved(with_rescaling, tmp_path, "mine3.keras")).name
    assert again.split("_")[-1] == names[0].split("_")[-1]


def test_a_file_that_was_written_anew_is_looked_at_anew(tmp_path: Path) -> None:
    path = saved(wrapped(), tmp_path)
    assert get_backbone(path).image_size == SIDE
    saved(wrapped(40), tmp_path)
    assert get_backbone(path).image_size == 40


def test_its_weights_are_those_of_the_file_unless_others_are_asked_for(tmp_path: Path) -> None:
    path = saved(wrapped(), tmp_path)
    spec = get_backbone(path)
    backbone = build_backbone(spec, Image(SIDE).spec)
    kernel = backbone.get_layer("stem").get_weights()[0]
    loaded = load_weights(backbone, spec, "pretrained")
    assert loaded.origin == "file" and loaded.path == path and len(loaded.sha256 or "") == 64
    assert np.array_equal(backbone.get_layer("stem").get_weights()[0], kernel)
    load_weights(backbone, spec, "none")
    assert not np.array_equal(backbone.get_layer("stem").get_weights()[0], kernel)
    with pytest.raises(UserError, match="Keras publishes none"):
        load_weights(backbone, spec, "imagenet")


def test_without_weights_an_adapted_normalization_stays_what_it_was(tmp_path: Path) -> None:
    normalization = layers.Normalization(name="scale")
    normalization.adapt(pixels(16))
    images = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(images, base()(normalization(images), training=False))
    spec = get_backbone(saved(model, tmp_path))
    backbone = build_backbone(spec, Image(SIDE).spec)
    kernels = [each.numpy() for each in backbone.weights if each.path.endswith("kernel")]
    load_weights(backbone, spec, "none")
    drawn = [each.numpy() for each in backbone.weights if each.path.endswith("kernel")]
    assert not any(np.array_equal(*each) for each in zip(kernels, drawn, strict=True)), "the rest is random"
    np.testing.assert_array_equal(
        backbone.get_layer("scale").get_weights()[0], normalization.get_weights()[0]
    )
    expected = backbone(pixels(), training=False)
    backbone.save(tmp_path / "trained.keras")
    again = keras.saving.load_model(tmp_path / "trained.keras")
    np.testing.assert_array_equal(again(pixels(), training=False), expected)


BROKEN = {
    "grey": (lambda: keras.Sequential([keras.Input((SIDE, SIDE, 1)), layers.Conv2D(4, 3)]), "its input has the shape"),
    "oblong": (lambda: keras.Sequential([keras.Input((SIDE, 40, 3)), layers.Conv2D(4, 3)]), "its input has the shape"),
    "vectors": (lambda: keras.Sequential([keras.Input((9,)), layers.Dense(4)]), "its input has the shape"),
    "flat": (
        lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(4)]),
        "no activation",
    ),
    "two inputs": (
        lambda: keras.Model(
            [a := keras.Input((8, 8, 3)), b := keras.Input((8, 8, 3))], layers.Conv2D(2, 3)(layers.Add()([a, b]))
        ),
        "it has 2 inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_network_of_images_is_refused(tmp_path: Path, kind: str) -> None:
    make, message = BROKEN[kind]
    with pytest.raises(UserError, match=message) as caught:
        get_backbone(saved(make(), tmp_path))
    assert "mine.keras" in str(caught.value) and "Expected a functional" in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="Keras cannot load it"):
        get_backbone(str(path))
    with pytest.raises(UserError, match="No such file"):
        get_backbone(str(tmp_path / "other.keras"))
    with pytest.raises(RecipeError, match=r"backbone\.name = .*no such file"):
        Recipe(backbone=BackboneRecipe(name=str(tmp_path / "other.keras")))


@pytest.mark.parametrize(
    ("backbone", "finetune", "message"),
    [
        ({"image_size": 64}, {}, "takes images of 32 pixels alone"),
        ({}, {"unfreeze_from": "block1"}, "Did you mean 'block1_out'"),
    ],
)
def test_a_recipe_is_checked_against_the_network_in_the_file(
    tmp_path: Path, backbone: dict[str, int], finetune: dict[str, str], message: str
) -> None:
    path = saved(wrapped(), tmp_path)
    recipe = Recipe(
        backbone=BackboneRecipe(name=path, **backbone), finetune_phase=FinetunePhaseRecipe(**finetune)
    )
    with pytest.raises(RecipeError, match=message):
        resolve(recipe, 100, 3)


@pytest.mark.slow
def test_the_whole_job_on_a_network_of_ones_own(
    tmp_path: Path, solid_colours: Path, kerastl: Kerastl
) -> None:
    saved(wrapped(rescale=False), tmp_path)
    done = kerastl(
        "fit", "--data", solid_colours, "--backbone", "mine.keras", "--head-epochs", "30", "--finetune-epochs", "2",
        "--augment", "none", "--name", "own",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "takes pixels as they are, 0..255" in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    report = json.loads((run / "report.json").read_text())
    assert report["metrics"]["accuracy"] >= 0.9 and report["weights_origin"] == "file"
    card = (tmp_path / "saved_models/own/1/assets.extra/model_card.md").read_text()
    assert "Network: `mine.keras`" in card and str(tmp_path) not in card
    assert "check it with the publisher of `mine.keras`" in card
    # The trained model needs the file no more.
    (tmp_path / "mine.keras").unlink()
    done = kerastl("evaluate", run, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == report["metrics"]["accuracy"]
    shutil.rmtree(tmp_path / "saved_models")
    assert kerastl("export", run).returncode == 0


def with_a_way_around() -> keras.Model:
    """A network whose upper part takes its images as well, rescaled."""
    images = keras.Input((SIDE, SIDE, 3))
    rescaled = layers.Rescaling(1 / 127.5, offset=-1)(images)
    stem = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(rescaled)
    block = layers.Add(name="block")([stem, layers.Conv2D(4, 3, padding="same", name="inside")(stem)])
    small = layers.AveragePooling2D(2)(rescaled)
    joined = layers.Concatenate(name="joined")([layers.Conv2D(4, 1, name="deep")(block), small])
    return keras.Model(images, layers.Conv2D(8, 3, name="last")(joined))


def test_images_that_the_part_above_takes_too_are_read_beside_its_activations(
    tmp_path: Path, solid_colours: Path
) -> None:
    data = from_folder(solid_colours)
    net = build(
        with_a_way_around(),
        data,
        cache={"directory": str(tmp_path / "store")},
        head_epochs=2,
        augment="none",
        unfreeze_from="backbone",
    )
    assert net.unfreeze_points == ("backbone", "joined", "block", "stem", "input")
    train_head(net)
    unfreeze(net, "block")
    train = net.setup.train
    batch = train.activation_batch(np.arange(3), 0)
    assert isinstance(batch, dict) and set(batch) == {"activation", "pixels"}
    logits = net.setup.parts.suffix(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
    whole = net.model(keras.ops.convert_to_tensor(batch["pixels"], "float32"), training=False)
    np.testing.assert_allclose(logits, whole, rtol=1e-2, atol=1e-3)  # activations are kept in sixteen bits
    phase = finetune(net, finetune_epochs=2)
    assert len(phase.history) == 2
    net.close()
