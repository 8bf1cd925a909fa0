"""Precision of a model's arithmetic: what a recipe asks for, what this machine is good at, and copies in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kerastl.model.device import gpus_here, plan_for
from kerastl.model.graph import walk_layers
from kerastl.progress import Progress
from kerastl.recipe import Recipe


def computes_in_float32(model: keras.Model) -> bool:
    """True if no layer computes in fewer bits."""
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


def precision_of_model(model: keras.Model) -> str:
    """`mixed_bfloat16` where any layer computes in it, else `float32`."""
    # A nested model says nothing of its layers' arithmetic: its own policy is float32.
    in_sixteen_bits = any(layer.compute_dtype == "bfloat16" for layer in walk_layers(model))
    return "mixed_bfloat16" if in_sixteen_bits else "float32"


@contextmanager
def precision_of(recipe: Recipe, progress: Progress = Progress()) -> Iterator[str]:
    """Build networks in the recipe's arithmetic; yields `float32` or `mixed_bfloat16`, and notes why."""
    precision, why = recipe.precision, f"precision = {recipe.precision}"
    if precision == "auto":
        plan = plan_for(gpus_here())
        precision, why = plan.precision, f"{why}: {plan.why}"
    progress.note(f"Arithmetic: {precision} ({why})")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield precision
    finally:
        keras.config.set_dtype_policy(before)


def make_repeatable(recipe: Recipe) -> None:
    """Seed everything; in deterministic mode also forbid operations whose result depends on timing."""
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
