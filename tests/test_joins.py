"""Heads that read several depths of a network: the whole model, its parts at every cut, what is stored, and what a run says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import Kerastl
from test_carried import COUNT, EVERY, stored, texts
from toy_transformer import network_on, transformer, unmasked

from kerastl.backbones import get_backbone
from kerastl.errors import UserError
from kerastl.export.facts import model_facts
from kerastl.features.readers import read_by
from kerastl.modality.image import Image
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import Cut, cut
from kerastl.model.head_input import LAST, MOST_JOINS, head_input, join_names
from kerastl.model.heads import embedding_model
from kerastl.recipe import load_recipe, resolve
from kerastl.recipe.schema import HeadRecipe
from kerastl.run import Run
from kerastl.training.start import with_reads

SPEC = get_backbone("mobilenet_025")
JOINS = ("conv_pw_6_relu", "conv_pw_10_relu", LAST)
PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")


def network_of(features: str = ",".join(JOINS), pooling: str = "avg") -> Network:
    keras.utils.set_random_seed(1)
    backbone = build_backbone(SPEC, Image(32).spec)
    for layer in backbone.layers:  # random networks fade
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.05))
    network = build_model(backbone, SPEC, HeadRecipe(features=features, pooling=pooling), 3)
    kernel = network.logits.kernel
    kernel.assign(np.random.default_rng(3).normal(size=kernel.shape))
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of()


def suffix_inputs(network: Network, parts: Cut, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What the suffix takes, made as it is made of what is stored."""
    found = {
        name: np.array(each) for name, each in parts.prefix(*parts.outputs)(pixels, training=False).items()
    }
    below = network.reads.within(parts.under)
    taken = {"activation": found["activation"]} if "activation" in found else {"pixels": pixels}
    return taken | ({"below": below.of(found["joins"])} if below.names else {})


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax"])
@pytest.mark.parametrize(
    "point", ["backbone", "conv_pw_11_relu", "conv_pw_10_relu", "conv_pw_3_relu", "input"]
)
def test_prefix_and_suffix_are_the_whole_to_the_bit(pooling: str, point: str) -> None:
    network = network_of(pooling=pooling)
    parts, whole = cut(network, point), np.array(network.model(PIXELS, training=False))
    given = suffix_inputs(network, parts, PIXELS)
    entry = given if len(given) > 1 else next(iter(given.values()))
    np.testing.assert_array_equal(parts.suffix(entry, training=False), whole)
    features = network.reads.of(np.array(parts.prefix("joins")(PIXELS, training=False)["joins"]))
    np.testing.assert_array_equal(network.head(features, training=False), whole)
    np.testing.assert_array_equal(embedding_model(network.model)(PIXELS, training=False), features)
    assert parts.under == join_names(SPEC)[: len(parts.under)]
    if "below" in given:
        given["below"] = np.zeros_like(given["below"])
        assert np.abs(np.array(parts.suffix(given, training=False)) - whole).max() > 1e-3, "the control"


def test_what_lies_below_is_the_first_part_of_all_joins(network: Network) -> None:
    parts = cut(network, "conv_pw_10_relu")
    found = parts.prefix("joins", "under")(PIXELS, training=False)
    width = found["under"].shape[2]
    assert width < found["joins"].shape[2]
    np.testing.assert_array_equal(found["under"], found["joins"][:, :, :width])
    weights = {id(each) for each in parts.prefix("under", "activation").weights}
    assert not weights & {id(each) for each in parts.suffix.weights}, (
        "it can be computed when what lies above is trained"
    )


def test_the_whole_is_saved_and_loaded_by_keras_alone(network: Network, tmp_path: Path) -> None:
    network.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(PIXELS, verbose=0), network.model.predict(PIXELS, verbose=0))
    assert {type(each).__module__.partition(".")[0] for each in again._flatten_layers()} == {"keras"}


def test_features_stand_in_the_order_of_the_network_and_only_those_that_are_kept_can_be_asked_for() -> None:
    backbone = build_backbone(SPEC, Image(32).spec)
    reads = head_input(HeadRecipe(features="backbone,conv_pw_6_relu"), SPEC, backbone)
    assert reads.names == ("conv_pw_6_relu", LAST) and reads.widths(0) == (128, 256)
    every = head_input(HeadRecipe(features="joins", pooling="avgmax"), SPEC, backbone)
    assert every.names == join_names(SPEC) and len(every.widths(0)) == 2 * len(every.names)
    assert head_input(HeadRecipe(features="last"), SPEC, backbone).channels is None
    with pytest.raises(
        UserError, match=r"'conv_pw_66_relu'.*Did you mean 'conv_pw_6_relu'\? Expected auto, last, joins"
    ):
        head_input(HeadRecipe(features="conv_pw_66_relu"), SPEC, backbone)


