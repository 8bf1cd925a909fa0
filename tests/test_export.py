"""Export: what is served equals what was trained, and nothing else ever becomes visible."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerastl.errors import DataError, ExportError, UserError
from kerastl.export.check import MIXED_PRECISION_TOLERANCE, check_export, expected_answers
from kerastl.export.compare import CheckResult
from kerastl.export.publish import ExportedModel, publish
from kerastl.export.reader import load_exported
from kerastl.export.signature import Serving
from kerastl.modality.image import Image as Images
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL
from kerastl.writing import NoSpaceError

ROOT = Path(__file__).parents[1]
NAMES = ("blau", "grün", "rot")
SIZE = 24


def encode(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """Coloured noise in several formats, sizes and channel counts."""
    random = np.random.default_rng(0)
    colours = [(210, 40, 60), (30, 190, 70), (40, 60, 200)]
    made = []
    for i in range(9):
        side = (20 + 7 * i, 31 + 3 * i, 3)
        pixels = np.clip(random.normal(colours[i % 3], 30, side), 0, 255).astype(np.uint8)
        made.append(
            [encode(pixels, "PNG"), encode(pixels, "JPEG", quality=90), encode(pixels, "WEBP")][i // 3]
        )
    made.append(encode(random.integers(0, 256, (30, 50), np.uint8), "PNG"))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    made.append(encode(random.integers(0, 256, (40, 25, 3), np.uint8), "JPEG", exif=rotated))
    return made


def tiny_model(
    dtype: str = "float32", before: Callable[[Any], Any] = lambda x: x, dtype_out: str = "float32"
) -> Any:
    """RGB 0..255 in, three logits out; colour, place and texture all count."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0, dtype=dtype)(before(inputs))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(len(NAMES), dtype=dtype_out)(x))


def flip_channels(x: Any) -> Any:
    import keras

    return keras.ops.flip(x, axis=-1)


def export(
    models_dir: Path,
    images: list[bytes],
    exported: Any = None,
    *,
    names: tuple[str, ...] = NAMES,
    resize: str = "stretch",
    tolerance: float = 1e-5,
    task: Task = CLASSIFICATION,
    expected: Any = None,
    threshold: float | None = None,
    served_threshold: float | None = None,
) -> ExportedModel:
    """What an export does; `exported`, `names` and `resize` can be made to differ from what is expected."""
    from kerastl.export.saved_model import write_saved_model

    expected = expected or tiny_model()
    right = Serving(NAMES, Images(SIZE), task, threshold)
    answers = expected_answers(expected, images, right)
    served = Serving(names, Images(SIZE, resize), task, served_threshold or threshold)
    return publish(
        lambda path: write_saved_model(exported or expected, served, path),
        lambda path: check_export(path, answers, right, tolerance),
        models_dir,
        "colours",
        {"recipe.toml": "seed = 0\n", "labels.txt": "\n".join(NAMES)},
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Iterator[ExportedModel]:
    yield export(tmp_path_factory.mktemp("saved_models"), images)


def test_a_good_model_is_published_whole(exported: ExportedModel) -> None:
    assert (exported.version, exported.name, exported.path.name) == (1, "colours", "1")
    assert exported.signatures == ("serving_default", "serving_embedding", "serving_pixels")
    assert exported.largest_difference <= 1e-6 and exported.example_count == 11
    assert [child.name for child in exported.path.parent.iterdir()] == ["1"]
    assert (exported.path / "assets" / "labels.txt").read_text("utf-8").splitlines() == list(NAMES)
    assert (exported.path / "assets.extra" / "recipe.toml").read_text() == "seed = 0\n"


def test_inputs_and_outputs_have_names_shapes_and_types(exported: ExportedModel) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported.path))
    for name, argument, shape in [
        ("serving_default", "image_bytes", [None]),
        ("serving_pixels", "pixels", [None, SIZE, SIZE, 3]),
    ]:
        signature = loaded.signatures[name]
        (given,) = signature.structured_input_signature[1].values()
        assert (given.name, given.shape.as_list()) == (argument, shape)
        outputs = {
            key: (spec.dtype.name, spec.shape.as_list()) for key, spec in signature.structured_outputs.items()
        }
        assert outputs == {
            "probabilities": ("float32", [None, 3]),
            "classes": ("string", [None, 3]),
            "scores": ("float32", [None, 3]),
            "label": ("string", [None]),
            "label_index": ("int64", [None]),
        }
    embedding = loaded.signatures["serving_embedding"]
    assert list(embedding.structured_input_signature[1]) == ["image_bytes"]
    (output,) = embedding.structured_outputs.items()
    assert (output[0], output[1].dtype.name, output[1].shape.as_list()) == (
        "embedding",
        "float32",
        [None, 968],
    )


