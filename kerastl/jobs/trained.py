"""The trained model of a run, and what it needs to be asked."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastl.backbones import is_preset
from kerastl.client.replies import entities_of
from kerastl.data.entity_examples import in_rows
from kerastl.data.examples import Examples, Splits
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import UserError
from kerastl.export.reader import load_exported, plain_outputs
from kerastl.export.saved_model import network_inputs
from kerastl.export.signature import SERVING_RAW, Serving
from kerastl.export.word_graphs import word_graphs
from kerastl.modality import Batch, Modality, modality_named, modality_of
from kerastl.modality.read import decode_each
from kerastl.model.graph import alone
from kerastl.model.own import reason_of
from kerastl.prediction import Entity
from kerastl.presets import require_keras_hub
from kerastl.recipe import Settings, recipe_from_dict, resolve, settings_from_dict
from kerastl.recipe.schema import HANDED
from kerastl.run import Run, open_run
from kerastl.task import Task


def recipe_of(run: Run) -> Settings:
    """The settings of a run; keys that an earlier version did not write are chosen anew."""
    values = tomllib.loads(run.recipe_toml.read_text(encoding="utf-8"))
    try:
        settings = settings_from_dict(values, origin=str(run.recipe_toml))
        # where they lie now: a run's folder may be moved
        kept = modality_named(settings.modality).own_files
        copies: dict[str, Any] = {
            key: str(run.path / name) for key, name in kept.items() if (run.path / name).is_file()
        }
        return dataclasses.replace(settings, data=dataclasses.replace(settings.data, **copies))
    except ValueError:
        data = json.loads(run.data_json.read_text(encoding="utf-8"))
        recipe = recipe_from_dict(values, origin=str(run.recipe_toml))
        return resolve(recipe, data["counts"]["train"], len(data["classes"]))


@dataclass(frozen=True)
class Reader:
    """A trained model as a function of raw examples.

    Attributes:
        answer: their bytes -> probabilities [n, k], and whether each is accepted, [n].
        class_names: in the order of the probabilities.
        task: what is answered.
        modality: what the examples are.
        entities: their bytes -> the entities of each, of a model that finds them; None of others.
    """

    answer: Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]
    class_names: Sequence[str]
    task: Task
    modality: type[Modality]
    entities: Callable[[Sequence[bytes]], list[tuple[Entity, ...]]] | None = None


class TrainedRun:
    """The trained model of a run: what its folder holds, read when it is first asked for.

    Args:
        run: the run's folder.

    Attributes:
        folder: the run's folder.

    Raises:
        UserError: it is no folder of a run, or the run was not finished.
    """

    def __init__(self, run: Path | str) -> None:
        self.folder = open_run(run)

    @cached_property
    def recipe(self) -> Settings:
        """The settings of the run: what was asked for, and what the rule chose."""
        return recipe_of(self.folder)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return tuple(json.loads(self.folder.data_json.read_text(encoding="utf-8"))["classes"])

    @cached_property
    def threshold(self) -> float | None:
        """Lowest probability that counts as an answer; None where there is none, or the run was stopped before."""
        file = self.folder.calibration_json
        return json.loads(file.read_text(encoding="utf-8"))["threshold"] if file.exists() else None

    @cached_property
    def model(self) -> keras.Model:
        """The Keras model: decoded inputs -> calibrated logits [n, classes].

        Raises:
            UserError: it has layers that Keras does not know in this process, or stands on a preset and KerasHub is not installed.
        """
        if is_preset(self.recipe.backbone.name):
            require_keras_hub()
        try:
            return keras.saving.load_model(self.folder.model_keras, compile=False)
        except TypeError as error:  # what Keras says of a class that it cannot find
            raise UserError(
                f"Keras cannot load {self.folder.model_keras}: {reason_of(error)} Layers of one's own have to be registered "
                "(@keras.saving.register_keras_serializable()), and their module imported first: in Python, before kerastl.load. "
                "An exported model needs neither"
            ) from error

    @property
    def serving(self) -> Serving:
        """Properties of its served model."""
        return serving_of(self.recipe, self.class_names, self.threshold)

    @property
    def is_handed(self) -> bool:
        """True if its data were handed over in Python, so that they cannot be opened again."""
        return self.recipe.data.source.startswith(HANDED)

    def decoded(self, raw: Sequence[bytes]) -> Batch:
        """Raw examples as the network takes them."""
        return decode_each(modality_of(self.recipe), raw)

    def splits(self, data: Examples | None = None) -> Splits:
        """The data of the run, split as they were for its training.

        Args:
            data: where they were handed over in Python.

        Raises:
            DataError: they are gone, or were handed over in Python and are not given.
        """
        splits = make_splits(open_examples(self.recipe.data) if data is None else data, self.recipe.data)
        return in_rows(splits, modality_of(self.recipe))

    @property
    def kept(self) -> list[bytes]:
        """Encoded validation and test examples that the run's folder holds; none where its data can be opened again."""
        folder = self.folder.check_examples
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []

    @property
    def reader(self) -> Reader:
        """Answers of the model in this process."""

        def answer(raw: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
            inputs = network_inputs(self.model, modality_of(self.recipe).trimmed(self.decoded(raw)))
            logits = self.model(alone(inputs), training=False).numpy()
            probabilities = self.recipe.task.probabilities(logits)
            return probabilities, probabilities.max(axis=1) >= (self.threshold or 0.0)

        return Reader(
            answer,
            self.class_names,
            self.recipe.task,
            type(modality_of(self.recipe)),
            self._entities if self.recipe.task.per_step else None,
        )

    @cached_property
    def _graph(self) -> Callable[[Any], dict[str, Any]]:
        """The served graph of a model that finds entities, in this process; one for any number of texts, as tracing takes seconds."""
        import tensorflow as tf

        answer = word_graphs(self.model, self.serving, network_inputs)[SERVING_RAW]
        return tf.function(answer, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

    def _entities(self, raw: Sequence[bytes]) -> list[tuple[Entity, ...]]:
        import tensorflow as tf

        outputs = plain_outputs(self._graph(tf.constant(list(raw), tf.string)))
        return [entities_of(outputs, row) for row in range(len(raw))]


def serving_of(recipe: Settings, class_names: Sequence[str], threshold: float | None) -> Serving:
    """Properties of a recipe's served model."""
    return Serving(tuple(class_names), modality_of(recipe), recipe.task, threshold)


def open_reader(model: Path) -> Reader:
    """The reader of a run's folder or of an exported model."""
    if (model / "model.keras").is_file() or (model / "recipe.toml").is_file():
        return TrainedRun(model).reader
    exported = load_exported(model)
    entities = exported.entities if exported.task.per_step else None
    return Reader(exported.predict_bytes, exported.class_names, exported.task, exported.modality, entities)