@pytest.mark.parametrize("name", ["densenet201", "resnet50", "vgg16"])
def test_of_a_deep_network_some_joins_are_kept_from_its_whole_depth(name: str) -> None:
    spec = get_backbone(name)
    names = join_names(spec)
    assert len(names) <= MOST_JOINS and names[-1] == LAST and len(set(names)) == len(names)
    places = [spec.unfreeze_points.index(each) for each in names]
    assert places == sorted(places, reverse=True) and places[0] == len(spec.unfreeze_points) - 2


@pytest.mark.parametrize("mode", ["disk", "off"])
def test_a_mask_and_joins_are_carried_together(tmp_path: Path, mode: str) -> None:
    network = network_on(transformer(), 3, features="joins")
    assert network.reads.names[0] == "block_0"
    parts = cut(network, "block_0")
    features, frozen = stored(parts, network, tmp_path, ("joins", "activation"), mode)
    features = read_by(features, network.reads, parts)
    passes = frozen.forward_passes
    batch = features.activation_batch(EVERY, 0)
    assert isinstance(batch, dict) and set(batch) == {"activation", "below", "padding_mask"}
    assert frozen.forward_passes - passes == (0 if mode == "disk" else COUNT), (
        "one pass for both that are live"
    )
    inputs = {name: keras.ops.convert_to_tensor(values) for name, values in texts()[0].items()}
    whole = network.model(inputs, training=False)
    np.testing.assert_allclose(parts.suffix(batch, training=False), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.head(features.pooled_batch(EVERY, 0)), whole, rtol=1e-4, atol=1e-5)
    wrong = parts.suffix(unmasked(batch), training=False)
    assert np.abs(np.array(wrong) - np.array(whole)).max() > 1e-3, "the control"


@pytest.mark.parametrize(
    ("asked", "outputs", "pooling"),
    [
        ({"features": "last"}, [LAST], "avg"),
        ({"features": "last", "pooling": "gem"}, [LAST], "gem"),
        ({"features": "joins"}, list(join_names(SPEC)), "avg"),
        ({"features": "conv_pw_6_relu,backbone", "pooling": "max"}, ["conv_pw_6_relu", LAST], "max"),
    ],
)
def test_settings_and_card_name_what_the_head_reads(
    asked: dict[str, str], outputs: list[str], pooling: str, tmp_path: Path
) -> None:
    recipe = resolve(
        load_recipe(flags={"data.source": "digits"} | {f"head.{k}": v for k, v in asked.items()}), 100, 10
    )
    named = with_reads(recipe, head_input(recipe.head, SPEC, build_backbone(SPEC, Image(32).spec)))
    told = model_facts(named, Run(tmp_path / "run"), ["a", "b"], {})["embedding"]
    assert told == {"outputs": outputs, "pooling": pooling}
    assert model_facts(resolve(load_recipe("digits"), 100, 10), Run(tmp_path / "run"), ["a"], {})["embedding"] == {
        "outputs": [LAST], "pooling": "avg",
    }, "a run of an earlier version, which did not say"  # fmt: skip


def test_a_run_says_which_outputs_its_head_reads_and_another_one_takes_them_over(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    words = ["--data", solid_colours, "--backbone", "mobilenet_025", "--weights", "none", "--no-export"]
    words += ["--set", "cache.directory=store", "--set", "augment.views=1", "--set", "backbone.image_size=32"]
    words += ["--unfreeze-from", "conv_pw_10_relu", "--finetune-epochs", "1"]
    done = kerastl("fit", *words)
    assert done.returncode == 0, done.stderr
    assert "Head: reads " in done.stderr and "left out" in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    head = tomllib.loads((run / "recipe.toml").read_text())["head"]
    assert head["features"].split(",")[-1] == LAST and head["pooling"] in ("avg", "avgmax")
    report = json.loads((run / "report.json").read_text())
    assert report["phases"][0]["solved"].startswith("least squares, penalty")
    again = kerastl("fit", run / "recipe.toml", "--no-export")
    assert again.returncode == 0 and "Head: reads" not in again.stderr and "no forward pass" in again.stderr
    every = [json.loads((each / "report.json").read_text()) for each in (tmp_path / "runs").iterdir()]
    assert len(every) == 2 and every[0]["metrics"] == every[1]["metrics"]
