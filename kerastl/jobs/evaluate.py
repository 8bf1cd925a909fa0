"""`evaluate`: a run's model, measured on labelled examples."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastl.data.entity_examples import in_rows
from kerastl.data.examples import Examples, Split, Splits, listed, spread_positions, without
from kerastl.data.grouping import keep_copies_together
from kerastl.data.names import class_name
from kerastl.data.sources import open_examples
from kerastl.data.step_labels import Labels, StepLabels
from kerastl.errors import DataError, nearest
from kerastl.evaluation.answers import LabelledAnswer
from kerastl.evaluation.entity_answers import answers_to
from kerastl.evaluation.metrics import Metrics
from kerastl.export.saved_model import network_inputs
from kerastl.features.cache import Cache
from kerastl.features.decoded import reading_warnings
from kerastl.features.inputs import Inputs, decode_split
from kerastl.jobs.measure import measured
from kerastl.jobs.trained import TrainedRun
from kerastl.modality import Batch, Modality, modality_of
from kerastl.model.graph import alone
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of


def evaluate(
    run: Path | str, data: str | Examples | None = None, *, progress: Progress = Progress()
) -> Metrics:
    """Measure a run's model; see `evaluate_each`."""
    return evaluate_each(run, data, progress=progress)[0]


def evaluate_each(
    run: Path | str | TrainedRun,
    data: str | Examples | None = None,
    *,
    progress: Progress = Progress(),
) -> tuple[Metrics, list[LabelledAnswer]]:
    """Measure a run's model, and say what it answers to each example.

    Args:
        run: the run's folder, or its model.
        data: other labelled examples (a folder, manifest, `tfds:NAME`, digits, or examples from `kerastl.from_arrays` and its
            like); all of them are used, or their test split where they have one. Without it, the run's own test split.
        progress: listens.

    Returns:
        The metrics; and the answers, those with the largest loss first.

    Raises:
        UserError: run or data cannot be used, or the data have classes that the model does not know.
    """
    trained = run if isinstance(run, TrainedRun) else TrainedRun(run)
    recipe, class_names = trained.recipe, trained.class_names
    split, modality = evaluation_split(trained, data), modality_of(recipe)
    if data is not None and split.count < len(split.examples):
        progress.note(
            f"{data if isinstance(data, str) else split.examples.origin}: its test split, {split.count:,} of {len(split.examples):,} {modality.noun}s"
        )
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        inputs, readable = decode_labelled(split, modality, class_names, Path(scratch), progress)
        logits = predict_logits(
            inference_of(trained.model),
            readable.count,
            lambda positions, view: alone(network_inputs(trained.model, modality.trimmed(inputs[positions]))),
            evaluation_batch(recipe.finetune_phase),
            readable.labels,
        )
    metrics = measured(logits, readable.labels, readable.groups, class_names, recipe.task)
    return metrics, answers_to(readable, logits, class_names, recipe.task)


def evaluation_split(trained: TrainedRun, data: str | Examples | None) -> Split:
    """The examples to measure a run's model on: its own test split, or those of another source.

    Args:
        trained: the run.
        data: another source, or its examples; all of its examples are used, or its test split where it has one.
    """
    if data is None:
        return trained.splits().test
    if isinstance(data, str):
        data = open_examples(dataclasses.replace(trained.recipe.data, source=data))
    examples = keep_copies_together(data)
    tests = np.flatnonzero(examples.splits == "test")
    rows = tests if len(tests) else np.arange(len(examples))
    none = Split("", examples, rows[:0])
    whole = Splits(none, none, Split("test", examples, rows), examples.class_names, examples.fingerprint)
    return in_rows(whole, modality_of(trained.recipe)).test


def some_of(split: Split, at_most: int) -> Split:
    """Up to so many examples of a split, spread evenly over it."""
    return Split(split.name, split.examples, split.indices[spread_positions(split.count, at_most)])


def decode_labelled(
    split: Split,
    modality: Modality,
    class_names: Sequence[str],
    scratch: Path,
    progress: Progress,
) -> tuple[Inputs, Split]:
    """The readable examples of a split, decoded; and the split of these, with labels in the numbering of `class_names`.

    Args:
        split: which examples.
        modality: decodes them.
        class_names: of the model.
        scratch: a folder, which must outlive their use, for decoded examples that fit no memory and cannot be decoded anew.
        progress: listens, and is told of each example that is left out.

    Raises:
        DataError: no example can be read, or there is a class that the model does not know.
    """
    split = _renumbered(split, class_names)  # before the examples: decoding them may take hours
    cache = Cache(CacheRecipe(mode="off"), scratch)
    inputs, unreadable = decode_split(split, modality, cache, progress)
    for position, reason in unreadable.items():
        progress.warn(f"left out {split.ids[position]}: {reason}")
    for warning in (*split.examples.warnings, *reading_warnings(unreadable.values(), {}, modality)):
        progress.warn(warning)
    readable = without(split, unreadable)
    if not readable.count:
        raise DataError(f"None of the {split.count} {modality.noun}s of {split.examples.origin} can be read")
    return inputs, readable


def labelled_inputs(trained: TrainedRun, split: Split, progress: Progress) -> tuple[Batch, np.ndarray]:
    """The readable examples of a split of a run's own data in memory, and their labels."""
    modality = modality_of(trained.recipe)
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        inputs, readable = decode_labelled(split, modality, trained.class_names, Path(scratch), progress)
        labels = readable.labels
        assert isinstance(labels, np.ndarray), "a label an example"
        return inputs[np.arange(readable.count)], labels


def _renumbered(split: Split, class_names: Sequence[str]) -> Split:
    """The split with labels in the numbering of a model's classes."""
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
    if isinstance(examples.labels, StepLabels):
        labels: Labels = examples.labels.renumbered(numbers)
    elif examples.task.exclusive:
        labels = numbers[examples.labels]
    else:
        several = np.zeros((len(examples), len(class_names)), np.uint8)
        several[:, numbers] = examples.labels
        labels = several
    return dataclasses.replace(split, examples=dataclasses.replace(examples, labels=labels))
