"""From a run's model to LiteRT and ONNX, through a check of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import Examples
from kerastl.data.folder import check_apart
from kerastl.errors import DataError, ExportError, UserError, nearest
from kerastl.export.check import check_export, tolerance_for
from kerastl.export.compare import CheckExamples, CheckResult
from kerastl.export.formats import FORMATS, INFO_FILE, Format, refusal, require_packages, write_format
from kerastl.export.publish import check_model_name, publish
from kerastl.export.saved_model import network_inputs
from kerastl.jobs.evaluate import labelled_inputs, some_of
from kerastl.jobs.trained import TrainedRun
from kerastl.modality import Batch, count_of, modality_of
from kerastl.model.graph import alone
from kerastl.model.precision import precision_of_model
from kerastl.progress import Progress
from kerastl.task import Task
from kerastl.training.phase import predict_logits
from kerastl.training.reuse import inference_of

# Of the training split. TensorFlow's guide to integer quantisation calls 100 to 500 enough:
# https://ai.google.dev/edge/litert/models/post_training_integer_quant
REPRESENTATIVE_EXAMPLES = 200
# Beside them, all test examples up to so many: accuracy lost is counted on them.
VALIDATION_EXAMPLES = 64
TEST_EXAMPLES = 1000
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
        example_count: number of examples on which it was compared with the model in memory.
        largest_difference: of a probability, over them.
        label_agreement: share of them that it calls as the model does.
        accuracy: on those of the test split.
        model_accuracy: of the model in memory on the same.
        test_count: how many of the test split there were; 0 where accuracy was not measured.
    """

    path: Path
    name: str
    format: str
    version: int
    bytes: int
    example_count: int
    largest_difference: float
    label_agreement: float
    accuracy: float
    model_accuracy: float
    test_count: int


def convert(
    run: Path | str,
    format: str,
    data: Examples | None = None,
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
        data: that the model was trained on, where they were handed over in Python: `litert-int8` needs examples of the training
            split, and accuracy is measured on the test split. Without them the other formats are checked on the examples that the
            run has kept.
        exported_dir: where the folders of the formats are.
        name: of the model; the run's name without it.
        keep: how many versions of it stay; all of them without it.
        progress: listens.

    Raises:
        UserError: the run is not complete, its data are gone, or the format takes no such model or its packages are not installed.
        ExportError: it cannot be converted, or what came out does not agree with the trained model; nothing was
            published.
    """
    target = format_named(format)
    require_packages(target)
    trained = TrainedRun(run)
    recipe, serving = trained.recipe, trained.serving
    if reason := refusal(target, serving):
        raise UserError(f"{trained.folder.path}: {reason}")
    name = name or recipe.name
    check_model_name(name)
    check_apart(recipe.data.source, exported_dir)
    representative, checked = _examples_for(trained, target, data, progress)
    progress.note(
        f"Converting to {target.name}, and checking on {len(checked.probabilities)} {modality_of(recipe).noun}s of the validation and test splits"
    )
    tolerance = tolerance_for(precision_of_model(trained.model), target)
    results: list[CheckResult] = []

    def check(path: Path) -> CheckResult:
        results.append(check_export(path, checked, serving, tolerance, target))
        return results[-1]

    published = publish(
        lambda path: write_format(trained.model, serving, target, path, representative),
        check,
        Path(exported_dir) / target.name,
        name,
        keep=keep,
        served=False,
    )
    result, inputs = results[-1], " and ".join(serving.modality.spec)
    progress.note(
        f"{target.file} takes {inputs}: to make these of {serving.modality.noun}s as {INFO_FILE} says is left to its caller"
    )
    return ConvertedModel(
        path=published.path,
        name=name,
        format=target.name,
        version=published.version,
        bytes=(published.path / target.file).stat().st_size,
        example_count=result.count,
        largest_difference=result.largest_difference,
        label_agreement=result.label_agreement,
        accuracy=result.accuracy,
        model_accuracy=result.model_accuracy,
        test_count=result.test_count,
    )


def _examples_for(
    trained: TrainedRun, target: Format, data: Examples | None, progress: Progress
) -> tuple[Batch, CheckExamples]:
    """Training examples to fit integers to, none for floats; and validation and test examples to check on."""
    task, none = trained.recipe.task, dict[str, np.ndarray]()
    kept = trained.kept if data is None and trained.is_handed else []
    if kept:
        if target.is_integer:
            raise DataError(training_examples_needed(target.name, trained))
        inputs, count = trained.decoded(kept), len(kept)
        unknown = np.zeros(count if task.exclusive else (count, len(trained.class_names)), np.int64)
        return none, checked_examples(trained.model, inputs, unknown, np.zeros(count, bool), task)
    train, validation, test = trained.splits(data)
    representative = (
        labelled_inputs(trained, some_of(train, REPRESENTATIVE_EXAMPLES), progress)[0]
        if target.is_integer
        else none
    )
    sides = [
        labelled_inputs(trained, some_of(validation, VALIDATION_EXAMPLES), progress),
        labelled_inputs(trained, some_of(test, TEST_EXAMPLES), progress),
    ]
    inputs = {name: np.concatenate([side[0][name] for side in sides]) for name in sides[0][0]}
    labels = np.concatenate([side[1] for side in sides])
    is_test = np.arange(len(labels)) >= len(sides[0][1])
    return representative, checked_examples(trained.model, inputs, labels, is_test, task)


def training_examples_needed(name: str, trained: TrainedRun) -> str:
    """Message for a format of integers where the training examples are not to be had."""
    return (
        f"{name} is fitted to {modality_of(trained.recipe).noun}s of the training split, and those of {trained.folder.path} were handed over in Python and are "
        f"not kept. Pass them: kerastl.convert({str(trained.folder.path)!r}, {name!r}, data), or choose a format of floats"
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


def checked_examples(
    model: keras.Model, inputs: Batch, labels: np.ndarray, is_test: np.ndarray, task: Task
) -> CheckExamples:
    """Examples with the answers of the model in memory, computed on the processor as the other runtimes do."""
    with tf.device("CPU"):
        logits = predict_logits(
            inference_of(model),
            count_of(inputs),
            lambda positions, view: alone(
                network_inputs(model, {name: values[positions] for name, values in inputs.items()})
            ),
            CHECK_BATCH,
        )
    if not np.isfinite(logits).all():
        raise ExportError("The model answers some examples with what is no number; it cannot be converted")
    return CheckExamples(inputs, task.probabilities(logits), labels=labels, is_test=is_test)
