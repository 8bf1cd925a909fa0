"""SavedModels: traced graphs of a model, with decoding and answers, that need neither Keras nor kerastl.

What goes in and comes out stands in `kerastl.export.signature`. Augmentation is no part of the model, so no answer is
random. `model.export` is not used: it names outputs `output_0` and keeps the arithmetic's precision in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kerastl.data.names import has_one_line
from kerastl.errors import ExportError
from kerastl.export.signature import (
    LABELS_FILE,
    SERVING_EMBEDDING,
    SERVING_RAW,
    Serving,
    write_labels,
)
from kerastl.export.word_graphs import word_graphs
from kerastl.modality import Modality
from kerastl.model.graph import alone
from kerastl.model.heads import embedding_model
from kerastl.model.precision import in_float32


def write_saved_model(model: keras.Model, serving: Serving, path: Path | str) -> None:
    """Write a model as a SavedModel that takes raw or decoded examples and answers with labels.

    Args:
        model: takes the inputs of the modality, each cast to the dtype that the model has it in, and returns logits [n, k], or of a
            task that answers each step [n, steps, k].
        serving: the rest; its class names become part of the graph, and `assets/labels.txt`.
        path: folder to write, not there yet. `kerastl.export.publish` makes it visible to servers.

    Raises:
        ExportError: if the names or the inputs do not fit the model.
    """
    check_serving(model, serving)
    # Not archive.track(model): each Keras variable would be stored beside the TensorFlow variable in it, which
    # add_endpoint finds by itself. Only tables of a lookup layer would need it.
    archive = keras.export.ExportArchive()
    modality = serving.modality
    raw_spec = [tf.TensorSpec([None], tf.string, name=modality.request)]
    if serving.task.per_step:
        for name, function in word_graphs(model, serving, network_inputs).items():
            archive.add_endpoint(name, function, raw_spec)
    else:
        for name, function in _example_graphs(model, serving).items():
            archive.add_endpoint(name, function, raw_spec)
    archive.add_endpoint(
        modality.decoded_signature,
        lambda *inputs: _answer(model, serving, *inputs),
        decoded_specs(modality, model),
    )
    archive.write_out(str(path), verbose=False)
    write_labels(Path(path) / "assets" / LABELS_FILE, serving.class_names)


def _example_graphs(
    model: keras.Model, serving: Serving
) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
    """Functions of raw examples that are answered as wholes, by the names of their signatures."""
    modality, embed = serving.modality, embedding_model(model)

    def from_raw(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return _answer(model, serving, *_decoded(raw, modality, model))

    def embedding(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return _for_any_count(
            _decoded(raw, modality, model),
            lambda some: {"embedding": tf.cast(embed(some, training=False), tf.float32)},
        )

    return {SERVING_RAW: from_raw, SERVING_EMBEDDING: embedding}


def _answer(model: keras.Model, serving: Serving, *inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    return _for_any_count(inputs, lambda some: _answers(model(some, training=False), serving))


def network_inputs(model: keras.Model, inputs: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
    """Decoded inputs as a model takes them: in its order, and each in its dtype."""
    tensors = {id(_input_of(model, name)): value for name, value in inputs.items()}
    return [tf.cast(tensors[id(each)], each.dtype) for each in model.inputs]


def _input_of(model: keras.Model, name: str) -> keras.KerasTensor:
    """The model's input of that name; its only one may have any name."""
    return next((each for each in model.inputs if each.name == name), model.inputs[0])


def decoded_specs(modality: Modality, model: keras.Model) -> list[tf.TensorSpec]:
    """The model's inputs in its order, named by the modality."""
    names = {id(_input_of(model, name)): name for name in modality.spec}
    order = [names[id(each)] for each in model.inputs]
    return [
        tf.TensorSpec([None, *modality.spec[name].shape], each.dtype, name=name)
        for name, each in zip(order, model.inputs, strict=True)
    ]


def _decoded(raw: tf.Tensor, modality: Modality, model: keras.Model) -> list[tf.Tensor]:
    with tf.control_dependencies([modality.check(raw)]):
        raw = tf.identity(raw)
    return network_inputs(model, modality.trimmed(modality.decode_all(raw)))


def _for_any_count(
    inputs: Sequence[tf.Tensor], function: Callable[[Any], dict[str, tf.Tensor]]
) -> dict[str, tf.Tensor]:
    """The function of some examples, or of none."""
    # oneDNN's convolution gives an empty batch the shape of its input, and the next layer fails (TensorFlow
    # 2.21): one example of zeros stands in. tf.pad by nothing copies nothing.
    count = tf.shape(inputs[0])[0]
    missing = tf.cast(count == 0, tf.int32)
    padded = [tf.pad(each, [[0, missing], *[[0, 0]] * (len(each.shape) - 1)]) for each in inputs]
    return {name: value[:count] for name, value in function(alone(padded)).items()}


def _answers(logits: tf.Tensor, serving: Serving) -> dict[str, tf.Tensor]:
    # under mixed precision a model may end in bfloat16: softmax and answer stay float32
    logits = tf.cast(logits, tf.float32)
    if serving.task.per_step:
        return {"probabilities": tf.nn.softmax(logits)}
    answers = serving.task.answers(logits, serving.class_names, serving.top)
    if serving.threshold is not None:
        answers["accepted"] = answers["scores"][:, 0] >= serving.threshold
    return answers


def write_decoded_only(model: keras.Model, serving: Serving, path: Path, integer: bool = False) -> None:
    """A SavedModel with nothing in it that another engine could not know: decoded inputs in, probabilities out.

    A model in mixed precision is written in float32: LiteRT has no bfloat16, and ONNX Runtime little.

    Args:
        model: returns logits.
        serving: how it is served.
        path: folder to write.
        integer: the inputs are going to be integers of eight bits: keep their scale to themselves.
    """
    model = in_float32(model)
    modality, to_probabilities = serving.modality, getattr(tf.nn, serving.task.activation)

    def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        some = [modality.own_scale(each) for each in inputs] if integer else inputs
        logits = tf.cast(model(alone(some), training=False), tf.float32)
        return {"probabilities": to_probabilities(logits)}

    archive = keras.export.ExportArchive()
    archive.add_endpoint(SERVING_RAW, answer, decoded_specs(modality, model))
    archive.write_out(str(path), verbose=False)


def check_serving(model: keras.Model, serving: Serving) -> None:
    """Raise ExportError, with all problems in it, unless names and inputs fit the model."""
    names, modality = serving.class_names, serving.modality
    problems = []
    if model.output_shape[-1] != len(names):
        problems.append(
            f"{len(names)} class names were given for a model with {model.output_shape[-1]} outputs."
        )
    for name, each in modality.spec.items():
        shape = tuple(_input_of(model, name).shape[1:])
        if len(shape) != len(each.shape) or any(
            side not in (None, expected) for side, expected in zip(shape, each.shape, strict=True)
        ):
            problems.append(f"The model takes {modality.noun}s of shape {shape}, not {each.shape}.")
    if len(set(names)) != len(names):
        problems.append("Two classes have the same name.")
    for name in names:
        if not has_one_line(name):
            problems.append(
                f"The class name {name!r} has a line break or is not valid Unicode; rename the class."
            )
    if problems:
        raise ExportError("The model cannot be exported:\n" + "\n".join(f"  - {line}" for line in problems))
