"""Weights are loaded whole or not at all, from every layout that Keras has had."""

import dataclasses
import hashlib
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from kerastl.backbones import PublishedWeights, get_backbone
from kerastl.errors import WeightsError
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone, build_model
from kerastl.model.weights import WEIGHTS_DIR_VARIABLE, load_weights
from kerastl.recipe.schema import HeadRecipe

SPEC = get_backbone("mobilenet_025")
LEGACY_NAME = "mobilenet_2_5_224_tf_no_top.h5"


@pytest.fixture(scope="module")
def source():
    """The backbone that the files are made from, all of its weights different from any initial value."""
    backbone = build_backbone(SPEC, Image(32).spec)
    random = np.random.default_rng(0)
    backbone.set_weights([random.normal(size=w.shape).astype("float32") for w in backbone.get_weights()])
    return backbone


@pytest.fixture(scope="module")
def target():
    return build_backbone(SPEC, Image(32).spec)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv(WEIGHTS_DIR_VARIABLE, raising=False)


def reset(backbone):
    for index, weight in enumerate(backbone.weights):
        weight.assign(np.full(weight.shape, index, "float32"))


def save_legacy(backbone, path, layers=None, halves=False):
    """As the published files were written: by layer in order, names in attributes, weightless layers too."""
    with h5py.File(path, "w") as file:
        chosen = backbone.layers if layers is None else layers
        file.attrs["layer_names"] = [layer.name.encode() for layer in chosen]
        for layer in chosen:
            group = file.create_group(layer.name)
            names = []
            for weight in (*layer.trainable_weights, *layer.non_trainable_weights):
                name = f"{layer.name}/{weight.name}:0"
                names.append(name.encode())
                group[name] = np.array(weight).astype("float16" if halves else "float32")
            group.attrs["weight_names"] = names


def copy_with(source_path, path, change):
    path.write_bytes(source_path.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.fixture
def h5(source, tmp_path):
    path = tmp_path / "source.weights.h5"
    source.save_weights(path)
    return path


def assert_loaded(target, source):
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def assert_refused(target, path, match):
    reset(target)
    before = [np.array(weight) for weight in target.weights]
    with pytest.raises(WeightsError, match=match):
        load_weights(target, SPEC, str(path))
    for weight, value in zip(target.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value, err_msg=weight.path)


def make_file(kind, source, tmp_path):
    path = tmp_path / {"h5": "a.weights.h5", "legacy": "a.h5"}.get(kind, f"{kind}.keras")
    if kind == "h5":
        source.save_weights(path)
    elif kind == "legacy":
        save_legacy(source, path)
    elif kind == "keras":
        source.save(path)
    elif kind == "ours":
        build_model(source, SPEC, HeadRecipe(dropout=0.1), 3).model.save(path)
    elif kind == "plain":
        pixels = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(3, 1)(keras.layers.RandomFlip()(pixels))
        x = keras.layers.GlobalAveragePooling2D()(source(x))
        keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Dropout(0.2)(x))).save(path)
    return path


