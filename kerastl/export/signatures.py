"""What the served model takes and answers, traced into a SavedModel that needs neither Keras nor kerastl.

The signatures, as TensorFlow Serving and its REST clients see them (n images, k classes, s the image size):

| signature         | input         |                                                                        |
|-------------------|---------------|------------------------------------------------------------------------|
| `serving_default` | `image_bytes` | string [n]: encoded images of any size and format that training reads   |
| `serving_pixels`  | `pixels`      | float32 [n, s, s, 3]: RGB, 0..255, as `kerastl.image.decode` returns them |

| output          |                                                                                            |
|-----------------|--------------------------------------------------------------------------------------------|
| `probabilities` | float32 [n, k]: softmax, or a sigmoid for each label; columns in the order of `assets/labels.txt` |
| `label`         | string [n]: name of the best class                                                         |
| `label_index`   | int64 [n]: its column                                                                      |
| `score`         | float32 [n]: its probability                                                               |

The REST API of TensorFlow Serving treats tensors whose names end in `_bytes` as base64
(`{"image_bytes": {"b64": …}}`), hence that name. Augmentation is no part of the model, so no answer is random.
`model.export` is not used: it names outputs `output_0` and keeps the arithmetic's precision in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from kerastl.errors import ExportError
from kerastl.image.decode import decode

SERVING_BYTES = "serving_default"
SERVING_PIXELS = "serving_pixels"
LABELS_FILE = "labels.txt"


def write_saved_model(
    model: keras.Model,
    class_names: Sequence[str],
    image_size: int,
    resize: str,
    multi_label: bool,
    path: Path | str,
) -> None:
    """Write a model as a SavedModel that takes encoded images or pixels and answers with labels.

    Args:
        model: takes float32 [n, image_size, image_size, 3], RGB 0..255, and returns logits [n, k].
        class_names: k names in the order of the logits; they become part of the graph, and `assets/labels.txt`.
        image_size: side of the model's input in pixels.
        resize: `stretch`, `crop` or `pad`, as in training.
        multi_label: sigmoid for each label instead of softmax.
        path: folder to write, not there yet. `kerastl.export.publish` makes it visible to servers.

    Raises:
        ExportError: if the names or the image size do not fit the model.
    """
    names = tuple(class_names)
    _check(model, names, image_size)

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # oneDNN's convolution gives an empty batch the shape of its input, and the next layer fails (TensorFlow
        # 2.21): one black image stands in. tf.pad by nothing copies nothing.
        count = tf.shape(pixels)[0]
        pixels = tf.pad(pixels, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        # under mixed precision a model may end in bfloat16: softmax and answer stay float32
        logits = tf.cast(model(pixels, training=False), tf.float32)
        probabilities = tf.sigmoid(logits) if multi_label else tf.nn.softmax(logits)
        best = tf.argmax(logits, axis=-1, output_type=tf.int64)
        answers = {
            "probabilities": probabilities,
            "label": tf.gather(tf.constant(names), best),
            "label_index": best,
            "score": tf.gather(probabilities, best, batch_dims=1),
        }
        return {name: value[:count] for name, value in answers.items()}

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.map_fn(
            lambda encoded: decode(encoded, image_size, resize),
            image_bytes,
            # without the full shape an empty batch would end in an error
            fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.uint8),
        )
        return answer(tf.cast(pixels, tf.float32))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(SERVING_BYTES, from_bytes, [tf.TensorSpec([None], tf.string, name="image_bytes")])
    pixels_spec = tf.TensorSpec([None, image_size, image_size, 3], tf.float32, name="pixels")
    archive.add_endpoint(SERVING_PIXELS, answer, [pixels_spec])
    archive.write_out(str(path), verbose=False)
    # newline="" keeps the file the same on every system
    with (Path(path) / "assets" / LABELS_FILE).open("w", encoding="utf-8", newline="") as file:
        file.write("".join(f"{name}\n" for name in names))


def read_labels(saved_model: Path | str) -> tuple[str, ...]:
    """The class names of a SavedModel that `write_saved_model` wrote, in the order of its probabilities.

    Raises:
        OSError: if there is no `assets/labels.txt`.
    """
    text = (Path(saved_model) / "assets" / LABELS_FILE).read_bytes().decode("utf-8")
    return tuple(text.removesuffix("\n").split("\n"))


def _check(model: keras.Model, names: tuple[str, ...], image_size: int) -> None:
    problems = []
    if model.output_shape[-1] != len(names):
        problems.append(
            f"{len(names)} class names were given for a model with {model.output_shape[-1]} outputs."
        )
    given = tuple(model.input_shape[1:])
    if any(
        side not in (None, expected)
        for side, expected in zip(given, (image_size, image_size, 3), strict=True)
    ):
        problems.append(f"The model takes images of shape {given}, not {(image_size, image_size, 3)}.")
    if len(set(names)) != len(names):
        problems.append("Two classes have the same name.")
    for name in names:
        if "\n" in name or "\r" in name or name.encode("utf-8", "replace").decode("utf-8") != name:
            problems.append(
                f"The class name {name!r} has a line break or is not valid Unicode; rename the class."
            )
    if problems:
        raise ExportError("The model cannot be exported:\n" + "\n".join(f"  - {line}" for line in problems))
