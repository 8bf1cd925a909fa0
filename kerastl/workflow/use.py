"""What is done with a trained model: `evaluate`, `predict`, `export`."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import spread_positions
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import UserError, nearest
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.export.publish import ExportedModel
from kerastl.export.reader import load_exported
from kerastl.image.decode import decode
from kerastl.image.read import describe_failure
from kerastl.model.joins import walk_layers
from kerastl.progress import Progress
from kerastl.run import open_run
from kerastl.training.phase import predict_logits
from kerastl.workflow.calibrating import read_threshold
from kerastl.workflow.exporting import PARITY_IMAGES, encoded_at, export_network, serving_of
from kerastl.workflow.labelled import class_names_of, decode_labelled, evaluation_split, recipe_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
READ_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: the image.
        label: the most probable class; empty where the image cannot be read.
        probability: of that class, 0..1.
        top: the most probable classes with their probabilities, in falling order.
        error: why the image cannot be read; empty where it can.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""


def evaluate(run: Path | str, data: str | None = None, *, progress: Progress = Progress()) -> Metrics:
    """Measure a run's model.

    Args:
        run: the run's folder.
        data: other labelled images (a folder, manifest, `tfds:NAME` or digits); all of them are used, or
            their test split where they have one. Without it, the run's own test split.
        progress: listens.

    Returns:
        The metrics.

    Raises:
        UserError: run or data cannot be used, or the data have classes that the model does not know.
    """
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    split, source = evaluation_split(recipe, data)
    assert recipe.backbone.image_size
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        pixels, labels = decode_labelled(
            split, source, recipe.backbone.image_size, class_names, Path(scratch), progress
        )
        model = keras.saving.load_model(folder.model_keras)
        logits = predict_logits(
            model, len(labels), lambda positions, view: pixels[positions].astype(np.float32)
        )
    return evaluate_logits(logits, labels, class_names, recipe.data.multi_label)


def predict(
    model: Path | str, images: Sequence[str], *, top: int = 5, progress: Progress = Progress()
) -> list[Prediction]:
    """Classify images.

    Args:
        model: a run's folder, or an exported model (`saved_models/NAME` or one of its versions).
        images: files, folders (searched with all their subfolders) and glob patterns.
        top: how many classes to name for each image.
        progress: listens.

    Returns:
        A prediction for each image, in the order found; unreadable images carry their error.

    Raises:
        UserError: the model cannot be used, or no image was found.
    """
    paths = find_images(images)
    answer, class_names = _reader(Path(model))
    predictions = []
    with progress.track("predict", len(paths)) as tracker:
        for start in range(0, len(paths), READ_BATCH):
            part = paths[start : start + READ_BATCH]
            readable, errors = _read(part)
            probabilities = iter(answer(list(readable.values())) if readable else ())
            for path in part:
                if path in errors:
                    predictions.append(Prediction(path, "", 0.0, (), errors[path]))
                else:
                    predictions.append(_prediction(path, next(probabilities), class_names, top))
            tracker.advance(len(part))
    return predictions


def export(
    run: Path | str,
    *,
    models_dir: Path | str = Path("saved_models"),
    name: str | None = None,
    progress: Progress = Progress(),
) -> ExportedModel:
    """Publish a run's model as the next version of a SavedModel.

    Args:
        run: the run's folder.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model; the run's name without it.
        progress: listens.

    Raises:
        UserError: the run is not complete, or its data are gone.
        ExportError: the exported model does not agree with the trained one; nothing was published.
    """
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    splits = make_splits(open_examples(recipe.data), recipe.data)
    images = [
        data
        for split in (splits.validation, splits.test)
        for data in encoded_at(split, spread_positions(split.count, PARITY_IMAGES))
        if not _unreadable(data)
    ]
    model = keras.saving.load_model(folder.model_keras)
    precision = precision_of_model(model)
    progress.note(f"Checking on {len(images)} images of the validation and test splits")
    serving = serving_of(recipe, class_names, read_threshold(folder))
    return export_network(
        model, recipe, serving, images, precision, models_dir, name or recipe.name or "model"
    )


def find_images(patterns: Sequence[str]) -> list[str]:
    """Files, folders and globs as a list of image files without repeats; a named file counts as an image.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            matches = [
                str(p) for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)
            ]
            if not matches:
                raise UserError(
                    f"No image in '{pattern}': expected files ending in {', '.join(IMAGE_SUFFIXES)}"
                )
        elif path.is_file():
            matches = [str(path)]
        else:
            matches = sorted(m for m in glob.glob(str(path), recursive=True) if Path(m).is_file())
            if not matches:
                siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
                raise UserError(
                    f"No image '{pattern}'.{nearest(path.name, siblings)} Expected a file, a folder or a pattern "
                    "such as 'photos/*.jpg'"
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def _reader(model: Path) -> tuple[Callable[[Sequence[bytes]], np.ndarray], Sequence[str]]:
    if (model / "model.keras").is_file() or (model / "recipe.toml").is_file():
        folder = open_run(model)
        recipe, network = recipe_of(folder), keras.saving.load_model(folder.model_keras)

        def answer(encoded: Sequence[bytes]) -> np.ndarray:
            assert recipe.backbone.image_size
            pixels = [
                decode(tf.constant(data), recipe.backbone.image_size, recipe.data.resize) for data in encoded
            ]
            logits = tf.cast(network(tf.cast(tf.stack(pixels), tf.float32), training=False), tf.float32)
            return (tf.sigmoid(logits) if recipe.data.multi_label else tf.nn.softmax(logits)).numpy()

        return answer, class_names_of(folder)
    reader = load_exported(model)
    return reader.predict_bytes, reader.class_names


def _read(paths: Sequence[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    readable: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            errors[path] = error.strerror or str(error)
            continue
        reason = _unreadable(data)
        if reason:
            errors[path] = reason
        else:
            readable[path] = data
    return readable, errors


def _unreadable(data: bytes) -> str:
    try:
        decode(tf.constant(data), 8, "stretch")
    except tf.errors.OpError as error:
        return describe_failure(error)
    return ""


def _prediction(path: str, probabilities: np.ndarray, class_names: Sequence[str], top: int) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = tuple((class_names[index], float(probabilities[index])) for index in order)
    return Prediction(path, best[0][0], best[0][1], best)


def precision_of_model(model: keras.Model) -> str:
    """`mixed_bfloat16` where any layer computes in it, else `float32`."""
    # A nested model says nothing of its layers' arithmetic: its own policy is float32.
    in_sixteen_bits = any(layer.compute_dtype == "bfloat16" for layer in walk_layers(model))
    return "mixed_bfloat16" if in_sixteen_bits else "float32"