@pytest.mark.parametrize("kind", ["h5", "legacy", "keras", "ours", "plain"])
def test_a_file_is_loaded_whole(source, target, tmp_path, kind):
    path = make_file(kind, source, tmp_path)
    reset(target)
    loaded = load_weights(target, SPEC, str(path))
    assert_loaded(target, source)
    assert loaded.origin == "file" and loaded.path == str(path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_whole_legacy_model_of_keras_is_loaded(source, target, tmp_path):
    path = tmp_path / "model.h5"
    source.save(path)
    reset(target)
    load_weights(target, SPEC, str(path))
    assert_loaded(target, source)


def save_around(backbone, path, *below):
    """A model as tutorials make it, with a backbone inside, as one legacy file."""
    size = backbone.input_shape[1]
    layers = [keras.Input((size, size, 3)), *below, backbone, keras.layers.GlobalAveragePooling2D()]
    keras.Sequential([keras.Sequential(layers), keras.layers.Dropout(0.2), keras.layers.Dense(3)]).save(path)


@pytest.mark.parametrize("thawed", ["all", "none", "half", "half without batch norm"])
def test_a_backbone_inside_a_legacy_model_is_found_whatever_was_frozen_when_it_was_saved(
    source, target, tmp_path, thawed
):
    for index, layer in enumerate(source.layers):
        layer.trainable = thawed == "all" or (thawed != "none" and index > 40)
        if "without" in thawed and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    try:
        save_around(source, tmp_path / "a.h5", keras.layers.Conv2D(3, 1))
    finally:
        source.trainable = True
    reset(target)
    load_weights(target, SPEC, str(tmp_path / "a.h5"))
    assert_loaded(target, source)


def test_a_backbone_in_a_file_of_keras_2_is_found(source, target, tmp_path):
    """Which put `:0` behind the names, and the nested model's weights into one group."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"mobilenet", b"dense"]
        for layer, weights in ((b"mobilenet", source.weights), (b"dense", [np.ones((256, 3))])):
            group = file.create_group(layer)
            names = [f"{weight.path}:0" if layer == b"mobilenet" else "dense/kernel:0" for weight in weights]
            for name, weight in zip(names, weights, strict=True):
                group[name] = np.array(weight)
            group.attrs["weight_names"] = [name.encode() for name in names]
    reset(target)
    load_weights(target, SPEC, str(tmp_path / "a.h5"))
    assert_loaded(target, source)


def test_another_backbone_inside_a_legacy_model_is_named_and_one_with_more_layers_is_refused(
    source, target, tmp_path
):
    save_around(build_backbone(get_backbone("mobilenet_v2"), Image(32).spec), tmp_path / "other.h5")
    assert_refused(target, tmp_path / "other.h5", "By its .* weights it is a file of mobilenet_v2")
    more = keras.Model(source.input, keras.layers.Conv2D(4, 1, name="more")(source.output))
    save_around(more, tmp_path / "more.h5")
    assert_refused(target, tmp_path / "more.h5", "2 tensors of the file are not .*/more/")
    fewer = keras.Model(source.input, source.layers[-4].output)
    save_around(fewer, tmp_path / "fewer.h5")
    assert_refused(
        target, tmp_path / "fewer.h5", "tensors of the network are not in the file, first 'conv_pw"
    )


@pytest.mark.slow
def test_layers_that_keras_numbered_are_paired_by_their_order(tmp_path):
    spec = get_backbone("inception_v3")
    source = build_backbone(spec, Image(96).spec)
    random = np.random.default_rng(0)
    source.set_weights([random.normal(size=w.shape).astype("float32") for w in source.get_weights()])
    for layer in source.layers[:100]:
        layer.trainable = False
    save_around(source, tmp_path / "a.h5")
    target = build_backbone(spec, Image(96).spec)  # its conv2d begin where those of the source ended
    load_weights(target, spec, str(tmp_path / "a.h5"))
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_legacy_layout_is_the_one_that_keras_reads(source, target, tmp_path):
    save_legacy(source, tmp_path / "a.h5")
    reset(target)
    target.load_weights(tmp_path / "a.h5")
    assert_loaded(target, source)


def test_names_in_chunks_are_read(source, target, tmp_path):
    save_legacy(source, tmp_path / "a.h5")

    def split(file):
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:50], names[50:]

    copy_with(tmp_path / "a.h5", tmp_path / "b.h5", split)
    reset(target)
    load_weights(target, SPEC, str(tmp_path / "b.h5"))
    assert_loaded(target, source)


def test_16_bit_kernels_become_float32(source, target, tmp_path):
    save_legacy(source, tmp_path / "half.h5", halves=True)
    load_weights(target, SPEC, str(tmp_path / "half.h5"))
    assert {weight.dtype for weight in target.weights} == {"float32"}
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, np.array(theirs).astype("float16"))


def test_normalization_inside_a_network_uses_what_was_loaded(tmp_path):
    spec = get_backbone("efficientnet_b0")
    source, target = build_backbone(spec, Image(32).spec), build_backbone(spec, Image(32).spec)
    statistics = next(layer for layer in source.layers if isinstance(layer, keras.layers.Normalization))
    statistics.set_weights([np.array([0.5, 0.4, 0.3]), np.array([0.05, 0.06, 0.07]), np.array(9)])
    source.save_weights(tmp_path / "a.weights.h5")
    load_weights(target, spec, str(tmp_path / "a.weights.h5"))
    layer = next(layer for layer in target.layers if isinstance(layer, keras.layers.Normalization))
    np.testing.assert_allclose(layer(np.full((1, 1, 1, 3), 0.5)), [[[[0, 0.40825, 0.75593]]]], atol=1e-4)


def test_a_file_of_another_network_is_named(target, tmp_path):
    build_backbone(get_backbone("mobilenet"), Image(32).spec).save_weights(tmp_path / "a.weights.h5")
    assert_refused(
        target,
        tmp_path / "a.weights.h5",
        r"does not fit backbone 'mobilenet_025': tensor 'layers/conv2d/vars/0' has shape \(3, 3, 3, 32\) in "
        r"the file, \(3, 3, 3, 8\) in the network \(conv1/kernel\). By its 3,228,864 weights it is a file of "
        "mobilenet.",
    )


def damage_shape(file):
    group = file["layers/conv2d_7/vars"]
    values = group["0"][()]
    del group["0"]
    group["0"] = values[..., :-1]


def damage_value(file):
    file["layers/conv2d_7/vars/0"][0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (damage_shape, r"tensor 'layers/conv2d_7/vars/0' has shape \(1, 1, 128, 127\) .*conv_pw_7/kernel"),
        (damage_value, "not finite, in tensor 'layers/conv2d_7/vars/0'"),
        (lambda file: file.__delitem__("layers/conv2d_9"), "1 tensors of the network .* 'conv_pw_9/kernel'"),
        (
            lambda file: file.create_dataset("layers/dense/vars/0", data=np.zeros((2, 2))),
            "1 tensors of the file are not in the network, first 'layers/dense/vars/0'",
        ),
    ],
)
def test_a_file_that_differs_in_one_tensor_is_refused(target, h5, tmp_path, change, match):
    assert_refused(target, copy_with(h5, tmp_path / "b.weights.h5", change), match)


def test_legacy_files_with_more_or_fewer_layers_are_refused(source, target, tmp_path):
    layers = source.layers
    save_legacy(source, tmp_path / "fewer.h5", layers[:-4])
    assert_refused(target, tmp_path / "fewer.h5", "tensors of the network are not in the file")
    top = keras.layers.Dense(10, name="predictions")
    top.build((None, 256))
    save_legacy(source, tmp_path / "more.h5", [*layers, top])
    assert_refused(target, tmp_path / "more.h5", "2 tensors of the file are not .* 'predictions/kernel:0'")
    save_legacy(source, tmp_path / "gap.h5", layers[:20] + layers[24:])
    assert_refused(target, tmp_path / "gap.h5", "has shape .* in the file")


@pytest.mark.parametrize("share", [0.3, 0.99])
@pytest.mark.parametrize("kind", ["h5", "legacy", "keras"])
def test_a_truncated_file_is_refused(source, target, tmp_path, kind, share):
    whole = make_file(kind, source, tmp_path)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * share)])
    assert_refused(target, whole, "cannot be read, it is damaged or incomplete")


def test_a_damaged_block_is_refused(source, target, tmp_path):
    path = tmp_path / "a.keras"
    source.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1000] = bytes(1000)
    path.write_bytes(content)
    assert_refused(target, path, "cannot be read|not finite|does not fit")


def test_what_is_no_weights_file_is_refused(target, tmp_path):
    (tmp_path / "empty.h5").write_bytes(b"")
    assert_refused(target, tmp_path / "empty.h5", "is no weights file .it is empty")
    (tmp_path / "text.h5").write_text("<html>404 not found</html>")
    assert_refused(target, tmp_path / "text.h5", "is no weights file .neither HDF5 nor zip")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert_refused(target, tmp_path / "other.keras", "cannot be read, it is damaged or incomplete")
    assert_refused(target, tmp_path / "absent.h5", "There is no weights file .*absent.h5")
    assert_refused(target, tmp_path, "is a folder. Expected a file")
    assert_refused(target, "imagnet", "Did you mean 'imagenet'")
    with h5py.File(tmp_path / "nothing.h5", "w"):
        pass
    assert_refused(target, tmp_path / "nothing.h5", "135 tensors of the network are not in the file")


def test_none_leaves_the_initial_weights(target):
    reset(target)
    assert load_weights(target, SPEC, "none").sha256 is None
    assert np.array(target.weights[3]).flat[0] == 3


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("name", [LEGACY_NAME, "mobilenet_025_notop.weights.h5"])
def test_a_folder_with_published_files_replaces_the_download(
    source, target, tmp_path, monkeypatch, by_variable, name
):
    path = tmp_path / name
    source.save_weights(path) if name.endswith(".weights.h5") else save_legacy(source, path)
    if by_variable:
        monkeypatch.setenv(WEIGHTS_DIR_VARIABLE, str(tmp_path))
    reset(target)
    loaded = load_weights(target, SPEC, "imagenet", None if by_variable else str(tmp_path))
    assert_loaded(target, source)
    assert loaded.origin == "imagenet" and loaded.path == str(path)


def test_the_file_for_the_images_size_is_preferred(source, tmp_path):
    save_legacy(source, tmp_path / LEGACY_NAME)
    save_legacy(source, tmp_path / "mobilenet_2_5_128_tf_no_top.h5")
    at_128 = load_weights(build_backbone(SPEC, Image(128).spec), SPEC, "imagenet", str(tmp_path))
    at_64 = load_weights(build_backbone(SPEC, Image(64).spec), SPEC, "imagenet", str(tmp_path))
    assert at_128.path.endswith("2_5_128_tf_no_top.h5") and at_64.path.endswith(LEGACY_NAME)


def test_a_folder_without_the_file_says_what_it_looked_for(target, tmp_path):
    with pytest.raises(WeightsError, match=rf"backbone.weights_dir or KERASTL_WEIGHTS_DIR.*{LEGACY_NAME}"):
        load_weights(target, SPEC, "imagenet", str(tmp_path))


def test_without_a_network_the_alternatives_are_named(target, tmp_path, monkeypatch):
    # Nothing listens there: refused at once, with or without a network.
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    # A name that nobody has in Keras' download folder.
    url = "https://storage.googleapis.com/tensorflow/keras-applications/nowhere_no_top.h5"
    spec = dataclasses.replace(SPEC, published=(PublishedWeights(0, "nowhere_no_top.h5", url),))
    reset(target)
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_weights(target, spec, "imagenet")
    assert time.perf_counter() - start < 5
    for words in ("nowhere_no_top.h5", "--weights FILE", "--weights-dir", WEIGHTS_DIR_VARIABLE):
        assert words in str(caught.value)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["resnet50", "vgg16", "inception_v3", "mobilenet_v2"])
def test_real_weights_are_what_keras_loads(name, weights_folder):
    spec = get_backbone(name)
    path = weights_folder / f"{name}_notop.weights.h5"
    backbone = build_backbone(spec, Image(96).spec)
    load_weights(backbone, spec, str(path))
    builder = getattr(keras.applications, spec.builder)
    reference = builder(include_top=False, weights=str(path), input_shape=(96, 96, 3))
    pixels = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype("float32")
    np.testing.assert_array_equal(backbone(pixels, training=False), reference(pixels, training=False))


@pytest.mark.weights
def test_real_weights_of_another_network_are_named(weights_folder):
    spec = get_backbone("vgg16")
    backbone = build_backbone(spec, Image(32).spec)
    path = weights_folder / "inception_v3_notop.weights.h5"
    with pytest.raises(WeightsError, match="By its 21,802,784 weights it is a file of inception_v3"):
        load_weights(backbone, spec, str(path))


def test_what_ships_with_the_backbone_is_loaded(target):
    from kerastl.backbones import BUNDLED_WEIGHTS_FOLDER

    path = BUNDLED_WEIGHTS_FOLDER / SPEC.bundled_weights
    if not path.is_file():
        pytest.skip("the embedded weights have not been trained yet")
    loaded = load_weights(target, SPEC, "pretrained")
    assert loaded.origin == "bundled" and loaded.path == str(path)
