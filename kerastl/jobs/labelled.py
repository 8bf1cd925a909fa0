"""A run's images with their labels, decoded: what measures a trained model begins with them."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kerastl.data.examples import Examples, Split, listed, spread_positions
from kerastl.data.grouping import keep_copies_together
from kerastl.data.names import class_name
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, UserError, nearest
from kerastl.features.cache import Cache
from kerastl.features.inputs import decode_split
from kerastl.features.views import Pixels
from kerastl.jobs.prepare import reading_warnings
from kerastl.model.own import reason_of
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe, DataRecipe, Settings, recipe_from_dict, resolve, settings_from_dict
from kerastl.run import Run


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


def evaluation_split(recipe: Settings, data: str | Examples | Split | None) -> tuple[Split, DataRecipe]:
    """The images to measure a run's model on: its own test split, or those of another source.

    Args:
        recipe: of the run.
        data: another source, or its examples; all of its images are used, or its test split where it has one. A split is
            used as it is.
    """
    if isinstance(data, Split):
        return data, recipe.data
    if isinstance(data, Examples):
        source, examples = recipe.data, data
    else:
        source = recipe.data if data is None else dataclasses.replace(recipe.data, source=data)
        examples = open_examples(source)
    if data is None:
        return make_splits(examples, source).test, source
    examples = keep_copies_together(examples)
    tests = np.flatnonzero(examples.splits == "test")
    return Split("test", examples, tests if len(tests) else np.arange(len(examples))), source


def some_of(split: Split, at_most: int) -> Split:
    """Up to so many examples of a split, spread evenly over it."""
    return Split(split.name, split.examples, split.indices[spread_positions(split.count, at_most)])


def decode_labelled(
    split: Split,
    source: DataRecipe,
    image_size: int,
    class_names: Sequence[str],
    scratch: Path,
    progress: Progress,
) -> tuple[Pixels, np.ndarray, np.ndarray]:
    """The readable images of a split, their labels in the numbering of `class_names`, and their identities.

    Args:
        split: which images.
        source: how they are resized.
        image_size: side in pixels.
        class_names: of the model.
        scratch: a folder, which must outlive their use, for decoded images that fit no memory and cannot be decoded anew.
        progress: listens, and is told of each image that is left out.

    Raises:
        DataError: no image can be read, or there is a class that the model does not know.
    """
    labels = _labels_in(split, class_names)  # before the images: decoding them may take hours
    cache = Cache(CacheRecipe(mode="off"), scratch)
    pixels, unreadable = decode_split(split, source, image_size, cache, progress)
    for position, reason in unreadable.items():
        progress.warn(f"left out {split.ids[position]}: {reason}")
    for warning in (*split.examples.warnings, *reading_warnings(unreadable.values(), {})):
        progress.warn(warning)
    labels = np.delete(labels, list(unreadable), axis=0)
    if not len(labels):
        raise DataError(f"None of the {split.count} images of {split.examples.origin} can be read")
    return pixels, labels, np.delete(split.ids, list(unreadable))


def _labels_in(split: Split, class_names: Sequence[str]) -> np.ndarray:
    examples = split.examples
    # A model of an earlier version may have been trained on names in another Unicode form.
    codes = {class_name(name): code for code, name in enumerate(class_names)}
    unknown = [name for name in examples.class_names if class_name(name) not in codes]
    if unknown:
        raise DataError(
            f"{examples.origin} has a class '{unknown[0]}' that the model does not know."
            f"{nearest(unknown[0], class_names)} Its classes: {listed(class_names, 20)}"
        )
    numbers = np.array([codes[class_name(name)] for name in examples.class_names], np.int32)
    if examples.task.exclusive:
        return numbers[split.labels]
    labels = np.zeros((split.count, len(class_names)), np.uint8)
    labels[:, numbers] = split.labels
    return labels
