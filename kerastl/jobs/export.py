"""From a trained model to a published one, which agreed with it on real images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import Split, spread_positions
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, ExportError
from kerastl.export.card import describe_version
from kerastl.export.check import check_export, expected_answers, tolerance_for
from kerastl.export.compare import CheckExamples
from kerastl.export.facts import measured, model_facts, published_recipe
from kerastl.export.publish import ExportedModel, check_model_name, publish
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import Serving
from kerastl.export.warmup import write_warmup
from kerastl.jobs.calibrate import read_threshold
from kerastl.jobs.trained import class_names_of, model_of, precision_of_model, recipe_of, serving_of
from kerastl.modality import Batch
from kerastl.modality.image.convert import describe_failure, servable
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.recipe.schema import HANDED
from kerastl.run import open_run
from kerastl.wording import counted

# Of the validation split, and as many of the test split: enough for every signature in seconds.
PARITY_IMAGES = 16
# Where a whole folder is gone, looking for neighbours must end.
_ATTEMPTS = 5
# Activations kept in sixteen bits move a probability by a thousandth or so; those of other weights by all of it.
FEATURE_TOLERANCE = {"float32": 0.05, "mixed_bfloat16": 0.2}


@dataclass(frozen=True)
class Trained:
    """Inputs and probabilities that training had of the examples that an export is checked on.

    Attributes:
        inputs: as they were decoded for training, [n, …].
        probabilities: [n, k], from the features that the model was trained on.
    """

    inputs: Batch
    probabilities: np.ndarray


def export_network(
    model: keras.Model,
    recipe: Settings,
    serving: Serving,
    images: Sequence[bytes],
    precision: str,
    models_dir: Path | str,
    name: str,
    trained: Trained | None = None,
    *,
    facts: Mapping[str, Any],
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress = Progress(),
) -> ExportedModel:
    """Publish a trained model after it agreed, in a fresh process, with itself in memory on real images.

    Args:
        model: the whole model.
        recipe: resolved.
        serving: how it is served.
        images: encoded images to compare on.
        precision: `float32` or `mixed_bfloat16`.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model.
        trained: what training knew of these images, if known.
        facts: of the model, for its card; see `model_facts`.
        keep: how many versions of it stay; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside it, which hold some of the images.
        progress: hears of what keeps servers from the model.

    Raises:
        ExportError: the exported model, or what it was trained on, does not agree with the model.
    """
    expected = expected_answers(model, images, serving)
    if trained is not None:
        _check_trained(trained, expected, FEATURE_TOLERANCE[precision])
    warmup_count = 0

    def build(path: Path) -> None:
        nonlocal warmup_count
        write_saved_model(model, serving, path)
        warmup_count = write_warmup(path, name, images, serving.modality.request) if warmup else 0

    exported = publish(
        build,
        lambda path: check_export(path, expected, serving, tolerance_for(precision)),
        models_dir,
        name,
        extra_files={"recipe.toml": published_recipe(recipe)},
        describe=lambda parity: describe_version(facts, name, parity, warmup_count),
        keep=keep,
    )
    if exported.not_listed:
        progress.warn(exported.not_listed)
    return exported


def _check_trained(trained: Trained, expected: CheckExamples, tolerance: float) -> None:
    count = len(expected.raw)
    others = set[int]()
    for name, values in expected.inputs.items():
        differ = (trained.inputs[name] != values).reshape(count, -1).any(axis=1)
        others |= set(np.flatnonzero(differ).tolist())
    difference = float(np.abs(trained.probabilities - expected.probabilities).max(initial=0.0))
    if others:
        problem = f"{len(others)} of {count} images are decoded otherwise than they were for training"
    elif difference > tolerance:
        problem = (
            f"On {count} images the model's probabilities differ by up to {difference:.3f} from those of "
            f"the features that it was trained on; at most {tolerance} is allowed"
        )
    else:
        return
    raise ExportError(
        f"{problem}. Nothing was published. Remove what is kept with `kerastl cache clear` and fit again"
    )


def readable_images(split: Split, progress: Progress) -> tuple[np.ndarray, list[bytes]]:
    """Some of a split's images as bytes that the exported model takes, spread evenly over it.

    A file may vanish at any time, also where its pixels are kept: its neighbour then stands in for it, with a warning.

    Args:
        split: to take them from.
        progress: hears of those that cannot be read.

    Returns:
        Their positions in the split, int64 [n], increasing, and their bytes; at most `PARITY_IMAGES`, at least one.

    Raises:
        DataError: none of those that were tried can be read.
    """
    wanted = spread_positions(split.count, PARITY_IMAGES).tolist()
    found: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    for _ in range(_ATTEMPTS):
        indices = split.indices[np.array(wanted, np.int64)]
        for index, data in split.examples.indexed(indices).ignore_errors().as_numpy_iterator():
            position = int(np.searchsorted(split.indices, index))
            try:
                found[position], _ = servable(data)
            except ValueError as error:
                reasons[position] = str(error)
        missing = [position for position in wanted if position not in found]
        reasons |= {position: "" for position in missing if position not in reasons}
        tried = found.keys() | reasons.keys()
        wanted = sorted(
            {each for position in missing for each in _next_untried(position, split.count, tried)}
        )
        if not wanted:
            break
    if reasons:
        bad = min(reasons)
        first = f"{split.ids[bad]}: {reasons[bad] or _reading_problem(split, bad)}"
        if not found:
            raise DataError(
                f"None of {counted(len(reasons), f'{split.name} image')} can be read, the first is {first}. The exported model "
                "is checked on such images: bring them back, or do without the export (`kerastl fit --no-export`)"
            )
        progress.warn(
            f"{counted(len(reasons), f'{split.name} image')} cannot be read, the first is {first}. The export is checked on "
            "others in their place"
        )
    positions = np.array(sorted(found), np.int64)
    return positions, [found[position] for position in positions.tolist()]


def _next_untried(position: int, count: int, tried: Collection[int]) -> list[int]:
    """The next position, or none where all were tried."""
    return next(([each] for each in (*range(position, count), *range(position)) if each not in tried), [])


def _reading_problem(split: Split, position: int) -> str:
    try:
        next(iter(split.examples.encoded(split.indices[[position]])))
    except tf.errors.OpError as error:
        return describe_failure(error)
    return "it could not be read a moment ago"


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
    if recipe.data.source.startswith(HANDED) and folder.check_examples.is_dir():
        images = [path.read_bytes() for path in sorted(folder.check_examples.iterdir())]
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
