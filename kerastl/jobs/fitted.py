"""A trained model as Python gets it back: its figures, its answers, and its export."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.encode import encoded_of
from kerastl.data.entities import from_entities
from kerastl.data.examples import Examples, Splits
from kerastl.data.handed import from_arrays, from_texts
from kerastl.data.kinds import KINDS, TEXT
from kerastl.errors import DataError, UserError
from kerastl.evaluation.metrics import Metrics
from kerastl.export.publish import ExportedModel
from kerastl.jobs.evaluate import evaluate_each
from kerastl.jobs.export import export
from kerastl.jobs.predict import predictions
from kerastl.jobs.trained import TrainedRun
from kerastl.modality import modality_of
from kerastl.progress import Logging, Progress
from kerastl.report.page import Report, report_text


class Fitted(TrainedRun):
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
        super().__init__(run)
        self._report, self._examples = report, examples
        self.run, self.exported = self.folder.path, exported

    def __repr__(self) -> str:
        return f"Fitted('{self.run}')"

    def __str__(self) -> str:
        return report_text(self.report)

    @functools.cached_property
    def report(self) -> Report:
        """Metrics on validation and, measured once, on the test split.

        Raises:
            UserError: the run was stopped before its test.
        """
        if self._report is not None:
            return self._report
        if not self.folder.report_json.is_file():
            raise UserError(f"The run {self.run} was stopped before its test; evaluate() measures its model")
        return Report.from_dict(json.loads(self.folder.report_json.read_text(encoding="utf-8")))

    @functools.cached_property
    def history(self) -> dict[str, dict[str, list[float]]]:
        """Of each phase a list a metric, a value an epoch: `history["head_phase"]["val_accuracy"]`."""
        files = {"head_phase": self.folder.head_phase_csv, "finetune_phase": self.folder.finetune_phase_csv}
        return {phase: _columns(path) for phase, path in files.items() if path.is_file()}

    def predict(self, x: Any, *, top: int = 5, progress: Progress | None = None) -> Any:
        """Classify examples.

        Args:
            x: an array or tensor [height, width, 3], [height, width, 1] or [height, width] with values 0..255, the bytes of a
                file, a path, or a picture of Pillow; or several of them, as an array [n, ...], a list, a folder or a glob
                pattern. Of a model of texts a str, or several; a `pathlib.Path` names a file or folder of texts.
            top: how many classes to name for each example.
            progress: listens.

        Returns:
            A `Prediction` (`label`, `probability`, `top`, ...), or a list of them for several examples. Files that cannot be
            read, and texts without a word, carry their `error`.

        Raises:
            DataError: an array is no example.
            UserError: no example was found.
        """
        progress = progress or Logging()
        one, encoded = encoded_of(x, KINDS[self.recipe.modality], progress)
        found = predictions(self.reader, encoded, len(encoded), top, progress)
        return found[0] if one else found

    def evaluate(
        self,
        data: Examples | str | Path | Any | None = None,
        y: Any = None,
        *,
        progress: Progress | None = None,
    ) -> Metrics:
        """Measure the model on labelled examples.

        Args:
            data: examples (`kerastl.from_arrays` and its like), what `kerastl evaluate --data` takes, or examples in arrays
                with their labels in `y`; all of them are used, or their test split where they have one. Without it the test
                split that the model was fitted with.
            y: labels of the examples in arrays; numbers are positions in `class_names`. Of a model that finds entities the spans of each
                text, as `kerastl.from_entities` takes them.
            progress: listens.

        Raises:
            DataError: they have a class that the model does not know; or the run was trained on examples that were handed over in
                another process.
        """
        progress, found = progress or Logging(), data
        if y is not None:
            found = self._labelled(data, y)
        elif isinstance(data, Path):
            found = str(data)
        if not isinstance(found, (Examples, str, type(None))):
            raise DataError(
                f"data is a {type(data).__name__}; expected examples or a folder, or {modality_of(self.recipe).noun}s with labels: evaluate(x, y)"
            )
        return evaluate_each(self, found, progress=progress)[0]

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
            warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some examples of the data.
            progress: listens.

        Raises:
            UserError: the data are gone, or the name is none for a model.
            ExportError: the exported model does not agree with the trained one; nothing was published.
        """
        path = Path("saved_models") / self.recipe.name if folder is None else Path(folder)
        self.exported = export(
            self,
            models_dir=path.parent,
            name=path.name,
            keep=keep,
            warmup=warmup,
            progress=progress or Logging(),
        )
        return self.exported

    def splits(self, data: Examples | None = None) -> Splits:
        """See `TrainedRun`; data that were handed over in this process need not be given again."""
        return super().splits(self._examples if data is None and self.is_handed else data)

    def _labelled(self, x: Any, y: Any) -> Examples:
        """Arrays with labels in the model's numbering, but for numbers that are its classes' names."""
        if self.recipe.task.per_step:
            return from_entities(list(zip(x, y, strict=True)))
        numbers = all(name.lstrip("-").isdecimal() for name in self.class_names)
        names = None if numbers and np.ndim(y) == 1 else self.class_names
        made = from_texts if KINDS[self.recipe.modality] is TEXT else from_arrays
        return made(x, y, class_names=names, task=self.recipe.task.name)


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
