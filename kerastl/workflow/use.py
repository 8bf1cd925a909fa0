"""What is done with a trained model in this process: `evaluate`, `predict_with_folder`, `export`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.encoded import find_images
from kerastl.evaluation.answers import LabelledAnswer, answers_of
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.export.publish import ExportedModel, check_model_name
from kerastl.export.reader import load_exported
from kerastl.image.decode import decode
from kerastl.image.read import servable
from kerastl.model.graph import walk_layers
from kerastl.prediction import Prediction, unreadable
from kerastl.progress import Progress
from kerastl.run import open_run
from kerastl.task import Task
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.trainer import inference_of
from kerastl.workflow.calibrating import read_threshold
from kerastl.workflow.exporting import export_network, readable_images, serving_of
from kerastl.workflow.facts import measured, model_facts
from kerastl.workflow.labelled import class_names_of, decode_labelled, evaluation_split, recipe_of
from kerastl.workflow.prepare import reading_warnings

READ_BATCH = 64


def evaluate(run: Path | str, data: str | None = None, *, progress: Progress = Progress()) -> Metrics:
    """Measure a run's model; see `evaluate_each`."""
    return evaluate_each(run, data, progress=progress)[0]


def evaluate_each(
    run: Path | str, data: str | None = None, *, progress: Progress = Progress()
) -> tuple[Metrics, list[LabelledAnswer]]:
    """Measure a run's model, and say what it answers to each image.

    Args:
        run: the run's folder.
        data: other labelled images (a folder, manifest, `tfds:NAME` or digits); all of them are used, or
            their test split where they have one. Without it, the run's own test split.
        progress: listens.

    Returns:
        The metrics; and the answers, those with the largest loss first.

    Raises:
        UserError: run or data cannot be used, or the data have classes that the model does not know.
    """
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    split, source = evaluation_split(recipe, data)
    if data is not None and split.count < len(split.examples):
        progress.note(f"{data}: its test split, {split.count:,} of {len(split.examples):,} images")
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        pixels, labels, ids = decode_labelled(
            split, source, recipe.backbone.image_size, class_names, Path(scratch), progress
        )
        model = keras.saving.load_model(folder.model_keras)
        logits = predict_logits(
            inference_of(model),
            len(labels),
            lambda positions, view: pixels[positions].astype(np.float32),
            evaluation_batch(recipe.finetune_phase),
        )
    metrics = evaluate_logits(logits, labels, class_names, recipe.task)
    group_of = dict(zip(split.ids, split.groups, strict=True))
    metrics = over_groups(metrics, logits, labels, np.array([group_of[each] for each in ids], dtype=object))
    return metrics, answers_of(split.name, ids, logits, labels, class_names, recipe.task)


def predict_with_folder(
    model: Path, images: Sequence[str], *, top: int, progress: Progress = Progress()
) -> list[Prediction]:
    """Classify images in this process; see `kerastl.workflow.predicting.predict`.

    Raises:
        UserError: the model cannot be used, or no image was found.
    """
    paths = find_images(images, progress)
    answer, class_names, task = _reader(model)
    predictions = []
    converted: Counter[str] = Counter()
    with progress.track("predict", len(paths)) as tracker:
        for start in range(0, len(paths), READ_BATCH):
            part = paths[start : start + READ_BATCH]
            readable, errors = _read(part, converted)
            answers = zip(*answer(list(readable.values())), strict=True) if readable else iter(())
            for path in part:
                if path in errors:
                    predictions.append(unreadable(path, errors[path]))
                else:
                    probabilities, accepted = next(answers)
                    found = _prediction(path, probabilities, bool(accepted), class_names, task, top)
                    predictions.append(found)
            tracker.advance(len(part))
    for warning in reading_warnings((), converted):
        progress.warn(warning)
    return predictions


def export(
    run: Path | str,
    *,
    models_dir: Path | str = Path("saved_models"),
    name: str | None = None,
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress = Progress(),
) -> ExportedModel:
    """Publish a run's model as the next version of a SavedModel.

    Args:
        run: the run's folder.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model; the run's name without it.
        keep: how many versions of it stay; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside it; they hold some images of the data.
        progress: listens.

    Raises:
        UserError: the run is not complete, or its data are gone.
        ExportError: the exported model does not agree with the trained one; nothing was published.
    """
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    check_model_name(name or recipe.name)
    check_apart(recipe.data.source, models_dir)
    splits = make_splits(open_examples(recipe.data), recipe.data)
    images = [
        data for split in (splits.validation, splits.test) for data in readable_images(split, progress)[1]
    ]
    model = keras.saving.load_model(folder.model_keras)
    precision = precision_of_model(model)
    progress.note(f"Checking on {len(images)} images of the validation and test splits")
    serving = serving_of(recipe, class_names, read_threshold(folder))
    facts = model_facts(recipe, folder, class_names, measured(folder))
    return export_network(
        model, recipe, serving, images, precision, models_dir, name or recipe.name,
        facts=facts, keep=keep, warmup=warmup, progress=progress,
    )  # fmt: skip


# Probabilities [n, k] of encoded images, and whether each is accepted, [n].
Answer = Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]


def _reader(model: Path) -> tuple[Answer, Sequence[str], Task]:
    """What answers, its classes, and its task."""
    if (model / "model.keras").is_file() or (model / "recipe.toml").is_file():
        folder = open_run(model)
        recipe, network = recipe_of(folder), keras.saving.load_model(folder.model_keras)

        threshold = read_threshold(folder) or 0.0

        def answer(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
            pixels = [
                decode(
                    tf.constant(data),
                    recipe.backbone.image_size,
                    recipe.data.resize,
                    recipe.data.significant_bits or 16,
                )
                for data in encoded
            ]
            logits = network(tf.cast(tf.stack(pixels), tf.float32), training=False).numpy()
            probabilities = recipe.task.probabilities(logits)
            return probabilities, probabilities.max(axis=1) >= threshold

        return answer, class_names_of(folder), recipe.task
    reader = load_exported(model)
    return reader.predict_bytes, reader.class_names, reader.task


def _read(paths: Sequence[str], converted: Counter[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What the model takes of some files, and why others cannot be read; counts the formats that Pillow read."""
    readable: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            errors[path] = error.strerror or str(error)
            continue
        try:
            readable[path], kind = servable(data)
        except ValueError as error:
            errors[path] = str(error)
        else:
            converted.update([kind] if kind else [])
    return readable, errors


def _prediction(
    path: str,
    probabilities: np.ndarray,
    accepted: bool,
    class_names: Sequence[str],
    task: Task,
    top: int,
) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = tuple((class_names[index], float(probabilities[index])) for index in order)
    labels = None
    if not task.exclusive:
        labels = tuple(name for name, p in zip(class_names, probabilities, strict=True) if p > 0.5)
    return Prediction(path, best[0][0], best[0][1], best, accepted=accepted, labels=labels)


def precision_of_model(model: keras.Model) -> str:
    """`mixed_bfloat16` where any layer computes in it, else `float32`."""
    # A nested model says nothing of its layers' arithmetic: its own policy is float32.
    in_sixteen_bits = any(layer.compute_dtype == "bfloat16" for layer in walk_layers(model))
    return "mixed_bfloat16" if in_sixteen_bits else "float32"
