"""A backbone of one's own: a functional Keras model from a `.keras` file, also one of sequences with their lengths, or a KerasHub preset
(`kerastl.model.kerashub`).

Its cut points are found on its graph. Models within the model are unfolded, so that a network that a tutorial wraps into
rescaling, base and classifier has the cut points of its base; what stands on the last activation is left out.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kerastl import backbones
from kerastl.backbones import BackboneSpec, is_preset
from kerastl.errors import UserError
from kerastl.modality import MODALITIES, InputSpec, modality_named
from kerastl.model.graph import alone, cut_points, trace, trained_parameters, unfreeze_points
from kerastl.model.kerashub import load_preset, preset_spec
from kerastl.model.unfold import called
from kerastl.wording import safe_name


def own_spec(name: str) -> BackboneSpec:
    """The registry's entry for the network in a file.

    Args:
        name: path of a `.keras` file, or a KerasHub preset (`kerashub:FOLDER`).

    Raises:
        UserError: it cannot be loaded, or is no network of such examples.
    """
    if is_preset(name):
        return preset_spec(name)
    path = Path(name).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(
            f"backbone.name = '{name}': {error.strerror}. Expected a .keras file, a KerasHub preset (kerashub:FOLDER) or a name that `kerastl backbones` lists."
        ) from error
    return _spec(name, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _spec(name: str, changed: int, size: int) -> BackboneSpec:
    model, modality, inputs = _opened(name)
    backbone, length = _below_the_classifier(model, name, inputs), _length_of(inputs)
    fixed = None if length else model.inputs[0].shape[1]
    points = unfreeze_points(backbone)
    rescales = length is not None or any(
        isinstance(step.operation, (layers.Rescaling, layers.Normalization)) for step in trace(backbone)
    )
    return BackboneSpec(
        name=backbone.name,
        builder="",
        module="",
        preprocessing="its own" if rescales else "identity",
        image_size=0 if length else next(iter(inputs.values())).shape[0],
        min_image_size=0 if length else fixed or 1,
        max_image_size=fixed,
        parameters=backbone.count_params(),
        feature_channels=int(backbone.outputs[0].shape[-1]),
        unfreeze_points=points,
        trained_parameters=trained_parameters(backbone, points),
        file=name,
        length=length,
        modality=modality,
    )


def save_own(model: keras.Model, path: Path) -> str:
    """Write a network that is handed over in Python into a file, and make sure that it can be used from there.

    Args:
        model: functional.
        path: of the file, ending in `.keras`.

    Returns:
        The path.

    Raises:
        UserError: it is no functional model of such examples, or has layers of one's own that Keras cannot load again.
    """
    _inputs(model, f"The backbone '{model.name}'")
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


def load_own(name: str, inputs: Mapping[str, InputSpec]) -> keras.Model:
    """The network in a file, from decoded inputs, bytes as float32, to its last activation, with its weights.

    Args:
        name: path of a `.keras` file, or a KerasHub preset.
        inputs: named inputs of the network, as the modality decodes them.

    Raises:
        UserError: it cannot be loaded, or is no network of such examples, or does not take as many steps or ids.
    """
    if is_preset(name):
        return load_preset(name, inputs)
    backbone = _below_the_classifier(_opened(name)[0], name, inputs)
    if (length := _length_of(inputs)) is not None:
        most = max(each.shape[0] for each in inputs.values() if each.shape)
        ids = max(each.values or 1 for each in inputs.values())

        def error_of(last: int) -> Exception | None:
            """The exception that TensorFlow raises at as many steps of that id; None where it raises none."""
            longest = {
                own: np.full((1, *each.shape), last if each.values else 0, each.dtype)
                for own, each in inputs.items()
            }
            try:
                with tf.device("CPU"):  # where ids that a table does not have are an error and not zeros
                    backbone({**longest, length: np.array([most], inputs[length].dtype)}, training=False)
            except Exception as error:
                return error
            return None

        if error := error_of(ids - 1):
            of_steps = error_of(0)
            problem = (
                f"cannot compute {most} steps: {reason_of(of_steps)} Set data.max_pieces to what it takes."
                if of_steps
                else f"does not take all of the {ids:,} pieces of the vocabulary: {reason_of(error)} Set data.vocabulary to its own."
            )
            raise UserError(f"backbone.name = '{name}': it {problem}") from (of_steps or error)
    return backbone


def _length_of(inputs: Mapping[str, InputSpec]) -> str | None:
    """The input that says how many steps are real: a number an example."""
    return next((own for own, each in inputs.items() if not each.shape), None)


def _below_the_classifier(model: keras.Model, name: str, inputs: Mapping[str, InputSpec]) -> keras.Model:
    length = _length_of(inputs)
    taken = [
        keras.Input(
            (None, *each.shape[1:]) if length and each.shape else each.shape,
            dtype="float32" if each.dtype == "uint8" else each.dtype,
            name=own,
        )
        for own, each in inputs.items()
    ]
    flat = keras.Model(alone(taken), called(model, taken))
    # A length is carried past every cut; see `kerastl.model.cut`.
    tensors = (
        point.tensor
        for point in cut_points(flat).values()
        if {each.name for each in point.carried} <= {length}
        and not any(point.tensor is each for each in taken)
    )
    spatial = [each for each in tensors if len(each.shape) == (3 if length else 4)]
    wide = [each for each in spatial if each.shape[1:3] != (1, 1)]
    if not spatial:
        axes, kept = (
            ("steps", "steps") if length else ("height, width", "positions, as convolutional ones do,")
        )
        raise UserError(
            f"backbone.name = '{name}': no activation [batch, {axes}, channels] that every path passes. "
            f"Expected a functional network that keeps {kept} up to its last layers."
        )
    last = (wide or spatial)[-1]
    backbone = keras.Model(alone(taken), last, name="own")
    # The graph is part of the name, and with it of what features are kept under: weights alone do not tell a network.
    graph = json.dumps(backbone.get_config(), sort_keys=True, default=str)
    digest = hashlib.sha256(graph.encode()).hexdigest()[:8]
    return keras.Model(alone(taken), last, name=f"{safe_name(Path(name).stem)}_{digest}")


def _opened(name: str) -> tuple[keras.Model, str, dict[str, InputSpec]]:
    """The model in a file, the name of its modality, and its inputs."""
    try:
        model = keras.saving.load_model(Path(name).expanduser(), compile=False)
    except Exception as error:  # whatever a file that is none makes Keras raise
        raise UserError(
            f"backbone.name = '{name}': Keras cannot load it: {reason_of(error)}. Expected a functional model "
            "of Keras' own layers, saved by model.save('NAME.keras')."
        ) from error
    return model, *_inputs(model, f"backbone.name = '{name}'")


def _inputs(model: keras.Model, what: str) -> tuple[str, dict[str, InputSpec]]:
    """The modality and the named inputs that a model would be given; UserError, which begins with `what`, where it is no backbone."""
    problems = []
    for modality in map(modality_named, MODALITIES):
        try:
            return modality.name, modality.inputs_of([tuple(each.shape) for each in model.inputs])
        except (AttributeError, TypeError) as error:
            raise UserError(f"{what}: it is no functional model. {modality.network}") from error
        except ValueError as error:
            problems.append(f"as one of {modality.noun}s, {error}. {modality.network}")
    raise UserError(f"{what}: {' '.join(problems)}")


backbones.set_opener(own_spec)