def stored_bytes(version: Path) -> int:
    """Of all numbers in a version's `variables`."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    return sum(
        int(np.prod(shape)) * types[name].size
        for name, shape in reader.get_variable_to_shape_map().items()
        if types[name].is_floating
    )


def test_each_weight_is_stored_once(exported: ExportedModel) -> None:
    assert stored_bytes(exported.path) == sum(weight.nbytes for weight in tiny_model().get_weights())


def test_weights_that_are_stored_twice_are_noticed(tmp_path: Path) -> None:
    """As `ExportArchive.track` stores them: once as Keras' variable, once as the TensorFlow variable in it."""
    import keras
    import tensorflow as tf

    model = tiny_model()
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", lambda x: model(x), [tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="x")]
    )
    archive.write_out(str(tmp_path / "1"), verbose=False)
    assert stored_bytes(tmp_path / "1") == 2 * sum(weight.nbytes for weight in model.get_weights())


def test_an_empty_batch_gets_an_empty_answer(exported: ExportedModel) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported.path))
    for name, given in [("default", {"image_bytes": tf.zeros([0], tf.string)}),
                        ("pixels", {"pixels": tf.zeros([0, SIZE, SIZE, 3])})]:  # fmt: skip
        answer = loaded.signatures[f"serving_{name}"](**given)
        assert answer["probabilities"].shape == (0, 3)
        assert answer["label"].shape == answer["label_index"].shape == (0,)
        assert answer["classes"].shape == answer["scores"].shape == (0, 3)
    assert loaded.signatures["serving_embedding"](image_bytes=tf.zeros([0], tf.string))[
        "embedding"
    ].shape == (0, 968)


def test_the_reader_answers_as_the_model(exported: ExportedModel, images: list[bytes]) -> None:
    probabilities = expected_answers(tiny_model(), images, Serving(NAMES, Images(SIZE))).probabilities
    for path in (exported.path, exported.path.parent):
        reader = load_exported(path)
        assert reader.class_names == NAMES and reader.path == exported.path
        np.testing.assert_allclose(
            reader.predict_bytes(images * 4)[0], np.tile(probabilities, (4, 1)), atol=1e-6
        )
        assert reader.predict_bytes([])[0].shape == (0, 3)


def test_the_reader_names_the_image_that_it_cannot_read(exported: ExportedModel, images: list[bytes]) -> None:
    reader = load_exported(exported.path)
    for broken in (b"", b"no image", images[0][:60]):
        with pytest.raises(DataError, match="Image 5 of 12 cannot be read"):
            reader.predict_bytes([*images[:5], broken, *images[5:]])


def test_what_is_no_exported_model_is_named(tmp_path: Path, exported: ExportedModel) -> None:
    import tensorflow as tf

    with pytest.raises(UserError, match="Did you mean 'colours'"):
        load_exported(exported.path.parents[1] / "colors")
    with pytest.raises(UserError, match="holds no exported model"):
        load_exported(tmp_path)
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "foreign"))
    with pytest.raises(UserError, match="not a model that kerastl exported"):
        load_exported(tmp_path / "foreign")


