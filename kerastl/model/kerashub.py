"""Backbones from KerasHub presets: their networks from the modality's inputs on, their preprocessing and cut points.

KerasHub's own layers stay in the graph. Many of them cannot be made again from what they write down (ViT's, DeiT's, Swin's), but the
network's class can from its sizes. So `PresetBackbone` writes those down, and what Keras saves of it needs kerastl and KerasHub to be
loaded; an exported SavedModel holds operations alone and needs neither.

A layer that holds a whole stack of blocks, as ViT's and DINOv2's encoders are, is unfolded, so that each block ends in a cut point.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError, WeightsError
from kerastl.modality import InputSpec, modality_named, only
from kerastl.model.encoders import LENGTH, PIECES
from kerastl.model.graph import alone, cut_points, trained_parameters, unfreeze_points
from kerastl.model.head_input import LAST
from kerastl.model.steps import step_numbers, steps_seen
from kerastl.model.unfold import Call, called, plainly
from kerastl.presets import (
    CONFIG_FILE,
    Preset,
    Scaling,
    label_of,
    lowercase_of,
    read_preset,
    require_keras_hub,
    scaling_of,
)
from kerastl.wording import safe_name

# Inputs of KerasHub's encoders of texts, and which of several outputs is the hidden states.
_PIECES, _MASK, _SEGMENTS, _STATES = "token_ids", "padding_mask", "segment_ids", "sequence_output"
Graph = tuple[list[keras.KerasTensor], keras.KerasTensor]


@keras.saving.register_keras_serializable(package="kerastl")
class PresetBackbone(keras.Model):
    """A network of KerasHub, from a modality's inputs to its last activation or to several, as one functional model.

    Args:
        network: Class and sizes of KerasHub's network, as Keras writes objects down.
        entries: Shape of each input by name, without the batch: `pieces` and `length`, int32, or one of any other name, float32.
        scale: Factor of that one, or one for each channel.
        offset: What is added then.
        reads: Cut points whose outputs it gives, `backbone` for the last activation; that alone without them.
        graph: Inputs and last activation on which it shares all layers; without it they are made from `network`, with random weights.
        name: Of the model.

    Raises:
        UserError: KerasHub is not installed.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        entries: Mapping[str, Sequence[int | None]],
        scale: Any = 1.0,
        offset: Any = 0.0,
        reads: Sequence[str] = (),
        graph: Graph | None = None,
        name: str = "preset",
    ) -> None:
        inputs, last = graph or _graph(_made(network), entries, scale, offset)
        tensors = last
        if reads:
            points = cut_points(keras.Model(alone(inputs), last))
            tensors = [last if each == LAST else points[each].tensor for each in reads]
        super().__init__(alone(inputs), tensors, name=name)
        # In words: Keras would look for layers in a dictionary.
        settings = {"network": network, "entries": entries, "scale": scale, "offset": offset, "reads": reads}
        self._settings = json.dumps(settings)

    def giving(self, names: Sequence[str]) -> PresetBackbone:
        """A model of the same layers that gives the outputs of some cut points; only of one that gives the last activation."""
        graph = list(self.inputs), self.outputs[0]
        return PresetBackbone(**{**self.get_config(), "reads": list(names)}, graph=graph)

    def get_config(self) -> dict[str, Any]:
        """The arguments that it is made with again; random weights."""
        return {**json.loads(self._settings), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PresetBackbone:
        """A model with layers of its own."""
        return cls(**config)


def preset_spec(name: str) -> BackboneSpec:
    """The registry's entry for a preset; its weights are not read.

    Args:
        name: `kerashub:FOLDER` or `kerashub:NAME`.

    Raises:
        UserError: there is no such preset, or it is for other examples, or cannot be loaded.
    """
    require_keras_hub()
    preset = read_preset(name)
    return _spec(name, preset.folder, (preset.folder / CONFIG_FILE).stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _spec(name: str, folder: Path, changed: int) -> BackboneSpec:
    preset = read_preset(name)
    scaling, own = scaling_of(preset), _made(_network(preset))
    backbone = _backbone(preset, own, None)
    points, found = unfreeze_points(backbone), cut_points(backbone)
    joins = [*backbone.outputs, *(found[point].tensor for point in points[1:-1])]
    fields: dict[str, Any] = {"stepped": all(len(each.shape) == 3 for each in joins)}
    if preset.is_text:
        told = {True: "uncased", False: "cased", None: "its own"}[lowercase_of(preset)]
        sizes = {"vocabulary": preset.vocabulary, "positions": preset.positions}
        fields |= {"arguments": tuple((key, value) for key, value in sizes.items() if value)}
        fields |= {"length": LENGTH, "image_size": 0, "min_image_size": 0, "preprocessing": told}
    else:
        side = own.inputs[0].shape[1]
        usual = only(_entries(preset, own)).shape[0] if side or not scaling else scaling.size
        fields |= {"image_size": usual, "min_image_size": side or 1, "max_image_size": side}
        fields |= {"preprocessing": "its own" if scaling else "identity"}
    return BackboneSpec(
        name=backbone.name,
        builder="",
        module="",
        parameters=backbone.count_params(),
        feature_channels=int(backbone.outputs[0].shape[-1]),
        unfreeze_points=points,
        trained_parameters=trained_parameters(backbone, points),
        file=name,
        modality=preset.modality,
        **fields,
    )


def load_preset(name: str, inputs: Mapping[str, InputSpec]) -> PresetBackbone:
    """The network of a preset with its weights, under the current dtype policy.

    Args:
        name: of the preset.
        inputs: named inputs of the network, as the modality decodes them.

    Raises:
        UserError: there is no such preset, or it takes other inputs.
        WeightsError: its weights cannot be read, or are damaged.
    """
    require_keras_hub()
    preset = read_preset(name)
    own = _made(_network(preset))
    # Before the names of layers are changed. Keras stops at what a file lacks, and reads past what it has too many.
    whole = own if preset.tower is None else _made(preset.whole)
    try:
        whole.load_weights(preset.weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"backbone.name = '{name}': {preset.weights} does not fit {preset.folder / CONFIG_FILE}, or is damaged: {reason}"
        ) from error
    if preset.tower is not None:
        own.set_weights(getattr(whole, preset.tower).get_weights())
    if not all(np.isfinite(each).all() for each in own.get_weights()):
        raise WeightsError(f"{preset.weights} holds values that are not finite; take an undamaged file.")
    return _backbone(preset, own, inputs)


def _network(preset: Preset) -> dict[str, Any]:
    """Class and sizes of a preset's backbone in the current precision."""
    sizes = {**preset.sizes, "dtype": keras.config.dtype_policy().name}
    return {**preset.network, "config": sizes}


def _made(network: Mapping[str, Any]) -> keras.Model:
    """KerasHub's network with random weights."""
    require_keras_hub()
    import keras_hub

    assert keras_hub  # it registers its classes
    try:
        return keras.saving.deserialize_keras_object(network)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"KerasHub {keras_hub.__version__} cannot build {network.get('class_name')} from its {CONFIG_FILE}: {reason}. Expected what its "
            "save_to_preset wrote, in this version or an earlier one."
        ) from error


def _entries(preset: Preset, own: keras.Model) -> dict[str, InputSpec]:
    """The inputs that a preset's backbone takes by the names of its modality."""
    names, modality = {each.name for each in own.inputs}, modality_named(preset.modality)
    if preset.is_text:
        if not {_PIECES} <= names <= {_PIECES, _MASK, _SEGMENTS}:
            raise UserError(
                f"backbone.name = '{preset.name}': it takes {', '.join(sorted(names))}. Expected an encoder that takes {_PIECES} and at most "
                f"{_MASK} and {_SEGMENTS}."
            )
        return {PIECES: InputSpec((preset.positions or 1,), "int32"), LENGTH: InputSpec((), "int32")}
    try:
        return modality.inputs_of([tuple(each.shape) for each in own.inputs])
    except ValueError as error:
        raise UserError(f"backbone.name = '{preset.name}': {error}. {modality.network}") from error


def _backbone(preset: Preset, own: keras.Model, inputs: Mapping[str, InputSpec] | None) -> PresetBackbone:
    """KerasHub's network from the modality's inputs on; for any that it takes where none are given."""
    taken = _entries(preset, own)
    given = taken if inputs is None else inputs
    if {*given} != {*taken}:
        raise UserError(
            f"backbone.name = '{preset.name}' takes {' and '.join(taken)}, not {' and '.join(given)}: it is for another kind of example. "
            f"Expected data whose kind is {preset.modality}."
        )
    entries: dict[str, Sequence[int | None]] = {PIECES: (None,), LENGTH: ()}
    if not preset.is_text:
        entries = {name: each.shape for name, each in given.items()}
    scaling = scaling_of(preset) or Scaling()
    network = _network(preset)
    graph = _graph(own, entries, scaling.scale, scaling.offset)
    name = f"{safe_name(label_of(preset.name))}_{_digest(network, scaling)}"
    return PresetBackbone(network, entries, scaling.scale, scaling.offset, graph=graph, name=name)


def _digest(network: Mapping[str, Any], scaling: Scaling) -> str:
    """Eight hex digits of all that features depend on beside the weights."""
    import keras_hub

    sizes = {key: value for key, value in network["config"].items() if key != "dtype"}
    facts = [network["class_name"], sizes, scaling.scale, scaling.offset, keras_hub.__version__]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _graph(own: keras.Model, entries: Mapping[str, Sequence[int | None]], scale: Any, offset: Any) -> Graph:
    """Inputs and last activation, from layers of KerasHub's network."""
    outputs = own.output
    states = outputs.get(_STATES) if isinstance(outputs, dict) else own.outputs[0]
    if states is None:
        raise UserError(
            f"{type(own).__name__} gives {', '.join(outputs)}. Expected one output, or {_STATES}."
        )
    names = [each.name for each in own.inputs]
    plain, unfolded = keras.Model(own.inputs, states), _unfolding({each.name for each in own.operations})
    if {*entries} == {PIECES, LENGTH}:
        pieces = keras.Input(tuple(entries[PIECES]), dtype="int32", name=PIECES)
        length = keras.Input((), dtype="int32", name=LENGTH)
        seen = ops.cast(ops.less_equal(step_numbers(pieces), ops.expand_dims(length, 1)), "int32")
        given = {_PIECES: pieces, _MASK: seen, _SEGMENTS: ops.zeros_like(pieces)}

        def call(operation: keras.Operation, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
            # A mask of the states themselves, so that a cut below carries the length alone.
            if keywords.get(_MASK) is not None:
                mask = ops.cast(steps_seen(arguments[0], length), "int32")
                keywords = {**keywords, _MASK: mask}
            return unfolded(operation, arguments, keywords)

        return [pieces, length], called(plain, [given[name] for name in names], call)
    ((name, shape),) = entries.items()
    entry = keras.Input(tuple(shape), dtype="float32", name=name)
    taken = entry
    if (scale, offset) != (1.0, 0.0):
        taken = layers.Rescaling(scale, offset, dtype="float32", name="preset_rescaling")(entry)
    return [entry], called(plain, [taken], unfolded)


def _unfolding(names: set[str]) -> Call:
    """Calls layers of KerasHub that are a stack of blocks block by block.

    Args:
        names: of the operations around; those within a stack that have one of them get the stack's name as well.
    """

    def call(operation: keras.Operation, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        if not _is_theirs(operation):
            return plainly(operation, arguments, keywords)
        if not _is_stack(operation):
            return _shaped(operation, arguments, keywords)
        for inner in operation._flatten_layers(include_self=False, recursive=False):
            inner.name = f"{operation.name}_{inner.name}" if inner.name in names else inner.name
            names.add(inner.name)
        try:
            return operation.call(*arguments, **keywords)
        except (TypeError, ValueError, AttributeError):  # it computes with shapes that are not known yet
            return plainly(operation, arguments, keywords)

    return call


def _shaped(operation: keras.Layer, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The layer as it is, with the shapes that it computes and not those that it says: of SigLIP's embedding KerasHub (0.32) says a step
    too many, and a part of the network above would wait for it.
    """
    operation.compute_output_shape = MethodType(keras.Layer.compute_output_shape, operation)
    try:
        return plainly(operation, arguments, keywords)
    except NotImplementedError:  # it computes with the size of the batch: then what it says has to do
        del operation.compute_output_shape
        return plainly(operation, arguments, keywords)


def _is_stack(operation: keras.Layer) -> bool:
    """True for a layer of KerasHub without weights of its own in which a layer of KerasHub stands several times."""
    inner = operation._flatten_layers(include_self=False, recursive=False)
    kinds = Counter(type(each) for each in inner if _is_theirs(each) and each.weights)
    own = [*operation._trainable_variables, *operation._non_trainable_variables]
    return not own and max(kinds.values(), default=0) > 1


def _is_theirs(operation: keras.Operation) -> bool:
    return isinstance(operation, keras.Layer) and type(operation).__module__.startswith("keras_hub.")
