"""What is done with a trained model in this process: `evaluate`, `predict_with_folder`, `export`."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import Examples, Split
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.encoded import find_images
from kerastl.evaluation.answers import LabelledAnswer, answers_of
from kerastl.evaluation.intervals import over_groups
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.export.publish import ExportedModel, check_model_name
from kerastl.export.reader import load_exported
from kerastl.jobs.calibrating import read_threshold
from kerastl.jobs.exporting import export_network, readable_images, serving_of
from kerastl.jobs.facts import measured, model_facts
from kerastl.jobs.labelled import class_names_of, decode_labelled, evaluation_split, model_of, recipe_of
from kerastl.jobs.prepare import reading_warnings
from kerastl.modality.image.decode import decode
from kerastl.modality.image.read import servable
from kerastl.model.graph import walk_layers
from kerastl.prediction import Prediction, unreadable
from kerastl.progress import Progress
from kerastl.recipe.schema import HANDED
from kerastl.run import Run, open_run
from kerastl.task import Task
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of

READ_BATCH = 64


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
    split, source = evaluation_split(recipe, data)
    if data is not None and split.count < len(split.examples):
        progress.note(
            f"{data if isinstance(data, str) else split.examples.origin}: its test split, {split.count:,} of {len(split.examples):,} images"
        )
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        pixels, labels, ids = decode_labelled(
            split, source, recipe.backbone.image_size, class_names, Path(scratch), progress
        )
        logits = predict_logits(
            inference_of(model or model_of(folder)),
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
    """Classify images in this process; see `kerastl.jobs.predicting.predict`.

    Raises:
        UserError: the model cannot be used, or no image was found.
    """
    paths = find_images(images, progress)
    reader = open_reader(model)
    return predictions(reader, ((path, _contents(path)) for path in paths), len(paths), top, progress)


@dataclass(frozen=True)
class Reader:
    """What a trained model answers to encoded images.

    Attributes:
        answer: encoded images -> probabilities [n, k], and whether each is accepted, [n].
        class_names: in the order of the probabilities.
        task: what is answered.
    """

    answer: Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]
    class_names: Sequence[str]
    task: Task


def predictions(
    reader: Reader, images: Iterable[tuple[str, bytes | str]], count: int, top: int, progress: Progress
) -> list[Prediction]:
    """Classify images.

    Args:
        reader: of the model.
        images: name and bytes of each; a text in their place is why they cannot be read.
        count: how many there are.
        top: how many classes to name for each.
        progress: listens.
    """
    found: list[Prediction] = []
    converted: Counter[str] = Counter()
    remaining = iter(images)
    with progress.track("predict", count) as tracker:
        while part := list(itertools.islice(remaining, READ_BATCH)):
            served = [_servable(data, converted) for _, data in part]
            readable = [data for data, error in served if not error]
            answers = zip(*reader.answer(readable), strict=True) if readable else iter(())
            for (name, _), (_, error) in zip(part, served, strict=True):
                if error:
                    found.append(unreadable(name, error))
                else:
                    probabilities, accepted = next(answers)
                    found.append(_prediction(name, probabilities, bool(accepted), reader, top))
            tracker.advance(len(part))
    for warning in reading_warnings((), converted):
        progress.warn(warning)
    return found


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
    if recipe.data.source.startswith(HANDED) and folder.images.is_dir():
        images = [path.read_bytes() for path in sorted(folder.images.iterdir())]
    else:
        splits = make_splits(open_examples(recipe.data), recipe.data)
        images = [
            data for split in (splits.validation, splits.test) for data in readable_images(split, progress)[1]
        ]
    model = model_of(folder)
    precision = precision_of_model(model)
    progress.note(f"Checking on {len(images)} images of the validation and test splits")
    serving = serving_of(recipe, class_names, read_threshold(folder))
    facts = model_facts(recipe, folder, class_names, measured(folder))
    return export_network(
        model, recipe, serving, images, precision, models_dir, name or recipe.name,
        facts=facts, keep=keep, warmup=warmup, progress=progress,
    )  # fmt: skip


def open_reader(model: Path) -> Reader:
    """The reader of a run's folder or of an exported model."""
    if (model / "model.keras").is_file() or (model / "recipe.toml").is_file():
        folder = open_run(model)
        return run_reader(folder, model_of(folder))
    exported = load_exported(model)
    return Reader(exported.predict_bytes, exported.class_names, exported.task)


def run_reader(folder: Run, model: keras.Model) -> Reader:
    """The reader of a run whose model is loaded."""
    recipe = recipe_of(folder)
    threshold = read_threshold(folder) or 0.0
    size, bits = recipe.backbone.image_size, recipe.data.significant_bits or 16

    def answer(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        pixels = [decode(tf.constant(data), size, recipe.data.resize, bits) for data in encoded]
        logits = model(tf.cast(tf.stack(pixels), tf.float32), training=False).numpy()
        probabilities = recipe.task.probabilities(logits)
        return probabilities, probabilities.max(axis=1) >= threshold

    return Reader(answer, class_names_of(folder), recipe.task)


def _contents(path: str) -> bytes | str:
    """The bytes of a file, or why it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _servable(data: bytes | str, converted: Counter[str]) -> tuple[bytes, str]:
    """What the model takes, or why there is nothing; counts the formats that Pillow read."""
    if isinstance(data, str):
        return b"", data
    try:
        served, kind = servable(data)
    except ValueError as error:
        return b"", str(error)
    converted.update([kind] if kind else [])
    return served, ""


def _prediction(name: str, probabilities: np.ndarray, accepted: bool, reader: Reader, top: int) -> Prediction:
    class_names = reader.class_names
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = tuple((class_names[index], float(probabilities[index])) for index in order)
    labels = None
    if not reader.task.exclusive:
        labels = tuple(each for each, p in zip(class_names, probabilities, strict=True) if p > 0.5)
    return Prediction(name, best[0][0], best[0][1], best, accepted=accepted, labels=labels)


def precision_of_model(model: keras.Model) -> str:
    """`mixed_bfloat16` where any layer computes in it, else `float32`."""
    # A nested model says nothing of its layers' arithmetic: its own policy is float32.
    in_sixteen_bits = any(layer.compute_dtype == "bfloat16" for layer in walk_layers(model))
    return "mixed_bfloat16" if in_sixteen_bits else "float32"
