"""The model is one, its parts share its weights, and it needs nothing but Keras to be loaded."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from toy_transformer import network_on, sentences, transformer, unmasked

from kerastl.backbones import get_backbone
from kerastl.errors import UserError
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone, build_model
from kerastl.model.cut import cut
from kerastl.model.graph import cut_points, unfreeze_points
from kerastl.model.head_input import POOLINGS, pooled_features
from kerastl.recipe.schema import HeadRecipe

SPEC = get_backbone("mobilenet_025")
POINTS = ("backbone", "conv_pw_11_relu", "conv_pw_3_relu", "input")


def make_network(pooling="avg", size=32, spec=SPEC, **head):
    network = build_model(
        build_backbone(spec, Image(size).spec), spec, HeadRecipe(pooling=pooling, **head), 3
    )
    # A new head answers zero to everything; random networks answer it nearly. Neither would show a difference.
    kernel = network.logits.kernel
    kernel.assign(np.random.default_rng(3).normal(size=kernel.shape))
    for layer in network.backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.05))
    return network


def pixels_of(size=32, count=4, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, size, size, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.mark.parametrize("point", POINTS)
def test_prefix_and_suffix_are_the_whole(network, point):
    pixels = pixels_of()
    whole = np.array(network.model(pixels, training=False))
    assert whole.std(0).min() > 1e-3, "all images look the same"
    parts = cut(network, point)
    names = [name for name in ("activation", "sequence", "pooled") if name in parts.outputs]
    together = parts.prefix(*names)(pixels, training=False)
    for name in names:
        np.testing.assert_array_equal(parts.prefix(name)(pixels, training=False)[name], together[name])
    entry = pixels if point == "input" else together["activation"]
    np.testing.assert_array_equal(parts.suffix(entry, training=False), whole)
    average = pooled_features(np.array(together["pooled"]), "avg")
    np.testing.assert_array_equal(network.head(average, training=False), whole)


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem"])
def test_what_is_stored_serves_a_head_of_any_pooling(pooling):
    network = make_network(pooling)
    pixels = pixels_of()
    features = np.array(cut(network, "conv_pw_11_relu").prefix("pooled")(pixels, training=False)["pooled"])
    assert features.shape == (4, len(POOLINGS), 256) and features.dtype == np.float32
    logits = network.head(pooled_features(features, pooling), training=False)
    np.testing.assert_array_equal(logits, network.model(pixels, training=False))


def test_the_suffix_of_input_takes_the_inputs_and_nothing_lies_below(network):
    parts = cut(network, "input")
    assert parts.carried == ("pixels",) and "activation" not in parts.outputs
    np.testing.assert_array_equal(parts.suffix(pixels_of()), network.model(pixels_of()))


@pytest.mark.parametrize("point", POINTS)
def test_parts_share_all_weights_with_the_whole(network, point):
    parts = cut(network, point)
    whole = {id(weight) for weight in network.model.weights}
    above = {id(weight) for weight in parts.suffix.weights}
    below = {
        id(weight) for name in parts.outputs if name == "activation" for weight in parts.prefix(name).weights
    }
    assert not below & above and below | above == whole


def test_training_the_suffix_trains_the_whole():
    network = make_network()
    pixels = pixels_of()
    parts = cut(network, "conv_pw_11_relu")
    before = network.model.predict(pixels, verbose=0)
    activation = parts.prefix("activation").predict(pixels, verbose=0)["activation"]
    parts.suffix.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts.suffix.fit(activation, np.array([0, 1, 2, 0]), epochs=2, verbose=0)
    after = network.model.predict(pixels, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, parts.suffix.predict(activation, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("point", ["conv_pw_99_relu", "conv4_block6_out", ""])
def test_an_unknown_point_is_refused(network, point):
    with pytest.raises(UserError, match=f"Unknown unfreeze point '{point}' for backbone 'mobilenet_025'"):
        cut(network, point)


@pytest.mark.slow
def test_model_loads_with_keras_alone(tmp_path):
    pixels, expected = pixels_of(), {}
    for pooling in ("avg", "max", "avgmax", "gem"):
        network = make_network(pooling, hidden=(7,), dropout=0.2)
        # Cutting must not leave traces in what is saved.
        cut(network, "conv_pw_11_relu")
        expected[pooling] = network.model.predict(pixels, verbose=0)
        network.model.save(tmp_path / f"{pooling}.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    (tmp_path / "alone.py").write_text(
        "import glob, sys, keras, numpy as np\n"
        "for name in glob.glob('*.keras'):\n"
        "    m = keras.models.load_model(name)\n"
        "    assert m.inputs[0].name == 'pixels' and m.layers[1].name == 'mobilenet_025'\n"
        "    np.save(name + '.npy', m.predict(np.load('pixels.npy'), verbose=0))\n"
        "assert not any(name.startswith('kerastl') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "alone.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for pooling, logits in expected.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{pooling}.keras.npy"), logits, err_msg=pooling)


def test_logits_and_features_are_float32_in_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = make_network("gem", hidden=(4,))
        parts = cut(network, "conv_pw_11_relu")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    outputs = parts.prefix("activation", "pooled")(pixels_of(), training=False)
    activation, features = outputs["activation"], outputs["pooled"]
    assert keras.backend.standardize_dtype(activation.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(features.dtype) == "float32"
    assert keras.backend.standardize_dtype(parts.suffix(activation).dtype) == "float32"
    assert network.model.compute_dtype == "float32" or network.model.outputs[0].dtype == "float32"
    assert {weight.dtype for weight in network.model.weights} == {"float32"}


def test_efficientnet_has_the_scale_that_its_published_weights_need(monkeypatch):
    # keras.applications inserts the layer only under weights="imagenet"; build that and compare.
    from keras.src.applications import efficientnet

    spec = get_backbone("efficientnet_b0")
    ours = build_backbone(spec, Image(32).spec)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *a, **k: "nothing.h5")
    monkeypatch.setattr(efficientnet.Functional, "load_weights", lambda *a, **k: None)
    published = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(32, 32, 3)
    )
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    weights = published.get_weights()
    weights[0], weights[1] = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2
    stems = []
    for network in (published, ours, plain):
        network.set_weights(weights)
        stem = keras.Model(network.inputs[0], network.get_layer("stem_activation").output)
        stems.append(np.array(stem(pixels_of(), training=False)))
    assert stems[0].std() > 0.01
    np.testing.assert_array_equal(stems[1], stems[0])
    assert np.abs(stems[2] - stems[0]).max() > 0.1 * stems[0].max()


def diamonds():
    """Two residual blocks of unnamed layers, then a branch that spans a third."""
    entry = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 1)(entry)
    for _ in range(2):
        x = layers.Add()([x, layers.Conv2D(4, 1)(layers.ReLU()(x))])
    y = layers.Add()([x, layers.Conv2D(4, 1)(x)])
    z = layers.Add()([layers.Conv2D(4, 1)(y), layers.Conv2D(4, 1)(x)])
    return keras.Model(entry, layers.Conv2D(5, 1, name="last")(z))


def test_cut_points_are_found_on_the_graph():
    assert tuple(cut_points(diamonds()))[1:] == ("conv2d", "add", "add_1", "add_3", "last")
    assert tuple(cut_points(diamonds()))[2:4] == ("add", "add_1"), "whatever the process counted before"


def test_points_survive_saving(tmp_path):
    network = diamonds()
    network.save(tmp_path / "network.keras")
    assert unfreeze_points(keras.models.load_model(tmp_path / "network.keras")) == unfreeze_points(network)


def test_a_layer_used_twice_is_not_cut_in_two():
    shared = layers.Conv2D(4, 1, padding="same", name="shared")
    entry = layers.Input((8, 8, 4))
    x = layers.Conv2D(4, 1, name="first")(entry)
    x = layers.ReLU(name="between")(shared(x))
    x = layers.Conv2D(4, 1, name="second")(layers.ReLU(name="after")(shared(x)))
    points = cut_points(keras.Model(entry, x))
    assert "first" in points and "after" in points
    assert "between" not in points


def tensors(inputs):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


def named(inputs):
    """Inputs of a model by name, or the only one by itself."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


