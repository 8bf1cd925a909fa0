"""The registry says what is true of every network, and is read without TensorFlow."""

import dataclasses
import gc
import importlib
import inspect
import itertools
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerastl.backbones import BackboneSpec, backbone_names, get_backbone
from kerastl.errors import UserError
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone
from kerastl.model.cut import split_backbone
from kerastl.model.graph import cut_points, unfreeze_points

FAST = ("mobilenet_025", "mobilenet_v2", "resnet50", "mobilenet_v3_small")
# So many points are tried with a forward pass, and only three in networks with more parameters.
MOST_SPLITS, MOST_PARAMETERS = 6, 30_000_000


def sources(tensor):
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def between(start, end) -> tuple[set, bool]:
    """Operations on the way from `end` back to `start`, and whether the way goes on past it to an input."""
    pending, seen, operations, escaped = [end], {id(start)}, {}, False
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        operation = current._keras_history.operation
        operations[id(operation)] = operation
        escaped = escaped or isinstance(operation, keras.layers.InputLayer)
        pending.extend(sources(current))
    return set(operations.values()), escaped


def trainable_parameters(operations) -> int:
    """Without BatchNorm's, so that it grows under the policy that freezes them, too."""
    return sum(
        math.prod(weight.shape)
        for operation in operations
        if isinstance(operation, keras.Layer)
        for layer in operation._flatten_layers(recursive=True)
        if not isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer._trainable_variables
    )


def weights_of(operations) -> set[int]:
    return {id(weight) for one in operations if isinstance(one, keras.Layer) for weight in one.weights}


def prove(spec: BackboneSpec) -> None:
    """Every point on the graph, written against the definition; a dozen of them by making the parts."""
    backbone = build_backbone(spec, Image(spec.min_image_size).spec)
    assert backbone.count_params() == spec.parameters
    assert backbone.output_shape[-1] == spec.feature_channels
    assert spec.unfreeze_points[0] == "backbone" and spec.unfreeze_points[-1] == "input"
    points = spec.unfreeze_points[1:-1]
    tensors = cut_points(backbone)
    everything = {id(weight) for weight in backbone.weights}
    trained = [0]
    above_of = {}
    for point in points:
        if point not in tensors:
            split_backbone(backbone, point)
        assert not tensors[point].carried
        above, around = between(tensors[point].tensor, backbone.outputs[0])
        below, _ = between(None, tensors[point].tensor)
        assert not around, f"a path leads around {point}"
        assert not above & below, f"{point} has the same layers on both sides"
        assert weights_of(above) | weights_of(below) == everything, f"{point} loses weights"
        assert not weights_of(above) & weights_of(below), f"{point} has the same weights on both sides"
        trained.append(trainable_parameters(above))
        above_of[point] = weights_of(above)
    trained.append(trainable_parameters(backbone.operations))
    assert all(one < next_one for one, next_one in itertools.pairwise(trained)), trained
    assert trained == list(spec.trained_parameters)
    assert unfreeze_points(backbone) == spec.unfreeze_points

    most = MOST_SPLITS if spec.parameters <= MOST_PARAMETERS else 3
    tried = [points[index] for index in np.unique(np.linspace(0, len(points) - 1, most).astype(int))]
    side = spec.min_image_size
    pixels = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype("float32")
    whole = keras.ops.convert_to_numpy(backbone(pixels, training=False))
    for point in tried:
        halves = split_backbone(backbone, point)
        below, above = halves.below, halves.above
        assert {id(weight) for weight in above.weights} == above_of[point]
        assert {id(weight) for weight in below.weights} == everything - above_of[point]
        activation = below(pixels, training=False)[point]
        rest = keras.ops.convert_to_numpy(above(activation, training=False)["backbone"])
        nothing = keras.ops.convert_to_numpy(
            above(keras.ops.zeros_like(activation), training=False)["backbone"]
        )
        # In random networks the signal fades, so differences are measured by the largest output.
        assert np.abs(rest - whole).max() <= 1e-5 * np.abs(whole).max(), point
        assert np.abs(nothing - whole).max() >= 1e-2 * np.abs(whole).max(), point


@pytest.fixture
def free_memory():
    """For what builds large networks."""
    yield
    keras.backend.clear_session()
    gc.collect()


