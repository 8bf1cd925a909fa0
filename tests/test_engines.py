"""Engines that are not ours answer as the model does: TensorFlow's C API without Python, and OpenVINO."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerastl.export.check import expected_answers
from kerastl.export.signature import Serving
from kerastl.modality.image import Image as Images

NAMES = ("blau", "grün", "rot")
SIZE = 24
SERVING = Serving(NAMES, Images(SIZE))
SOURCE = Path(__file__).with_name("load_saved_model.c")
needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")) or sys.platform != "linux",
    reason="needs a C compiler and Linux",
)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


def tiny_model(before: Callable[[Any], Any] = lambda x: x) -> Any:
    """RGB 0..255 in, three logits out; colour, place and texture all count."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(before(inputs))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(len(NAMES))(x))


@dataclass(frozen=True)
class Served:
    """A SavedModel, what it is asked, and what the model in memory says."""

    path: Path
    encoded: list[bytes]
    pixels: np.ndarray
    probabilities: np.ndarray
    others: np.ndarray


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    from kerastl.export.saved_model import write_saved_model

    random = np.random.default_rng(0)
    encoded = []
    for number in range(9):
        buffer = io.BytesIO()
        image = Image.fromarray(random.integers(0, 256, (20 + 7 * number, 31, 3), np.uint8))
        image.save(buffer, ("PNG", "JPEG", "WEBP")[number % 3])
        encoded.append(buffer.getvalue())
    model = tiny_model()
    path = tmp_path_factory.mktemp("served") / "model"
    write_saved_model(model, SERVING, path)
    expected = expected_answers(model, encoded, SERVING)
    others = expected_answers(tiny_model(lambda x: x[..., ::-1]), encoded, SERVING)
    return Served(path, encoded, expected.inputs["pixels"], expected.probabilities, others.probabilities)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None and spec.origin
    tensorflow = Path(spec.origin).parent
    target = tmp_path_factory.mktemp("c") / "load_saved_model"
    command = [shutil.which("cc") or "gcc", "-O1", "-o", str(target), str(SOURCE)]
    command += ["-I", str(tensorflow / "include"), f"-Wl,-rpath,{tensorflow}"]
    command += [str(tensorflow / name) for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def endpoint(path: Path, signature: str, output: str) -> tuple[str, str, str]:
    """Operation of a signature's input, operation of its output, and which of that operation's outputs."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[signature]
    (given,) = definition.inputs.values()
    made, index = definition.outputs[output].name.split(":")
    return given.name.split(":")[0], made, index


@needs_compiler
@pytest.mark.parametrize("signature", ["serving_default", "serving_pixels"])
def test_the_c_api_answers_without_python(
    signature: str, served: Served, program: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "images"
    if signature == "serving_default":
        asked.write_bytes(b"".join(len(each).to_bytes(8, "little") + each for each in served.encoded))
        words = ["bytes", asked, 9]
    else:
        asked.write_bytes(served.pixels.astype("<f4").tobytes())
        words = ["pixels", asked, 9, SIZE]
    command = [program, served.path, *endpoint(served.path, signature, "probabilities"), *words]
    # an empty environment: nothing of Python's can help
    done = subprocess.run([str(word) for word in command], capture_output=True, env={}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    answers = np.frombuffer(done.stdout, "<f4").reshape(9, 3)
    np.testing.assert_allclose(answers, served.probabilities, atol=1e-5)
    with pytest.raises(AssertionError):  # blue for red would be seen
        np.testing.assert_allclose(answers, served.others, atol=1e-5)


@needs_compiler
def test_the_c_api_names_the_image_that_is_none(served: Served, program: Path, tmp_path: Path) -> None:
    asked = tmp_path / "images"
    images = [*served.encoded[:4], b"plain text"]
    asked.write_bytes(b"".join(len(each).to_bytes(8, "little") + each for each in images))
    command = [program, served.path, *endpoint(served.path, "serving_default", "probabilities")]
    done = subprocess.run(
        [str(word) for word in [*command, "bytes", asked, 5]], capture_output=True, text=True
    )
    assert done.returncode == 1 and "image 4 is empty or no JPEG, PNG, GIF" in done.stderr


@needs_openvino
def test_openvino_answers_on_pixels(served: Served, tmp_path: Path) -> None:
    import openvino

    from kerastl.export.saved_model import write_decoded_only

    write_decoded_only(tiny_model(), SERVING, tmp_path / "pixels")
    # by default its processor plugin computes in bfloat16 where the machine can
    compiled = openvino.compile_model(
        openvino.convert_model(tmp_path / "pixels"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    answers = compiled(served.pixels.astype(np.float32))[0]
    np.testing.assert_allclose(answers, served.probabilities, atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(answers, served.others, atol=1e-5)


@needs_openvino
def test_openvino_refuses_what_decodes_images(served: Served) -> None:
    """Why it is asked with pixels alone; where this fails, ask it with the whole SavedModel instead."""
    import openvino

    with pytest.raises(Exception, match=r"(?i)decode|no translator|not supported|unsupported|string"):
        openvino.compile_model(openvino.convert_model(served.path), "CPU")


@pytest.mark.slow
@needs_openvino
def test_openvino_refuses_a_graph_that_still_augments(tmp_path: Path) -> None:
    import keras
    import openvino
    import tensorflow as tf

    model = tiny_model(keras.layers.RandomBrightness(0.2, value_range=(0, 255)))
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)
    archive.add_endpoint("serving_default", lambda x: model(x, training=True), [spec])
    archive.write_out(str(tmp_path / "augments"), verbose=False)
    with pytest.raises(Exception, match=r"Random"):
        openvino.compile_model(openvino.convert_model(tmp_path / "augments"), "CPU")
