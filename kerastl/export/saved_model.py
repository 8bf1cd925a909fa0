"""SavedModels: traced graphs of a model, with decoding and answers, that need neither Keras nor kerastl.

What goes in and comes out stands in `kerastl.export.signature`. Augmentation is no part of the model, so no answer is
random. `model.export` is not used: it names outputs `output_0` and keeps the arithmetic's precision in the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from kerastl.data.names import has_one_line
from kerastl.errors import ExportError
from kerastl.export.signature import (
    LABELS_FILE,
    SERVING_BYTES,
    SERVING_EMBEDDING,
    SERVING_PIXELS,
    Serving,
    write_labels,
)
from kerastl.modality.image.decode import check_formats, decode
from kerastl.model.heads import embedding_model
from kerastl.model.precision import in_float32


def write_saved_model(model: keras.Model, serving: Serving, path: Path | str) -> None:
    """Write a model as a SavedModel that takes encoded images or pixels and answers with labels.

    Args:
        model: takes float32 [n, image_size, image_size, 3], RGB 0..255, and returns logits [n, k].
        serving: the rest; its class names become part of the graph, and `assets/labels.txt`.
        path: folder to write, not there yet. `kerastl.export.publish` makes it visible to servers.

    Raises:
        ExportError: if the names or the image size do not fit the model.
    """
    check_serving(model, serving)
    size = serving.image_size
    embed = embedding_model(model)

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return _for_any_count(pixels, lambda images: _answers(model(images, training=False), serving))

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(_pixels_of(image_bytes, serving))

    def embedding(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _for_any_count(
            _pixels_of(image_bytes, serving),
            lambda images: {"embedding": tf.cast(embed(images, training=False), tf.float32)},
        )

    # Not archive.track(model): each Keras variable would be stored beside the TensorFlow variable in it, which
    # add_endpoint finds by itself. Only tables of a lookup layer would need it, and a model of images has none.
    archive = keras.export.ExportArchive()
    bytes_spec = [tf.TensorSpec([None], tf.string, name="image_bytes")]
    archive.add_endpoint(SERVING_BYTES, from_bytes, bytes_spec)
    archive.add_endpoint(
        SERVING_PIXELS, answer, [tf.TensorSpec([None, size, size, 3], tf.float32, name="pixels")]
    )
    archive.add_endpoint(SERVING_EMBEDDING, embedding, bytes_spec)
    archive.write_out(str(path), verbose=False)
    write_labels(Path(path) / "assets" / LABELS_FILE, serving.class_names)


def _pixels_of(image_bytes: tf.Tensor, serving: Serving) -> tf.Tensor:
    size = serving.image_size
    with tf.control_dependencies([check_formats(image_bytes)]):
        image_bytes = tf.identity(image_bytes)
    pixels = tf.map_fn(
        lambda encoded: decode(encoded, size, serving.resize, serving.significant_bits),
        image_bytes,
        # without the full shape an empty batch would end in an error
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
    )
    return tf.cast(pixels, tf.float32)


def _for_any_count(
    pixels: tf.Tensor, function: Callable[[tf.Tensor], dict[str, tf.Tensor]]
) -> dict[str, tf.Tensor]:
    """The function of some images, or of none."""
    # oneDNN's convolution gives an empty batch the shape of its input, and the next layer fails (TensorFlow
    # 2.21): one black image stands in. tf.pad by nothing copies nothing.
    count = tf.shape(pixels)[0]
    padded = tf.pad(pixels, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
    return {name: value[:count] for name, value in function(padded).items()}


def _answers(logits: tf.Tensor, serving: Serving) -> dict[str, tf.Tensor]:
    # under mixed precision a model may end in bfloat16: softmax and answer stay float32
    logits = tf.cast(logits, tf.float32)
    answers = serving.task.answers(logits, serving.class_names, serving.top)
    if serving.threshold is not None:
        answers["accepted"] = answers["scores"][:, 0] >= serving.threshold
    return answers


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


def check_serving(model: keras.Model, serving: Serving) -> None:
    """Raise ExportError, with all problems in it, unless names and image size fit the model."""
    names, size = serving.class_names, serving.image_size
    problems = []
    if model.output_shape[-1] != len(names):
        problems.append(
            f"{len(names)} class names were given for a model with {model.output_shape[-1]} outputs."
        )
    given = tuple(model.input_shape[1:])
    if any(side not in (None, expected) for side, expected in zip(given, (size, size, 3), strict=True)):
        problems.append(f"The model takes images of shape {given}, not {(size, size, 3)}.")
    if len(set(names)) != len(names):
        problems.append("Two classes have the same name.")
    for name in names:
        if not has_one_line(name):
            problems.append(
                f"The class name {name!r} has a line break or is not valid Unicode; rename the class."
            )
    if problems:
        raise ExportError("The model cannot be exported:\n" + "\n".join(f"  - {line}" for line in problems))
