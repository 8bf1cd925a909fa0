"""The trained model of a run, and what it needs to be asked."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.errors import UserError
from kerastl.export.reader import load_exported
from kerastl.export.saved_model import as_structured, network_inputs
from kerastl.export.signature import Serving
from kerastl.jobs.calibrate import read_threshold
from kerastl.modality import Modality, modality_of
from kerastl.model.graph import walk_layers
from kerastl.model.own import reason_of
from kerastl.recipe import Settings, recipe_from_dict, resolve, settings_from_dict
from kerastl.run import Run, open_run
from kerastl.task import Task


def recipe_of(run: Run) -> Settings:
    """The settings of a run; keys that an earlier version did not write are chosen anew."""
    values = tomllib.loads(run.recipe_toml.read_text(encoding="utf-8"))
    try:
        return settings_from_dict(values, origin=str(run.recipe_toml))
    except ValueError:
        data = json.loads(run.data_json.read_text(encoding="utf-8"))
        recipe = recipe_from_dict(values, origin=str(run.recipe_toml))
        return resolve(recipe, data["counts"]["train"], len(data["classes"]))


def model_of(run: Run) -> keras.Model:
    """The trained model of a run.

    Raises:
        UserError: it has layers that Keras does not know in this process.
    """
    try:
        return keras.saving.load_model(run.model_keras, compile=False)
    except TypeError as error:  # what Keras says of a class that it cannot find
        raise UserError(
            f"Keras cannot load {run.model_keras}: {reason_of(error)} Layers of one's own have to be registered "
            "(@keras.saving.register_keras_serializable()), and their module imported first: in Python, before kerastl.load. An "
            "exported model needs neither"
        ) from error


def class_names_of(run: Run) -> tuple[str, ...]:
    """The classes of a run, in the order of its model's logits."""
    return tuple(json.loads(run.data_json.read_text(encoding="utf-8"))["classes"])


def serving_of(recipe: Settings, class_names: Sequence[str], threshold: float | None) -> Serving:
    """Properties of a recipe's served model."""
    return Serving(tuple(class_names), modality_of(recipe), recipe.task, threshold)


def precision_of_model(model: keras.Model) -> str:
    """`mixed_bfloat16` where any layer computes in it, else `float32`."""
    # A nested model says nothing of its layers' arithmetic: its own policy is float32.
    in_sixteen_bits = any(layer.compute_dtype == "bfloat16" for layer in walk_layers(model))
    return "mixed_bfloat16" if in_sixteen_bits else "float32"


@dataclass(frozen=True)
class Reader:
    """A trained model as a function of raw examples.

    Attributes:
        answer: their bytes -> probabilities [n, k], and whether each is accepted, [n].
        class_names: in the order of the probabilities.
        task: what is answered.
        modality: what the examples are.
    """

    answer: Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]
    class_names: Sequence[str]
    task: Task
    modality: type[Modality]


def open_reader(model: Path) -> Reader:
    """The reader of a run's folder or of an exported model."""
    if (model / "model.keras").is_file() or (model / "recipe.toml").is_file():
        folder = open_run(model)
        return run_reader(folder, model_of(folder))
    exported = load_exported(model)
    return Reader(exported.predict_bytes, exported.class_names, exported.task, exported.modality)


def run_reader(folder: Run, model: keras.Model) -> Reader:
    """The reader of a run whose model is loaded."""
    recipe = recipe_of(folder)
    threshold = read_threshold(folder) or 0.0
    modality = modality_of(recipe)

    def answer(raw: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        decoded = [modality.decode(tf.constant(data)) for data in raw]
        inputs = {name: tf.stack([each[name] for each in decoded]) for name in decoded[0]}
        logits = model(as_structured(network_inputs(model, inputs)), training=False).numpy()
        probabilities = recipe.task.probabilities(logits)
        return probabilities, probabilities.max(axis=1) >= threshold

    return Reader(answer, class_names_of(folder), recipe.task, type(modality))
