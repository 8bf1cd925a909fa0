"""`evaluate`: a run's model, measured on labelled images."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from kerastl.data.examples import Examples, Split, listed, spread_positions
from kerastl.data.grouping import keep_copies_together
from kerastl.data.names import class_name
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, nearest
from kerastl.evaluation.answers import LabelledAnswer, answers_of
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.features.cache import Cache
from kerastl.features.inputs import Inputs, decode_split
from kerastl.jobs.prepare import reading_warnings
from kerastl.jobs.trained import class_names_of, model_of, recipe_of
from kerastl.modality import Modality, modality_of, only
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe, DataRecipe, Settings
from kerastl.run import open_run
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of


def evaluate(
    run: Path | str, data: str | Examples | None = None, *, progress: Progress = Progress()
) -> Metrics:
    """Measure a run's model; see `evaluate_each`."""
    return evaluate_each(run, data, progress=progress)[0]


def evaluate_each(
    run: Path | str,
    data: str | Examples | Split | None = None,
    *,
    model: keras.Model | None = None,
    progress: Progress = Progress(),
) -> tuple[Metrics, list[LabelledAnswer]]:
    """Measure a run's model, and say what it answers to each image.

    Args:
        run: the run's folder.
        data: other labelled images (a folder, manifest, `tfds:NAME`, digits, or examples from `kerastl.from_arrays` and its
            like); all of them are used, or their test split where they have one. Without it, the run's own test split.
        model: of the run, where it is loaded already.
        progress: listens.

    Returns:
        The metrics; and the answers, those with the largest loss first.

    Raises:
        UserError: run or data cannot be used, or the data have classes that the model does not know.
    """
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    split, _ = evaluation_split(recipe, data)
    if data is not None and split.count < len(split.examples):
        progress.note(
            f"{data if isinstance(data, str) else split.examples.origin}: its test split, {split.count:,} of {len(split.examples):,} images"
        )
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        pixels, labels, ids = decode_labelled(
            split, modality_of(recipe), class_names, Path(scratch), progress
        )
        logits = predict_logits(
            inference_of(model or model_of(folder)),
            len(labels),
            lambda positions, view: only(pixels[positions]).astype(np.float32),
            evaluation_batch(recipe.finetune_phase),
        )
    metrics = evaluate_logits(logits, labels, class_names, recipe.task)
    group_of = dict(zip(split.ids, split.groups, strict=True))
    metrics = over_groups(metrics, logits, labels, np.array([group_of[each] for each in ids], dtype=object))
    return metrics, answers_of(split.name, ids, logits, labels, class_names, recipe.task)


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
    modality: Modality,
    class_names: Sequence[str],
    scratch: Path,
    progress: Progress,
) -> tuple[Inputs, np.ndarray, np.ndarray]:
    """The readable images of a split, their labels in the numbering of `class_names`, and their identities.

    Args:
        split: which images.
        modality: decodes them.
        class_names: of the model.
        scratch: a folder, which must outlive their use, for decoded images that fit no memory and cannot be decoded anew.
        progress: listens, and is told of each image that is left out.

    Raises:
        DataError: no image can be read, or there is a class that the model does not know.
    """
    labels = _labels_in(split, class_names)  # before the images: decoding them may take hours
    cache = Cache(CacheRecipe(mode="off"), scratch)
    pixels, unreadable = decode_split(split, modality, cache, progress)
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