MASKS = [{}, {"nested": False}, {"segments": True}, {"mask": "computed"}, {"mask": "length"}]


@pytest.mark.parametrize("options", MASKS, ids=str)
def test_a_mask_that_every_block_takes_is_carried_past_the_cut(options):
    model = transformer(**options)
    network, inputs = network_on(model), tensors(sentences(model))
    # The input is carried, not what is computed from it: it is read from the data anyway, and takes no room in the store.
    mask = {"computed": "token_ids", "length": "length"}.get(options.get("mask"), "padding_mask")
    whole = np.array(network.model(named(inputs), training=False))
    if options.get("mask") != "computed":
        others = network.model(tensors(unmasked(inputs)), training=False)
        assert np.abs(np.array(others) - whole).max() > 1e-3, "the control: the mask matters"
    everything = {id(weight) for weight in network.model.weights}
    embeddings = "embeddings" if options.get("segments") else "tokens"
    for point in (embeddings, "block_0", "block_1", "block_2"):
        parts = cut(network, point)
        assert parts.carried == (() if point == "block_2" else (mask,))
        prefix = parts.prefix("activation")
        entry = prefix(named(inputs), training=False) | {name: inputs[name] for name in parts.carried}
        rest = parts.suffix(named(entry), training=False)
        np.testing.assert_array_equal(rest, whole)
        below, above = ({id(weight) for weight in part.weights} for part in (prefix, parts.suffix))
        assert not below & above and below | above == everything
    parts = cut(network, "input")
    assert parts.carried == tuple(inputs)
    np.testing.assert_array_equal(parts.suffix(named(inputs), training=False), whole)


