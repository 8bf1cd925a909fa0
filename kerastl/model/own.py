"""A backbone of one's own: a functional Keras model of images from a `.keras` file.

Its cut points are found on its graph. Models within the model are unfolded, so that a network that a tutorial wraps into
rescaling, base and classifier has the cut points of its base; what stands on the last activation is left out.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import keras
from keras import layers

from kerastl import backbones
from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError
from kerastl.model.graph import cut_points, trace, trained_parameters, unfreeze_points
from kerastl.wording import safe_name

# What a file is taken for that says nothing of its size.
DEFAULT_SIZE = 224


def own_spec(name: str) -> BackboneSpec:
    """What the registry would say of the network in a file.

    Args:
        name: path of a `.keras` file.

    Raises:
        UserError: it cannot be loaded, or is no network of images.
    """
    path = Path(name).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"backbone.name = '{name}': {error.strerror}. Expected a .keras file or a name that `kerastl backbones` lists."
        ) from error
    return _spec(name, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _spec(name: str, changed: int, size: int) -> BackboneSpec:
    model = _opened(name)
    side = model.inputs[0].shape[1]
    backbone = _below_the_classifier(model, name, side or DEFAULT_SIZE)
    points = unfreeze_points(backbone)
    rescales = any(
        isinstance(step.operation, (layers.Rescaling, layers.Normalization)) for step in trace(backbone)
    )
    return BackboneSpec(
        name=backbone.name,
        builder="",
        module="",
        preprocessing="its own" if rescales else "identity",
        image_size=side or DEFAULT_SIZE,
        min_image_size=side or 1,
        max_image_size=side,
        parameters=backbone.count_params(),
        feature_channels=int(backbone.outputs[0].shape[-1]),
        unfreeze_points=points,
        trained_parameters=trained_parameters(backbone, points),
        file=name,
    )


def save_own(model: keras.Model, path: Path) -> str:
    """Write a network that is handed over in Python into a file, and make sure that it can be used from there.

    Args:
        model: functional, of images.
        path: of the file, ending in `.keras`.

    Returns:
        The path.

    Raises:
        UserError: it is no functional model of images, or has layers of one's own that Keras cannot load again.
    """
    problem = _problem(model)
    if problem:
        raise UserError(f"The backbone '{model.name}': {problem}")
    save_whole(model, path, f"The backbone '{model.name}'")
    try:
        own_spec(str(path))
    except UserError as error:
        raise UserError(
            str(error).replace(f"backbone.name = '{path}'", f"The backbone '{model.name}'")
        ) from error
    return str(path)


def save_whole(model: keras.Model, path: Path, what: str) -> None:
    """Save a model whose layers Keras can load again; else UserError, which begins with `what`."""
    try:
        model.save(path)
        keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever saving or loading layers of one's own makes Keras raise
        raise UserError(
            f"{what} cannot be saved and loaded again: {reason_of(error)} Layers of one's own need get_config(), "
            "build() where they have weights, and @keras.saving.register_keras_serializable()"
        ) from error


def reason_of(error: BaseException) -> str:
    """Why Keras could not load a model: the class that it did not find, wherever that stands in what it says, or its first line."""
    text = str(error).strip()
    known = re.search(r"Could not locate class '[^']+'", text)
    return f"{known[0]}." if known else (text.splitlines() or [type(error).__name__])[0]


def load_own(name: str, image_size: int) -> keras.Model:
    """The network in a file, from float32 [b, image_size, image_size, 3] RGB 0..255 to its last activation, with its weights.

    Args:
        name: path of a `.keras` file.
        image_size: side of its input in pixels.

    Raises:
        UserError: it cannot be loaded, or is no network of images.
    """
    return _below_the_classifier(_opened(name), name, image_size)


def _below_the_classifier(model: keras.Model, name: str, image_size: int) -> keras.Model:
    pixels = keras.Input((image_size, image_size, 3), dtype="float32", name="pixels")
    flat = keras.Model(pixels, _called(model, [pixels]))
    _, *tensors = (point.tensor for point in cut_points(flat).values() if not point.carried)
    spatial = [each for each in tensors if len(each.shape) == 4]
    wide = [each for each in spatial if each.shape[1:3] != (1, 1)]
    if not spatial:
        raise UserError(
            f"backbone.name = '{name}': no activation [batch, height, width, channels] that every path passes. Expected a "
            "functional network of images."
        )
    last = (wide or spatial)[-1]
    backbone = keras.Model(pixels, last, name="own")
    # The graph is part of the name, and with it of what features are kept under: weights alone do not tell a network.
    graph = json.dumps(backbone.get_config(), sort_keys=True, default=str)
    digest = hashlib.sha256(graph.encode()).hexdigest()[:8]
    return keras.Model(pixels, last, name=f"{safe_name(Path(name).stem)}_{digest}")


def _opened(name: str) -> keras.Model:
    try:
        model = keras.saving.load_model(Path(name).expanduser(), compile=False)
    except Exception as error:  # whatever a file that is none makes Keras raise
        raise UserError(
            f"backbone.name = '{name}': Keras cannot load it: {reason_of(error)}. Expected a functional model "
            "of Keras' own layers, saved by model.save('NAME.keras')."
        ) from error
    if problem := _problem(model):
        raise UserError(f"backbone.name = '{name}': {problem}")
    return model


def _problem(model: keras.Model) -> str:
    """Why a model is no backbone, and what is expected; empty where it may be one."""
    found = ""
    try:
        if len(model.inputs) != 1:
            found = f"it has {len(model.inputs)} inputs"
        elif len(shape := tuple(model.inputs[0].shape)) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            found = f"its input has the shape {shape}"
    except (AttributeError, ValueError, TypeError):
        found = "it is no functional model"
    expected = "Expected a functional Keras model with one input [batch, side, side, 3]: RGB pixels, 0..255."
    return f"{found}. {expected}" if found else ""


def _called(model: keras.Model, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
    """The model's operations called on other tensors, those of models within it one by one; weights are shared."""
    functional = keras.Model(model.inputs, model.outputs)
    made: dict[int, Any] = {id(own): given for own, given in zip(functional.inputs, inputs, strict=True)}
    for step in trace(functional):
        operation, node, index = step.tensor._keras_history
        if id(step.tensor) in made:
            continue
        arguments, keywords = operation._inbound_nodes[node].arguments.fill_in(made)
        if isinstance(operation, keras.Model) and len(arguments) == 1:
            made[id(step.tensor)] = _called(operation, [arguments[0]])
        else:
            found = operation(*arguments, **keywords)
            made[id(step.tensor)] = found[index] if isinstance(found, (list, tuple)) else found
    return made[id(functional.outputs[0])]


backbones.set_opener(own_spec)