@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("name", FAST)
def test_points_are_real_cuts_and_figures_are_true(name):
    prove(get_backbone(name))


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("name", [name for name in backbone_names() if name not in FAST])
def test_points_are_real_cuts_and_figures_are_true_of_every_backbone(name):
    prove(get_backbone(name))


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("name", ["resnet50_v2", "inception_v3", "densenet121", "efficientnet_b0"])
def test_points_do_not_depend_on_the_image_size(name):
    spec = get_backbone(name)
    assert unfreeze_points(build_backbone(spec, Image(spec.image_size).spec)) == spec.unfreeze_points


def test_the_proof_fails_for_a_tensor_inside_a_residual_block():
    spec = get_backbone("resnet50")
    inside = ("backbone", "conv5_block1_out", "conv4_block3_2_relu", "input")
    with pytest.raises(UserError, match="Unknown unfreeze point 'conv4_block3_2_relu'"):
        prove(dataclasses.replace(spec, unfreeze_points=inside))
    backbone = build_backbone(spec, Image(32).spec)
    _, around = between(backbone.get_layer("conv4_block3_2_relu").output, backbone.outputs[0])
    assert around


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": 218_543},
        {"feature_channels": 255},
        {"unfreeze_points": ("backbone", "conv_pw_12_relu", "input")},
        {"unfreeze_points": ("backbone", "conv_pw_11_relu", "conv_pw_12_relu", "input")},
    ],
)
def test_the_proof_fails_for_a_false_entry(change):
    with pytest.raises(AssertionError):
        prove(dataclasses.replace(get_backbone("mobilenet_025"), **change))


def test_every_builder_of_keras_is_registered():
    builders = {
        name
        for name, value in inspect.getmembers(keras.applications, inspect.isfunction)
        if "include_top" in inspect.signature(value).parameters
    }
    assert len(builders) >= 38
    assert builders == {get_backbone(name).builder for name in backbone_names()}


@pytest.mark.parametrize("name", backbone_names())
def test_preprocessing_is_what_the_network_expects(name):
    spec = get_backbone(name)
    pixels = np.array([[[[0.0, 127.5, 255.0]]]], "float32")
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {
        "caffe": pixels[..., ::-1] - [103.939, 116.779, 123.68],
        "tf": pixels / 127.5 - 1,
        "torch": (pixels / 255 - mean) / deviation,
        "identity": pixels,
    }[spec.preprocessing]
    module = importlib.import_module(f"keras.applications.{spec.module}")
    np.testing.assert_allclose(module.preprocess_input(pixels.copy()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", backbone_names())
def test_smallest_size_is_what_the_builder_says(name):
    spec = get_backbone(name)
    below = spec.min_image_size - 1
    with pytest.raises(ValueError, match=f"at least {spec.min_image_size}"):
        getattr(keras.applications, spec.builder)(
            include_top=False, weights=None, input_shape=(below, below, 3)
        )
    with pytest.raises(UserError, match=f"backbone.image_size = {below} .* at least {spec.min_image_size}"):
        build_backbone(spec, Image(below).spec)


def test_names_and_unfreeze_points_are_words_that_can_be_typed():
    for name in backbone_names():
        spec = get_backbone(name)
        assert 3 <= len(spec.unfreeze_points) == len(set(spec.unfreeze_points))
        assert all(point.replace("_", "").isalnum() for point in spec.unfreeze_points)
        assert spec.published and all(file.url.startswith("https://") for file in spec.published)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match=r"Unknown backbone 'resnet5O'\. Did you mean 'resnet50'"):
        get_backbone("resnet5O")


def test_listing_needs_no_tensorflow():
    code = (
        "import sys, kerastl.backbones as b; assert len(b.backbone_names()) >= 39; "
        "assert b.get_backbone('resnet50').unfreeze_points; "
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_points_have_the_same_names_in_every_build():
    spec = get_backbone("inception_v3")
    first, second = build_backbone(spec, Image(75).spec), build_backbone(spec, Image(75).spec)
    unnamed = [layer.name for layer in second.layers if layer.name.startswith("max_pooling2d")]
    assert unnamed != ["max_pooling2d", "max_pooling2d_1"], "Keras numbers them by process"
    assert unfreeze_points(first) == unfreeze_points(second) == spec.unfreeze_points
    below = split_backbone(second, "max_pooling2d_1").below
    assert below.outputs[0].shape[-1] == 192