@pytest.mark.parametrize("options", MASKS[:1] + MASKS[3:], ids=str)
def test_a_network_with_a_mask_can_be_saved_after_it_was_cut(options, tmp_path):
    network = network_on(transformer(**options))
    inputs = tensors(sentences(network.backbone))
    whole = np.array(network.model(named(inputs), training=False))
    for point in ("block_0", "block_1"):
        parts = cut(network, point)
        network.model.save(tmp_path / "network.keras")
        entry = parts.prefix("activation")(named(inputs), training=False)
        entry |= {name: inputs[name] for name in parts.carried}
        np.testing.assert_array_equal(parts.suffix(entry, training=False), whole)
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(again(named(inputs), training=False), whole)


def test_a_mask_that_passes_weights_is_a_way_around_every_block():
    points = cut_points(transformer(mask="weighted"))
    assert not [name for name in points if name in ("block_0", "block_1")] and "block_2" in points
    with pytest.raises(
        UserError, match=r"Unknown unfreeze point 'block_1'.* Expected a cut point, which every path"
    ):
        cut(network_on(transformer(mask="weighted")), "block_1")


def test_several_outputs_of_a_prefix_come_from_one_pass():
    calls = []

    class Counting(layers.Dense):
        def call(self, x):
            calls.append(self.name)
            return super().call(x)

    entry = layers.Input((4,), name="values")
    below = Counting(4, name="below")(entry)
    above = Counting(4, name="above")(layers.ReLU(name="point")(below))
    parts = cut(network_on(keras.Model(entry, above)), "point")
    models = {
        names: parts.prefix(*names) for names in [("activation",), ("activation", "sequence", "pooled")]
    }
    for names, model in models.items():
        calls.clear()
        model(np.ones((2, 4), np.float32))
        assert sorted(calls) == (["below"] if len(names) == 1 else ["above", "below"])


def test_every_embedding_lies_below_every_cut_point_and_no_input_is_one():
    assert tuple(cut_points(transformer(segments=True))) == (
        "embeddings",
        "block_0",
        "block_1",
        "block_2",
        "last",
    )
    assert unfreeze_points(transformer(segments=True)) == (
        "backbone", "block_2", "block_1", "block_0", "embeddings", "input",
    )  # fmt: skip
    assert unfreeze_points(transformer(nested=False)) == (
        "backbone", "block_2", "block_1", "block_0", "tokens", "input",
    )  # fmt: skip


def test_what_draws_at_random_between_input_and_block_is_a_way_around():
    tokens, mask = layers.Input((6,), dtype="int32", name="a"), layers.Input((6,), name="b")
    noisy = layers.Dropout(0.5, name="noise")(mask)  # another draw above the cut than below it
    x = layers.Embedding(20, 6, name="tokens")(tokens)
    first = layers.Dense(6, name="first")(keras.ops.sum(x, axis=1) + noisy)
    second = layers.Dense(6, name="second")(first + noisy)
    assert "first" not in cut_points(keras.Model([tokens, mask], second))
    assert "first" in cut_points(keras.Model([tokens, mask], layers.Dense(6, name="second")(first + mask)))


def test_no_cut_loses_a_mask_that_keras_hands_on_by_itself():
    assert tuple(cut_points(transformer(nested=False, implicit=True))) in ((), ("last",))


def test_a_part_above_may_take_the_only_input_as_well():
    entry = layers.Input((8, 8, 3), name="pixels")
    inside = layers.Conv2D(4, 1, name="inside")(entry)
    x = layers.Concatenate(name="both")([layers.Conv2D(4, 1, name="deep")(inside), entry])
    network = network_on(keras.Model(entry, layers.Conv2D(4, 1, name="last")(x)))
    parts, pixels = cut(network, "inside"), pixels_of(8)
    assert parts.carried == ("pixels",)
    activation = parts.prefix("activation")(pixels)["activation"]
    np.testing.assert_array_equal(
        parts.suffix({"activation": activation, "pixels": keras.ops.convert_to_tensor(pixels)}),
        network.model(pixels),
    )
