"""Writes a model as LiteRT or ONNX, by the way of a SavedModel that holds nothing but pixels -> probabilities."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.errors import ExportError
from kerastl.export.formats import Format, describe, write_info
from kerastl.export.serving import LABELS_FILE, Serving
from kerastl.export.signatures import check_serving
from kerastl.model.precision import in_float32

_PROCESS_SECONDS = 3600


def write_format(
    model: keras.Model, serving: Serving, format: Format, folder: Path, representative: np.ndarray
) -> None:
    """Write a model, its labels and `model.json`, as `kerastl.export.formats` describes them.

    Args:
        model: takes float32 [n, s, s, 3], RGB 0..255, and returns logits [n, k].
        serving: what has to be known beside it.
        format: to write.
        folder: to make; `publish` makes it visible.
        representative: uint8 [m, s, s, 3]: training images, from which the integer format learns how large
            activations become. Others do not look at it, and it may be empty.

    Raises:
        ExportError: the model cannot be converted; says what the converter said.
    """
    check_serving(model, serving)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kerastl-convert-") as scratch:
        saved, images = Path(scratch) / "saved_model", Path(scratch) / "representative.npy"
        write_pixels_only(model, serving, saved, format.is_integer)
        if format.is_integer:
            np.save(images, with_full_range(representative))
        script = Path(__file__).with_name("convert_process.py")
        command = [sys.executable, "-P", str(script), format.name, str(saved), str(folder / format.file)]
        _run([*command, str(images)], format)
    # newline="" keeps the files the same on every system
    with (folder / LABELS_FILE).open("w", encoding="utf-8", newline="") as file:
        file.write("".join(f"{name}\n" for name in serving.class_names))
    write_info(folder, describe(format, serving))


def write_pixels_only(model: keras.Model, serving: Serving, path: Path, integer: bool = False) -> None:
    """A SavedModel with nothing in it that another engine could not know: pixels in, probabilities out.

    A model in mixed precision is written in float32: LiteRT has no bfloat16, and ONNX Runtime little.

    Args:
        model: returns logits.
        serving: how it is served.
        path: folder to write.
        integer: the pixels are going to be integers of eight bits: keep their scale to themselves.
    """
    model = in_float32(model)
    size, to_probabilities = serving.image_size, getattr(tf.nn, serving.task.activation)

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(model(_own_scale(pixels) if integer else pixels, training=False), tf.float32)
        return {"probabilities": to_probabilities(logits)}

    archive = keras.export.ExportArchive()
    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="pixels")
    archive.add_endpoint("serving_default", answer, [spec])
    archive.write_out(str(path), verbose=False)


def _own_scale(pixels: tf.Tensor) -> tf.Tensor:
    """The pixels, behind an operation whose input and output may have different scales in integers.

    A preprocessing that begins by reordering channels (`caffe`: ResNet, VGG) does so with slices, which pass their
    scale on: the converter (TensorFlow 2.21) gives the input the range -124..255 of what stands after the mean was
    subtracted, and 0..255 are no longer the input itself.
    """
    return tf.nn.conv2d(pixels, tf.eye(3, batch_shape=[1, 1]), 1, "VALID")


def with_full_range(images: np.ndarray) -> np.ndarray:
    """Images of which the first has a black and a white pixel.

    The integer model's input scale is taken from the values seen: only with both ends among them is a pixel's
    value, 0..255, the input itself.
    """
    images = np.array(images, np.uint8)
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


def _run(command: list[str], format: Format) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROCESS_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"The conversion to {format.name} took more than {_PROCESS_SECONDS} s.") from error
    if done.returncode != 0:
        # The last lines name the error; before them the converters print whole graphs.
        lines = [line[:300] for line in done.stderr.strip().splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line][-3:] or lines[-3:]
        said = "\n".join(f"  {line}" for line in errors) or f"  exit code {done.returncode}"
        raise ExportError(f"The model cannot be converted to {format.name}. The converter said:\n{said}")