def test_tensorflow_servings_loader_answers(
    exported: ExportedModel, images: list[bytes], tmp_path: Path
) -> None:
    script = """if True:
        import json, sys
        import numpy as np, tensorflow as tf
        v1 = tf.compat.v1
        images = [bytes.fromhex(each) for each in json.load(open(sys.argv[2]))]
        with v1.Session(graph=tf.Graph()) as session:
            graph = v1.saved_model.loader.load(session, ["serve"], sys.argv[1])
            signature = graph.signature_def["serving_default"]
            names = {key: each.name for key, each in signature.outputs.items()}
            answer = session.run(names, {signature.inputs["image_bytes"].name: images})
        assert not any(name.split(".")[0] == "kerastl" for name in sys.modules)
        plain = {k: np.char.decode(v.astype(bytes), "utf-8") if v.dtype == object else v for k, v in answer.items()}
        json.dump({k: v.tolist() for k, v in plain.items()}, open(sys.argv[3], "w"))
    """
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(json.dumps([each.hex() for each in images]))
    command = [sys.executable, "-c", script, str(exported.path), str(request), str(answer)]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    served = json.loads(answer.read_text())
    probabilities = expected_answers(tiny_model(), images, Serving(NAMES, Images(SIZE))).probabilities
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=1e-5)
    others = expected_answers(
        tiny_model(before=flip_channels), images, Serving(NAMES, Images(SIZE))
    ).probabilities
    with pytest.raises(AssertionError):  # blue for red would be seen
        np.testing.assert_allclose(served["probabilities"], others, atol=1e-5)
    assert served["label"] == [NAMES[i] for i in probabilities.argmax(axis=1)]
    assert served["label_index"] == probabilities.argmax(axis=1).tolist()
    assert served["classes"] == [[NAMES[i] for i in row] for row in (-probabilities).argsort(axis=1)]
    np.testing.assert_allclose(served["scores"], -np.sort(-probabilities, axis=1), atol=1e-5)


def test_blue_for_red_is_refused_and_the_last_version_stays(
    exported: ExportedModel, images: list[bytes]
) -> None:
    models_dir = exported.path.parents[1]
    with pytest.raises(
        ExportError, match=r"(?s)Nothing was published; version 1 stays.*probabilities differ by up to"
    ):
        export(models_dir, images, tiny_model(before=flip_channels))
    assert [child.name for child in exported.path.parent.iterdir()] == ["1"]


@pytest.mark.slow
def test_answers_that_depend_on_the_batch_are_refused(tmp_path: Path, images: list[bytes]) -> None:
    import keras

    def less_the_mean(pixels: Any) -> Any:
        return pixels - keras.ops.mean(pixels, axis=0, keepdims=True)

    with pytest.raises(ExportError, match="in batches of 3: probabilities differ by up to"):
        export(tmp_path, images, expected=tiny_model(before=less_the_mean))


