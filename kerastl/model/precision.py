"""In which numbers a model computes."""

from __future__ import annotations

from typing import Any

import keras

from kerastl.model.graph import walk_layers


def computes_in_float32(model: keras.Model) -> bool:
    """Whether no layer computes in fewer bits."""
    return all(layer.compute_dtype == "float32" for layer in walk_layers(model))


def in_float32(model: keras.Model) -> keras.Model:
    """The same model with the same weights, computing in float32: mixed precision keeps its weights so anyway.

    Args:
        model: of Keras' own layers.

    Returns:
        The model itself where nothing is to be changed.
    """
    if computes_in_float32(model):
        return model
    copy = keras.saving.deserialize_keras_object(_float32_of(keras.saving.serialize_keras_object(model)))
    copy.set_weights(model.get_weights())
    return copy


def _float32_of(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        # Tensors among the arguments of an operation name their type in words.
        in_words = ("bfloat16", "mixed_bfloat16")
        return {
            key: "float32" if key == "dtype" and value in in_words else _float32_of(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_float32_of(value) for value in config)
    return config
