"""A trained model as Python gets it back: its figures, its answers, and its export."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastl.data.examples import Examples, Split
from kerastl.data.handed import from_arrays
from kerastl.data.pixels import images_of, pixels_of
from kerastl.data.png import encode_png
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, UserError
from kerastl.evaluation.metrics import Metrics
from kerastl.export.publish import ExportedModel
from kerastl.jobs.evaluate import evaluate_each
from kerastl.jobs.export import export
from kerastl.jobs.predict import contents_of, predictions
from kerastl.jobs.trained import Reader, class_names_of, model_of, recipe_of, run_reader
from kerastl.modality.image.files import find_images
from kerastl.progress import Logging, Progress
from kerastl.recipe import Settings
from kerastl.recipe.schema import HANDED
from kerastl.report.page import Report, report_text
from kerastl.run import open_run

_IMAGES = "an array [height, width, 3], encoded bytes, a path, a picture of Pillow, or several of one kind"


class Fitted:
    """A trained model: a thin view of the folder of its run.

    Args:
        run: the run's folder.
        report: of its test; read from the folder without it.
        exported: the published model.
        examples: that it was trained on, where they were handed over in Python.

    Attributes:
        run: the run's folder.
        exported: the published SavedModel; None where none was asked for.

    Example:
        >>> fitted = kerastl.fit("resnet50", kerastl.from_folder("photos"))
        >>> fitted.predict("picture.jpg").label
        'daisy'
    """

    def __init__(
        self,
        run: Path | str,
        report: Report | None = None,
        exported: ExportedModel | None = None,
        examples: Examples | None = None,
    ) -> None:
        self._folder = open_run(run)
        self._report, self._examples = report, examples
        self.run, self.exported = self._folder.path, exported

    def __repr__(self) -> str:
        return f"Fitted('{self.run}')"

    def __str__(self) -> str:
        return report_text(self.report)

    @functools.cached_property
    def model(self) -> keras.Model:
        """The Keras model: float32 RGB [n, side, side, 3], 0..255 -> calibrated logits [n, classes]."""
        return model_of(self._folder)

    @functools.cached_property
    def recipe(self) -> Settings:
        """The settings of the run: what was asked for, and what the rule chose."""
        return recipe_of(self._folder)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return class_names_of(self._folder)

    @functools.cached_property
    def report(self) -> Report:
        """What was measured on validation and, once, on the test split.

        Raises:
            UserError: the run was stopped before its test.
        """
        if self._report is not None:
            return self._report
        if not self._folder.report_json.is_file():
            raise UserError(f"The run {self.run} was stopped before its test; evaluate() measures its model")
        return Report.from_dict(json.loads(self._folder.report_json.read_text(encoding="utf-8")))

    @functools.cached_property
    def history(self) -> dict[str, dict[str, list[float]]]:
        """Of each phase a list a metric, a value an epoch: `history["head_phase"]["val_accuracy"]`."""
        files = {"head_phase": self._folder.head_phase_csv, "finetune_phase": self._folder.finetune_phase_csv}
        return {phase: _columns(path) for phase, path in files.items() if path.is_file()}

    @functools.cached_property
    def _reader(self) -> Reader:
        return run_reader(self._folder, self.model)

    def predict(self, x: Any, *, top: int = 5, progress: Progress | None = None) -> Any:
        """Classify images.

        Args:
            x: an array or tensor [height, width, 3], [height, width, 1] or [height, width] with values 0..255, the bytes of a
                file, a path, or a picture of Pillow; or several of them, as an array [n, ...], a list, a folder or a glob
                pattern.
            top: how many classes to name for each image.
            progress: listens.

        Returns:
            A `Prediction` (`label`, `probability`, `top`, ...), or a list of them for several images. Files that cannot be
            read carry their `error`.

        Raises:
            DataError: an array is no image.
            UserError: no image was found.
        """
        progress = progress or Logging()
        one, images = _encoded(x, progress)
        found = predictions(self._reader, images, len(images), top, progress)
        return found[0] if one else found

    def evaluate(
        self,
        data: Examples | str | Path | Any | None = None,
        y: Any = None,
        *,
        progress: Progress | None = None,
    ) -> Metrics:
        """Measure the model on labelled images.

        Args:
            data: examples (`kerastl.from_arrays` and its like), what `kerastl evaluate --data` takes, or images in arrays
                with their labels in `y`; all of them are used, or their test split where they have one. Without it the test
                split that the model was fitted with.
            y: labels of the images in arrays; numbers are positions in `class_names`.
            progress: listens.

        Raises:
            DataError: they have a class that the model does not know; or the run was trained on images that were handed over in
                another process.
        """
        progress, found = progress or Logging(), data
        if y is not None:
            found = self._labelled(data, y)
        elif isinstance(data, Path):
            found = str(data)
        elif data is None:
            found = self._own_test()
        if not isinstance(found, (Examples, Split, str, type(None))):
            raise DataError(
                f"data is a {type(data).__name__}; expected examples or a folder, or images with labels: evaluate(x, y)"
            )
        return evaluate_each(self.run, found, model=self.model, progress=progress)[0]

    def export(
        self,
        folder: Path | str | None = None,
        *,
        keep: int | None = None,
        warmup: bool = True,
        progress: Progress | None = None,
    ) -> ExportedModel:
        """Publish the model as the next version of a SavedModel, after a check in a fresh process.

        Args:
            folder: of the model's versions, such as `saved_models/flowers`; its name is that of the model. Without it
                `saved_models` and the run's name.
            keep: how many versions stay there; all of them without it.
            warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some images of the data.
            progress: listens.

        Raises:
            UserError: the data are gone, or the name is none for a model.
            ExportError: the exported model does not agree with the trained one; nothing was published.
        """
        path = Path("saved_models") / self.recipe.name if folder is None else Path(folder)
        self.exported = export(
            self.run,
            models_dir=path.parent,
            name=path.name,
            keep=keep,
            warmup=warmup,
            progress=progress or Logging(),
        )
        return self.exported

    def _own_test(self) -> Split | None:
        if not self.recipe.data.source.startswith(HANDED) or self._examples is None:
            return None
        return make_splits(self._examples, self.recipe.data).test

    def _labelled(self, x: Any, y: Any) -> Examples:
        """Arrays with labels in the model's numbering, but for numbers that are its classes' names."""
        numbers = all(name.lstrip("-").isdecimal() for name in self.class_names)
        names = None if numbers and np.ndim(y) == 1 else self.class_names
        return from_arrays(x, y, class_names=names, task=self.recipe.task.name)


def load(run: Path | str) -> Fitted:
    """The model of an earlier run.

    Args:
        run: its folder, such as `runs/20260731-120000-flowers-resnet50`.

    Raises:
        UserError: it is no folder of a run, or the run was not finished.
    """
    return Fitted(run)


def _columns(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else ())}


def _encoded(x: Any, progress: Progress) -> tuple[bool, list[tuple[str, bytes | str]]]:
    """True for one image alone; and name and bytes of each."""
    if isinstance(x, (bytes, bytearray)):
        return True, [("bytes", bytes(x))]
    if isinstance(x, (str, Path)):
        paths = find_images([str(x)], progress)
        return Path(x).is_file(), [(path, contents_of(path)) for path in paths]
    if (
        isinstance(x, (list, tuple))
        and x
        and all(isinstance(each, (bytes, bytearray, str, Path)) for each in x)
    ):
        return False, list(_files(x, progress))
    shape: tuple[int, ...] = np.shape(x) if hasattr(x, "__array__") else ()
    one = hasattr(x, "convert") or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not one and len(shape) not in (3, 4) and not isinstance(x, (list, tuple)):
        raise DataError(f"Cannot read a {type(x).__name__} of shape {shape} as images. Expected {_IMAGES}")
    pixels = pixels_of([x] if one else images_of(x, "x"), "x")
    return one, [(f"x[{number}]", encode_png(image, 1)) for number, image in enumerate(pixels)]


def _files(x: Sequence[Any], progress: Progress) -> Iterator[tuple[str, bytes | str]]:
    for number, each in enumerate(x):
        if isinstance(each, (bytes, bytearray)):
            yield f"x[{number}]", bytes(each)
        else:
            yield from ((path, contents_of(path)) for path in find_images([str(each)], progress))