def test_what_is_expected_is_computed_as_one_graph(images: list[bytes]) -> None:
    import keras

    eager: list[bool] = []

    class Noted(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            import tensorflow as tf

            eager.append(tf.executing_eagerly())
            return x

    model = tiny_model(before=Noted())
    eager.clear()
    expected_answers(model, images, Serving(NAMES, Images(SIZE)))
    assert eager and not any(eager)


def test_an_image_that_is_none_is_named_by_its_position(exported: ExportedModel, images: list[bytes]) -> None:
    import tensorflow as tf

    signature = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    for broken in (b"", b"plain text", b"%PDF-1.7"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="image 4 is empty or no JPEG, PNG, GIF"):
            signature(image_bytes=tf.constant([*images[:4], broken, *images[4:], b"another"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="PNG"):
        signature(image_bytes=tf.constant([images[0], images[0][:60]]))


def test_a_threshold_is_served_as_accepted(tmp_path: Path, images: list[bytes]) -> None:
    import tensorflow as tf

    best = expected_answers(tiny_model(), images, Serving(NAMES, Images(SIZE))).probabilities.max(axis=1)
    threshold = float(np.sort(best)[4:6].mean())
    version = export(tmp_path, images, threshold=threshold)
    answer = tf.saved_model.load(str(version.path)).signatures["serving_default"](
        image_bytes=tf.constant(images)
    )
    np.testing.assert_array_equal(answer["accepted"], best >= threshold)
    assert 0 < int(np.sum(answer["accepted"])) < len(images)
    np.testing.assert_array_equal(load_exported(version.path).predict_bytes(images)[1], best >= threshold)


def test_a_version_tells_what_its_examples_are_and_one_that_does_not_holds_images(
    exported: ExportedModel, images: list[bytes], tmp_path: Path
) -> None:
    version = shutil.copytree(exported.path, tmp_path / "m" / "1")
    facts = version / "assets.extra" / "model.json"
    assert not facts.exists() and len(load_exported(version).predict_bytes(images[:1])[0]) == 1
    facts.write_text('{"modality": "image"}')
    assert load_exported(version).modality.noun == "image"
    facts.write_text('{"modality": "imagine"}')
    with pytest.raises(UserError, match="Unknown modality 'imagine'"):
        load_exported(version)


@pytest.mark.slow
def test_another_threshold_or_none_is_refused(tmp_path: Path, images: list[bytes]) -> None:
    best = expected_answers(tiny_model(), images, Serving(NAMES, Images(SIZE))).probabilities.max(axis=1)
    threshold = float(np.sort(best)[4:6].mean())
    with pytest.raises(ExportError, match="'accepted' is wrong for"):
        export(tmp_path, images, threshold=threshold, served_threshold=0.999)
    with pytest.raises(ExportError, match="the threshold is None, but 'accepted' is answered"):
        export(tmp_path, images, served_threshold=0.5)
    assert list(tmp_path.iterdir()) == []


def test_the_embedding_is_what_the_head_stands_on(exported: ExportedModel, images: list[bytes]) -> None:
    import tensorflow as tf

    model = tiny_model()
    expected = expected_answers(model, images, Serving(NAMES, Images(SIZE)))
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_embedding"]
    served = signature(image_bytes=tf.constant(images))["embedding"].numpy()
    np.testing.assert_allclose(served, expected.embeddings, atol=1e-5)
    kernel, bias = model.layers[-1].get_weights()
    logits = served @ kernel + bias
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.probabilities.argmax(axis=1))


@pytest.mark.slow
def test_another_embedding_is_refused(exported: ExportedModel, images: list[bytes]) -> None:
    serving = Serving(NAMES, Images(SIZE))
    expected = expected_answers(tiny_model(), images, serving)
    assert check_export(exported.path, expected, serving).passed
    moved = dataclasses.replace(expected, embeddings=expected.embeddings + 1e-3)
    result = check_export(exported.path, moved, serving)
    assert len(result.problems) == 2 and all(
        "embeddings differ by up to 0.001" in each for each in result.problems
    )


@pytest.mark.slow
def test_labels_in_another_order_are_refused(tmp_path: Path, images: list[bytes]) -> None:
    with pytest.raises(
        ExportError, match=r"(?s)11 of 11 labels are wrong.*assets/labels\.txt says grün, rot, blau"
    ):
        export(tmp_path, images, names=("grün", "rot", "blau"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_resize_is_refused_though_pixels_agree(tmp_path: Path, images: list[bytes]) -> None:
    with pytest.raises(ExportError, match="serving_default in batches") as caught:
        export(tmp_path, images, resize="crop")
    assert "serving_pixels in batches" not in str(caught.value)


@pytest.mark.slow
def test_augmentation_left_in_is_refused(tmp_path: Path, images: list[bytes]) -> None:
    import keras

    class Noisy(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            # far too small for the tolerance: only the graph shows it
            return inputs + keras.random.normal(keras.ops.shape(inputs)) * 1e-6

    with pytest.raises(ExportError, match=r"The graph holds random operations: .*Random"):
        export(tmp_path, images, tiny_model(before=Noisy()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_augmentation_at_visible_strength_is_refused_for_its_answers_too(
    tmp_path: Path, images: list[bytes]
) -> None:
    import keras

    class Augmented(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.brightness = keras.layers.RandomBrightness(0.5)

        def call(self, inputs: Any) -> Any:
            return self.brightness(inputs, training=True)

    with pytest.raises(
        ExportError, match=r"(?s)when sent twice.*The graph holds random operations: .*Random"
    ):
        export(tmp_path, images, tiny_model(before=Augmented()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_answers_that_change_from_request_to_request_are_refused(tmp_path: Path, images: list[bytes]) -> None:
    import keras

    class Counting(keras.layers.Layer):
        """No random operation, and another answer each time."""

        def build(self, shape: Any) -> None:
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, inputs: Any) -> Any:
            self.calls.assign(self.calls + 1.0)
            return inputs + 3.0 * self.calls

    with pytest.raises(
        ExportError, match=r"The same request got answers that differ by .* when sent twice"
    ) as caught:
        export(tmp_path, images, tiny_model(before=Counting()))
    assert "random operations" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_random_operations_of_a_graph_are_named() -> None:
    import tensorflow as tf

    from kerastl.export.ask_process import random_operations

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def cut(image: tf.Tensor) -> tf.Tensor:
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.zeros([1, 0, 4]), min_object_covered=0.5, use_image_if_no_bounding_boxes=True
        )
        return tf.slice(image, begin, size)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def outer(image: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(cut, image[None], fn_output_signature=tf.uint8)

    for each in (cut, outer):
        assert random_operations(each.get_concrete_function()) == {"SampleDistortedBoundingBoxV2"}


def test_every_operation_that_takes_a_seed_counts_as_random() -> None:
    import inspect

    import tensorflow as tf

    from kerastl.export.ask_process import RANDOM

    # hashes, names of files and the tuning of pipelines; a dropout of RNNs on graphics cards, 0 where nothing is trained
    exempt = ("ComputeAccidentalHits", "SnapshotDataset", "ModelDataset", "CudnnRNN")
    drawing = {"seed", "seed2", "seeds", "rng", "alg", "algorithm", "seed_generator"}
    operations = {name: getattr(tf.raw_ops, name) for name in dir(tf.raw_ops) if name[0].isupper()}
    seeded = {name for name, each in operations.items() if drawing & set(inspect.signature(each).parameters)}
    assert len(seeded) > 60 and {"TruncatedNormal", "StatefulUniform", "StatelessMultinomial"} <= seeded
    assert {name for name in seeded if not RANDOM.search(name) and not name.startswith(exempt)} == set()
    # and what every exported graph holds does not
    assert not RANDOM.search(
        " ".join(["Conv2D", "TruncateDiv", "Softmax", "ResizeBilinear", "StatefulPartitionedCall"])
    )


@pytest.mark.slow
def test_preprocessing_done_twice_is_refused(tmp_path: Path, images: list[bytes]) -> None:
    import keras

    with pytest.raises(ExportError, match="probabilities differ"):
        export(tmp_path, images, tiny_model(before=keras.layers.Rescaling(1 / 127.5, -1.0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_multi_label_model_answers_with_a_sigmoid_for_each_label(
    tmp_path: Path, images: list[bytes]
) -> None:
    import tensorflow as tf

    version = export(tmp_path, images, task=MULTI_LABEL)
    reader = load_exported(version.path)
    probabilities = reader.predict_bytes(images)[0]
    assert version.largest_difference <= 1e-6 and np.abs(probabilities.sum(axis=1) - 1).max() > 0.1
    assert reader.task is MULTI_LABEL
    answer = reader._answer(image_bytes=tf.constant(images))
    given = [text.decode().split("\n") if text else [] for text in answer["labels"].numpy()]
    assert given == [[name for name, p in zip(NAMES, row, strict=True) if p > 0.5] for row in probabilities]
    assert len({len(labels) for labels in given}) > 1, "else all images have as many"
    with pytest.raises(ExportError, match="probabilities differ"):
        single = tiny_model()
        serving = Serving(NAMES, Images(SIZE))
        result = check_export(version.path, expected_answers(single, images, serving), serving)
        raise ExportError("\n".join(result.problems))


@pytest.mark.slow
def test_mixed_precision_is_served_in_float32(tmp_path: Path, images: list[bytes]) -> None:
    model = tiny_model("mixed_bfloat16", dtype_out="mixed_bfloat16")
    assert model.output.dtype == "bfloat16"
    version = export(tmp_path, images, expected=model, tolerance=MIXED_PRECISION_TOLERANCE)
    assert load_exported(version.path).predict_bytes(images)[0].dtype == np.float32
    with pytest.raises(ExportError):
        export(
            tmp_path,
            images,
            tiny_model(before=flip_channels),
            expected=model,
            tolerance=MIXED_PRECISION_TOLERANCE,
        )


def test_names_and_sizes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    from kerastl.export.saved_model import write_saved_model

    with pytest.raises(ExportError) as caught:
        write_saved_model(tiny_model(), Serving(("a", "a", "b\nc", "d"), Images(32)), tmp_path / "x")
    for part in ("4 class names", "not (32, 32, 3)", "same name", "'b\\nc'"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Publishing alone: what is built does not matter here, so no TensorFlow is needed.

GOOD = CheckResult(largest_difference=0.0, count=1, tolerance=1e-5, signatures=("serving_default",))


def build(path: Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("step", ["build begins", "build ends", "check", "rename"])
def test_a_failure_at_any_step_leaves_nothing(
    tmp_path: Path, step: str, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(build, lambda path: GOOD, tmp_path, "m")

    def failing_build(path: Path) -> None:
        if step == "build begins":
            raise failure
        build(path)
        if step == "build ends":
            raise failure

    def failing_check(path: Path) -> CheckResult:
        assert path.parent.name.startswith(".tmp-")
        if step == "check":
            raise failure
        return GOOD

    def failing_rename(source: Path, target: Path) -> None:
        raise failure

    if step == "rename":
        monkeypatch.setattr(os, "rename", failing_rename)
    for name in ("m", "new"):
        with pytest.raises(failure):
            publish(failing_build, failing_check, tmp_path, name, {"recipe.toml": ""})
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "m", "m/1", "m/1/saved_model.pb", "models.config",
    ]  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux' /dev/full")
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        build(path)
        Path("/dev/full").write_text("x")

    with pytest.raises(NoSpaceError, match="No space left"):
        publish(fill, lambda path: GOOD, tmp_path / "saved_models", "m")
    assert list((tmp_path / "saved_models").iterdir()) == []


def test_versions_count_up_over_gaps_and_past_ten(tmp_path: Path) -> None:
    for taken in ("2", "9", "10", ".tmp-1-11", "old", "12x"):
        (tmp_path / "m" / taken).mkdir(parents=True)
    assert publish(build, lambda path: GOOD, tmp_path, "m").version == 11
    assert publish(build, lambda path: GOOD, tmp_path, "m").version == 12


def test_writers_at_the_same_time_get_versions_of_their_own(tmp_path: Path) -> None:
    script = """if True:
        import sys, time
        from pathlib import Path
        from kerastl.export import publish
        from kerastl.export.compare import CheckResult
        def build(path):
            path.mkdir()
            (path / "saved_model.pb").write_text(sys.argv[2])
        def check(path):
            (Path(sys.argv[1]) / f"ready{sys.argv[2]}").touch()
            while len(list(Path(sys.argv[1]).glob("ready*"))) < 4: time.sleep(0.001)
            return CheckResult(largest_difference=0.0, count=1, tolerance=1e-5)
        for i in range(25): publish.publish(build, check, sys.argv[1], "m")
        assert "tensorflow" not in sys.modules
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(i)], cwd=ROOT) for i in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    written = [(tmp_path / "m" / str(i) / "saved_model.pb").read_text() for i in range(1, 101)]
    assert sorted(written) == sorted("0123" * 25)
    assert len(list((tmp_path / "m").iterdir())) == 100


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "ä"])
def test_names_that_servers_do_not_take_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be named"):
        publish(build, lambda path: GOOD, tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_all_models_names_those_in_it(tmp_path: Path) -> None:
    (tmp_path / "saved_models" / "digits" / "1").mkdir(parents=True)
    (tmp_path / "saved_models" / "notes").mkdir()
    with pytest.raises(UserError, match=r"is one of these meant: \S*saved_models/digits\?$"):
        load_exported(tmp_path / "saved_models")
    with pytest.raises(UserError, match=r"with a saved_model\.pb\.$"):
        load_exported(tmp_path / "saved_models" / "notes")
