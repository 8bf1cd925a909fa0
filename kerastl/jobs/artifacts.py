"""What a run writes down beside its model: data, splits, histories and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.examples import Splits, spread_positions
from kerastl.evaluation.answers import answers_of
from kerastl.jobs.prepare import Prepared
from kerastl.report.plots import plot_curves
from kerastl.report.plots_examples import plot_augmentation, plot_worst
from kerastl.run import Run
from kerastl.training.two_phase import FitResult
from kerastl.writing import write_json_atomic, write_text_atomic

PREVIEW_IMAGES = 6
WORST_IMAGES = 12


def write_data(run: Run, prepared: Prepared) -> None:
    """Write where the data came from, what was left out, and each image's split."""
    splits = prepared.splits
    examples = splits.train.examples
    data: dict[str, Any] = {
        "origin": examples.origin,
        "fingerprint": splits.fingerprint,
        "classes": list(splits.class_names),
        "counts": splits.counts(),
        "unreadable": prepared.unreadable,
        "skipped": list(examples.skipped),
        "warnings": list(splits.warnings),
    }
    write_json_atomic(run.data_json, data)
    write_splits(run.splits_csv, splits)


def write_histories(run: Run, result: FitResult) -> None:
    """Write each phase's history as a table, and all of them as a picture."""
    histories: list[tuple[str, list[dict[str, float]]]] = []
    for phase, path in zip(result.phases, (run.head_phase_csv, run.finetune_phase_csv), strict=False):
        rows = [dict(row) for row in phase.history]
        write_rows(path, rows)
        histories.append((phase.name, rows))
    if any(rows for _, rows in histories):
        best = {phase.name: phase.best_epoch for phase in result.phases}
        monitors = {phase.name: phase.monitor for phase in result.phases}
        plot_curves(histories, run.curves_png, best, result.winner, monitors)


def write_preview(run: Run, prepared: Prepared) -> None:
    """Draw some training images beside their augmented views."""
    views, split = prepared.views("train"), prepared.splits.train
    positions = spread_positions(split.count, PREVIEW_IMAGES)
    shown = range(min(prepared.recipe.augment.views, PREVIEW_IMAGES))
    by_view = [views.modality.shown(views.batch(positions, view)) for view in shown]
    rows = [(str(split.ids[p]), [images[i] for images in by_view]) for i, p in enumerate(positions)]
    plot_augmentation(rows, run.augmentation_png)


def write_answers(run: Run, prepared: Prepared, logits: Mapping[str, np.ndarray]) -> None:
    """Write what the winner answers to each image, and draw the test images that it is most wrong about.

    Args:
        run: is written to.
        prepared: split images.
        logits: split → float [n, classes], of `validation` and `test`.
    """
    task, class_names = prepared.recipe.task, prepared.splits.class_names
    answers = [
        answers_of(name, part.ids, logits[name], part.labels, class_names, task)
        for name, part in (("validation", prepared.splits.validation), ("test", prepared.splits.test))
    ]
    write_rows(run.predictions_csv, [vars(each) for part in answers for each in part])
    test = prepared.splits.test
    places = {str(identity): place for place, identity in enumerate(test.ids)}
    worst = [each for each in answers[-1] if each.true != each.predicted][:WORST_IMAGES]
    if worst:
        positions = np.array([places[each.id] for each in worst])
        # As the network saw them: a file may be gone by now, and no picture is worth a trained model.
        inputs = prepared.pixels["test"]
        images = inputs.modality.shown(inputs[positions])
        plot_worst(list(zip(images, worst, strict=True)), run.worst_png)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dictionaries with the same keys as CSV with a header; no rows make an empty file."""
    header = list(rows[0]) if rows else []
    _write(path, header, ([row[name] for name in header] for row in rows))


def write_splits(path: Path, splits: Splits) -> None:
    """Write the split and the labels of every image."""
    task = splits.train.examples.task
    rows = (
        (split.name, identity, names)
        for split in splits
        for identity, names in zip(split.ids, task.names(split.labels, splits.class_names), strict=True)
    )
    _write(path, ["split", "id", "label"], rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
