"""What is frozen does not move in real training steps, and what is thawed does."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastl.backbones import BackboneSpec, get_backbone
from kerastl.errors import UserError
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone, build_model
from kerastl.model.cut import cut, split_backbone
from kerastl.model.freezing import blocks, depth_of, freeze_backbone, thaw
from kerastl.model.graph import walk_layers
from kerastl.recipe.schema import HeadRecipe

SPEC = get_backbone("mobilenet_025")
POINT = "conv_pw_11_relu"
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.uniform(0, 255, (8, 32, 32, 3)).astype("float32")
LABELS = np.arange(8) % 3


def give_the_logits_a_kernel(network):
    """Let gradients reach the backbone from the first step on; from a kernel of zeros they round to nothing at gamma's 1."""
    kernel = network.logits.kernel
    kernel.assign(np.random.default_rng(3).normal(size=kernel.shape))
    return network


@pytest.fixture
def network():
    built = build_model(
        build_backbone(SPEC, Image(32).spec), SPEC, HeadRecipe(), 3, np.full(256, 0.1), np.full(256, 2.0)
    )
    # With the statistics that a new network starts with its signal fades to nothing in 27 layers.
    normalizations = [
        layer for layer in walk_layers(built.backbone) if isinstance(layer, layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0
    built.model(PIXELS, training=True)
    for layer in normalizations:
        layer.momentum = 0.9
    return give_the_logits_a_kernel(built)


@pytest.fixture
def nested():
    """A backbone whose BatchNorm stands inside Sequential blocks."""
    entry = layers.Input((32, 32, 3))
    x = entry
    for index in range(2):
        block = [layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU()]
        x = keras.Sequential(block, name=f"block_{index}")(x)
    backbone = keras.Model(entry, x, name="nested")
    points = ("backbone", "block_0", "input")
    spec = BackboneSpec(
        "nested", "None", "mobilenet", "tf", 32, 32, backbone.count_params(), 4, points, (0,) * len(points)
    )
    return give_the_logits_a_kernel(build_model(backbone, spec, HeadRecipe(), 3))


def few_steps(model, inputs=PIXELS):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs, LABELS, batch_size=4, epochs=1, verbose=0)


def moved(before, after):
    return {name for name, value in after.items() if not np.array_equal(value, before[name])}


def values(model):
    return {weight.path: np.array(weight) for weight in model.weights}


def batchnorm_paths(part, *attributes):
    return {
        getattr(layer, attribute).path
        for layer in walk_layers(part)
        if isinstance(layer, layers.BatchNormalization)
        for attribute in attributes
    }


STATISTICS = ("moving_mean", "moving_variance")


def test_nothing_but_the_head_moves_in_the_head_phase(network):
    freeze_backbone(network)
    before = values(network.model)
    few_steps(network.model)
    assert moved(before, values(network.model)) == {"logits/kernel", "logits/bias"}
    assert [variable.path for variable in network.model.trainable_variables] == [
        "logits/kernel",
        "logits/bias",
    ]


def test_without_freezing_statistics_do_move(network):
    before = values(network.model)
    few_steps(network.model)
    assert batchnorm_paths(network.backbone, *STATISTICS) <= moved(before, values(network.model))


@pytest.mark.parametrize("fixture", ["network", "nested"])
@pytest.mark.parametrize("through", ["model", "suffix"])
@pytest.mark.parametrize("policy", ["frozen", "affine", "train"])
def test_batchnorm_policy(request, fixture, policy, through):
    network = request.getfixturevalue(fixture)
    point = network.spec.unfreeze_points[1]
    halves = split_backbone(network.backbone, point)
    below, above = halves.below, halves.above
    parts = cut(network, point)
    thaw(network, point, policy)
    before = values(network.model)
    if through == "suffix":
        few_steps(parts.suffix, parts.prefix("activation").predict(PIXELS, verbose=0)["activation"])
    else:
        few_steps(network.model)
    changed = moved(before, values(network.model))

    assert not changed & {weight.path for weight in below.weights}
    kernels = {weight.path for weight in above.trainable_weights} - batchnorm_paths(above, "beta")
    assert {path for path in kernels if path.endswith("kernel")} <= changed
    statistics, affine = batchnorm_paths(above, *STATISTICS), batchnorm_paths(above, "gamma", "beta")
    assert statistics and affine
    assert statistics & changed == (statistics if policy == "train" else set())
    assert affine & changed == (set() if policy == "frozen" else affine)
    trained = {variable.path for variable in network.model.trainable_variables}
    assert affine & trained == (set() if policy == "frozen" else affine)
    assert "standardize/mean" not in changed


@pytest.mark.parametrize("policy", ["frozen", "affine"])
def test_batchnorm_normalises_with_its_moving_statistics(network, policy):
    thaw(network, POINT, policy)
    darker = PIXELS[:3] * 0.3
    inference = np.array(network.model(darker, training=False))
    np.testing.assert_array_equal(network.model(darker, training=True), inference)
    thaw(network, POINT, "train")
    assert np.abs(network.model(darker, training=True) - inference).max() > 1e-2


def test_thawing_again_forgets_what_was_thawed_before(network):
    thaw(network, "input", "train")
    thaw(network, POINT, "affine")
    thaw(network, POINT, "frozen")
    halves = split_backbone(network.backbone, POINT)
    below, above = halves.below, halves.above
    trained = {id(variable) for variable in network.model.trainable_variables}
    assert not trained & {id(weight) for weight in below.weights}
    assert not {v.path for v in above.variables if id(v) in trained} & batchnorm_paths(above, "gamma", "beta")
    thaw(network, "backbone")
    assert len(network.model.trainable_variables) == 2
    thaw(network, "input", "train")
    everything = sum(
        weight.path.endswith(("kernel", "gamma", "beta", "bias")) for weight in network.model.weights
    )
    assert len(network.model.trainable_variables) == everything


def test_policy_survives_saving(network, tmp_path):
    thaw(network, POINT, "frozen")
    network.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    before = values(again)
    few_steps(again)
    assert not moved(before, values(again)) & batchnorm_paths(network.backbone, *STATISTICS)


def test_trainable_parameters_grow_along_the_points(network):
    counts = []
    for point in SPEC.unfreeze_points:
        thaw(network, point, "affine")
        counts.append(sum(int(np.prod(v.shape)) for v in network.model.trainable_variables))
        assert sum(block.trainable_parameters for block in blocks(network, point)) == counts[-1]
    assert counts == sorted(set(counts))


def test_unknown_points_and_policies_are_refused(network):
    with pytest.raises(UserError, match="Did you mean 'conv_pw_11_relu'"):
        thaw(network, "conv_pw_11_rel")
    with pytest.raises(UserError, match="Unknown unfreeze point"):
        blocks(network, "nowhere")
    with pytest.raises(ValueError, match="unknown BatchNorm policy 'half'"):
        thaw(network, POINT, "half")


@pytest.mark.parametrize("point", ["backbone", POINT, "input"])
def test_blocks_hold_every_weight_above_the_cut_once(network, point):
    found = blocks(network, point)
    ids = [id(variable) for block in found for variable in block.variables]
    assert len(ids) == len(set(ids))
    above = split_backbone(network.backbone, point).above
    expected = {id(weight) for part in (network.head, above) if part for weight in part.weights}
    assert set(ids) == expected
    names = [block.name for block in found]
    points = SPEC.unfreeze_points
    assert names == ["head", *points[1 : points.index(point) + 1]]


def test_depth_counts_from_the_head(network):
    found = blocks(network, "conv_pw_10_relu")
    by_path = {weight.path: weight for weight in network.model.weights}
    assert depth_of(by_path["logits/kernel"], found) == 0
    assert depth_of(network.backbone.get_layer("conv_pw_13").kernel, found) == 1
    assert depth_of(network.backbone.get_layer("conv_pw_12").kernel.value, found) == 2
    assert depth_of(network.backbone.get_layer("conv_pw_11_bn").gamma, found) == 3
    with pytest.raises(KeyError, match="conv_pw_10/kernel"):
        depth_of(network.backbone.get_layer("conv_pw_10").kernel, found)


def test_a_cut_between_points_makes_its_own_block(network):
    found = blocks(network, "conv_dw_12_relu")
    assert [block.name for block in found] == ["head", "conv_pw_12_relu", "conv_dw_12_relu"]
