"""From a run's model to LiteRT and ONNX, through a check of their own."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import ExportError, UserError, nearest
from kerastl.export.check import check_export, tolerance_for
from kerastl.export.compare import CheckExamples, CheckResult
from kerastl.export.formats import FORMATS, Format, require_packages, write_format
from kerastl.export.publish import check_model_name, publish
from kerastl.jobs.calibrate import read_threshold
from kerastl.jobs.evaluate import decode_labelled, some_of
from kerastl.jobs.trained import class_names_of, model_of, precision_of_model, recipe_of, serving_of
from kerastl.modality import Batch, count_of, modality_of, only
from kerastl.progress import Progress
from kerastl.run import open_run
from kerastl.task import Task
from kerastl.training.phase import predict_logits
from kerastl.training.reuse import inference_of
from kerastl.wording import counted

# Of the training split. TensorFlow's guide to integer quantisation calls 100 to 500 enough:
# https://ai.google.dev/edge/litert/models/post_training_integer_quant
REPRESENTATIVE_IMAGES = 200
# Beside them, all test images up to so many: accuracy lost is counted on them.
VALIDATION_IMAGES = 64
TEST_IMAGES = 1000
CHECK_BATCH = 32


@dataclass(frozen=True)
class ConvertedModel:
    """A model in another format, which passed its check.

    Attributes:
        path: its folder, `<exported_dir>/<format>/<name>/<version>`.
        name: of the model.
        format: `litert`, `litert-int8` or `onnx`.
        version: its number.
        bytes: size of the model's file.
        image_count: number of images on which it was compared with the model in memory.
        largest_difference: of a probability, over them.
        label_agreement: share of them that it calls as the model does.
        accuracy: on those of the test split.
        model_accuracy: of the model in memory on the same.
        test_count: how many of the test split there were.
    """

    path: Path
    name: str
    format: str
    version: int
    bytes: int
    image_count: int
    largest_difference: float
    label_agreement: float
    accuracy: float
    model_accuracy: float
    test_count: int


def convert(
    run: Path | str,
    format: str,
    *,
    exported_dir: Path | str = Path("exported"),
    name: str | None = None,
    keep: int | None = None,
    progress: Progress = Progress(),
) -> ConvertedModel:
    """Publish a run's model in another format, as the next version in its folder.

    Args:
        run: the run's folder.
        format: `litert`, `litert-int8` or `onnx`; see `kerastl.export.formats`.
        exported_dir: where the folders of the formats are.
        name: of the model; the run's name without it.
        keep: how many versions of it stay; all of them without it.
        progress: listens.

    Raises:
        UserError: the run is not complete, its data are gone, or the format's packages are not installed.
        ExportError: it cannot be converted, or what came out does not agree with the trained model; nothing was
            published.
    """
    target = format_named(format)
    require_packages(target)
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    name = name or recipe.name
    check_model_name(name)
    serving = serving_of(recipe, class_names, read_threshold(folder))
    check_apart(recipe.data.source, exported_dir)
    splits = make_splits(open_examples(recipe.data), recipe.data)
    model = model_of(folder)
    with tempfile.TemporaryDirectory(prefix="kerastl-") as scratch:
        wanted = {
            "train": some_of(splits.train, REPRESENTATIVE_IMAGES),
            "validation": some_of(splits.validation, VALIDATION_IMAGES),
            "test": some_of(splits.test, TEST_IMAGES),
        }
        decoded = {
            key: decode_labelled(split, modality_of(recipe), class_names, Path(scratch), progress)
            for key, split in wanted.items()
        }
        inputs = {key: kept[np.arange(len(labels))] for key, (kept, labels, _) in decoded.items()}
        labels = {key: labels for key, (_, labels, _) in decoded.items()}
    images = check_images(
        model,
        {key: np.concatenate([values, inputs["test"][key]]) for key, values in inputs["validation"].items()},
        np.concatenate([labels["validation"], labels["test"]]),
        np.arange(len(labels["validation"]) + len(labels["test"])) >= len(labels["validation"]),
        serving.task,
    )
    progress.note(
        f"Converting to {target.name}, and checking on {counted(len(images.probabilities), serving.modality.noun)} of the validation and test splits"
    )
    tolerance = tolerance_for(precision_of_model(model), target)
    results: list[CheckResult] = []

    def check(path: Path) -> CheckResult:
        results.append(check_export(path, images, serving, tolerance, target))
        return results[-1]

    published = publish(
        lambda path: write_format(model, serving, target, path, inputs["train"]),
        check,
        Path(exported_dir) / target.name,
        name,
        keep=keep,
        served=False,
    )
    result = results[-1]
    return ConvertedModel(
        path=published.path,
        name=name,
        format=target.name,
        version=published.version,
        bytes=(published.path / target.file).stat().st_size,
        image_count=result.count,
        largest_difference=result.largest_difference,
        label_agreement=result.label_agreement,
        accuracy=result.accuracy,
        model_accuracy=result.model_accuracy,
        test_count=result.test_count,
    )


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    if name not in FORMATS:
        raise UserError(
            f"Unknown format '{name}'.{nearest(name, FORMATS)} Expected one of: {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def check_images(
    model: keras.Model, inputs: Batch, labels: np.ndarray, is_test: np.ndarray, task: Task
) -> CheckExamples:
    """Examples with the answers of the model in memory, computed on the processor as the other runtimes do."""
    with tf.device("CPU"):
        logits = predict_logits(
            inference_of(model),
            count_of(inputs),
            lambda positions, view: only(inputs)[positions].astype(np.float32),
            CHECK_BATCH,
        )
    if not np.isfinite(logits).all():
        raise ExportError("The model answers some images with what is no number; it cannot be converted")
    return CheckExamples(inputs, task.probabilities(logits), labels=labels, is_test=is_test)
