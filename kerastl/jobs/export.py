"""`export`: from a trained model to a published one, which agreed with it on real examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastl.data.folder import check_apart
from kerastl.errors import ExportError
from kerastl.export.card import describe_version
from kerastl.export.check import check_export, expected_answers, tolerance_for
from kerastl.export.check_words import WordExamples, check_words, expected_words
from kerastl.export.compare import CheckExamples, CheckResult
from kerastl.export.facts import measured, model_facts, published_recipe
from kerastl.export.publish import ExportedModel, check_model_name, publish
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import Serving
from kerastl.export.warmup import write_warmup
from kerastl.features.decoded import DecodedSplits
from kerastl.features.raw import readable_examples
from kerastl.jobs.trained import TrainedRun
from kerastl.modality import Batch, modality_of
from kerastl.model.precision import precision_of_model
from kerastl.progress import Progress
from kerastl.recipe import Settings

# Activations kept in sixteen bits move a probability by a thousandth or so; those of other weights by all of it.
FEATURE_TOLERANCE = {"float32": 0.05, "mixed_bfloat16": 0.2}


@dataclass(frozen=True, eq=False)
class ExportChecks:
    """Some validation and test examples, on which an exported model is compared with what was trained.

    Attributes:
        positions: of them in each split.
        encoded: their bytes.
        inputs: as they were decoded for training.
    """

    positions: Mapping[str, np.ndarray]
    encoded: list[bytes]
    inputs: Batch


def export_network(
    model: keras.Model,
    recipe: Settings,
    serving: Serving,
    encoded: Sequence[bytes],
    precision: str,
    *,
    models_dir: Path | str,
    name: str,
    trained: tuple[Batch, np.ndarray] | None = None,
    facts: Mapping[str, Any],
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress = Progress(),
) -> ExportedModel:
    """Publish a trained model after it agreed, in a fresh process, with itself in memory on real examples.

    Args:
        model: the whole model.
        recipe: resolved.
        serving: how it is served.
        encoded: raw bytes of examples to compare on.
        precision: `float32` or `mixed_bfloat16`.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model.
        trained: the examples as they were decoded for training, and probabilities [n, k] from the features that the model was
            trained on, or of steps [n, steps, k], NaN where none is known; None where they are not known.
        facts: of the model, for its card; see `model_facts`.
        keep: how many versions of it stay; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside it, which hold some of the examples.
        progress: hears of what keeps servers from the model.

    Raises:
        ExportError: the exported model, or what it was trained on, does not agree with the model.
    """
    per_step = serving.task.per_step
    expected = (expected_words if per_step else expected_answers)(model, encoded, serving)
    if trained is not None:
        _check_trained(modality_of(recipe).noun, *trained, expected, FEATURE_TOLERANCE[precision])
    warmup_count = 0

    def build(path: Path) -> None:
        nonlocal warmup_count
        write_saved_model(model, serving, path)
        warmup_count = write_warmup(path, name, encoded, serving.modality.request) if warmup else 0

    exported = publish(
        build,
        lambda path: _checked(path, expected, serving, tolerance_for(precision)),
        models_dir,
        name,
        extra_files={"recipe.toml": published_recipe(recipe)},
        describe=lambda parity: describe_version(facts, name, parity, warmup_count),
        keep=keep,
    )
    if exported.not_listed:
        progress.warn(exported.not_listed)
    return exported


def _checked(path: Path, expected: CheckExamples, serving: Serving, tolerance: float) -> CheckResult:
    if isinstance(expected, WordExamples):
        return check_words(path, expected, serving, tolerance)
    return check_export(path, expected, serving, tolerance)


def _check_trained(
    noun: str, inputs: Batch, probabilities: np.ndarray, expected: CheckExamples, tolerance: float
) -> None:
    count = len(probabilities)
    others = set[int]()
    for name, values in expected.inputs.items():
        differ = (inputs[name] != values[:count]).reshape(count, -1).any(axis=1)
        others |= set(np.flatnonzero(differ).tolist())
    apart = np.abs(probabilities - expected.probabilities[:count])
    difference = float(np.nan_to_num(apart).max(initial=0.0))
    if others:
        problem = f"{len(others)} of {count} {noun}s are decoded otherwise than they were for training"
    elif difference > tolerance:
        problem = (
            f"On {count} {noun}s the model's probabilities differ by up to {difference:.3f} from those of "
            f"the features that it was trained on; at most {tolerance} is allowed"
        )
    else:
        return
    raise ExportError(
        f"{problem}. Nothing was published. Remove what is kept with `kerastl cache clear` and fit again"
    )


def check_examples(prepared: DecodedSplits, progress: Progress) -> ExportChecks:
    """Read the examples that an export is checked on.

    Raises:
        DataError: none of those of a split can be read.
    """
    positions: dict[str, np.ndarray] = {}
    encoded: list[bytes] = []
    for name in ("validation", "test"):
        positions[name], read = readable_examples(
            getattr(prepared.splits, name), modality_of(prepared.recipe), progress
        )
        encoded += read
    parts = [prepared.inputs[name][positions[name]] for name in positions]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ExportChecks(positions, encoded, inputs)


def export(
    run: Path | str | TrainedRun,
    *,
    models_dir: Path | str = Path("saved_models"),
    name: str | None = None,
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress = Progress(),
) -> ExportedModel:
    """Publish a run's model as the next version of a SavedModel.

    Args:
        run: the run's folder, or its model.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model; the run's name without it.
        keep: how many versions of it stay; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside it; they hold some examples of the data.
        progress: listens.

    Raises:
        UserError: the run is not complete, or its data are gone.
        ExportError: the exported model does not agree with the trained one; nothing was published.
    """
    trained = run if isinstance(run, TrainedRun) else TrainedRun(run)
    recipe, folder = trained.recipe, trained.folder
    check_model_name(name or recipe.name)
    check_apart(recipe.data.source, models_dir)
    encoded, noun = trained.kept, modality_of(recipe).noun
    if not encoded:
        _, validation, test = trained.splits()
        encoded = [
            data
            for split in (validation, test)
            for data in readable_examples(split, modality_of(recipe), progress)[1]
        ]
    progress.note(f"Checking on {len(encoded)} {noun}s of the validation and test splits")
    facts = model_facts(recipe, folder, trained.class_names, measured(folder))
    return export_network(
        trained.model, recipe, trained.serving, encoded, precision_of_model(trained.model), models_dir=models_dir, name=name or recipe.name,
        facts=facts, keep=keep, warmup=warmup, progress=progress,
    )  # fmt: skip
