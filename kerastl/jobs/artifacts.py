"""Artifacts of a run: what it writes down beside its model, before and after its training."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.examples import Splits, spread_positions
from kerastl.evaluation.confusion import DRAWN_UP_TO
from kerastl.evaluation.entity_answers import answers_to, label_names
from kerastl.features.cache import Cache
from kerastl.features.decoded import DecodedSplits
from kerastl.jobs.export import ExportChecks, check_examples
from kerastl.jobs.log import Log
from kerastl.jobs.plan import make_plan
from kerastl.jobs.setup import Setup
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.recipe import Asked, Recipe, Settings, recipe_to_toml
from kerastl.recipe.schema import HANDED
from kerastl.report.page import Report, write_report
from kerastl.report.plots import plot_confusion, plot_curves
from kerastl.report.plots_examples import plot_augmentation, plot_worst
from kerastl.run import Run, create_run, environment
from kerastl.training.two_phase import FitResult
from kerastl.writing import explain_write_errors, replace_atomically, write_json_atomic, write_text_atomic

PREVIEW_EXAMPLES = 6
WORST_EXAMPLES = 12
LISTED_UNREADABLE = 50


def start_run(
    recipe: Settings, splits: Splits, runs_dir: Path | str, files: Path | None
) -> tuple[Run, Settings]:
    """Make the folder of a run, with its recipe and environment in it.

    Args:
        recipe: resolved.
        splits: of its data.
        runs_dir: where the folder is made.
        files: folder of networks that were handed over in Python.

    Returns:
        The run, and the recipe that names its own copies of such networks.
    """
    run = create_run(runs_dir, recipe.name)
    recipe = with_kept_files(with_own_files(recipe, run.path, files), run.path)
    write_recipe(run, recipe, splits)
    write_json_atomic(run.environment_json, environment())
    return run, recipe


def write_recipe(run: Run, recipe: Asked, splits: Splits) -> None:
    """Write the settings of a run, as a recipe that repeats it."""
    heading = f"Repeat with: kerastl fit {run.recipe_toml}"
    if recipe.data.source.startswith(HANDED):
        heading = f"Trained in Python on {splits.train.examples.origin}: kerastl.fit(..., data) repeats it, with the same data."
    write_text_atomic(run.recipe_toml, recipe_to_toml(recipe, heading))


def with_own_files(recipe: Asked, folder: Path, files: Path | None) -> Asked:
    """The recipe with copies of its own in a folder of the networks that were handed over in Python.

    Args:
        recipe: names files in `files`, or others, which stay where they are.
        folder: of the copies, `backbone.keras` and `head.keras`.
        files: folder of the originals; None where nothing was handed over.
    """
    if files is None:
        return recipe
    for table, key in (("backbone", "name"), ("head", "layers")):
        part = getattr(recipe, table)
        value = getattr(part, key)
        if value and Path(value).parent == files:
            target = folder / Path(value).name
            with replace_atomically(target) as temporary:
                shutil.copyfile(value, temporary)
            recipe = dataclasses.replace(recipe, **{table: dataclasses.replace(part, **{key: str(target)})})
    return recipe


def with_kept_files(recipe: Settings, folder: Path) -> Settings:
    """The recipe with copies of its own in a folder of the files that its modality decodes by."""
    copies: dict[str, Any] = {}
    modality = modality_of(recipe)
    for key, name in modality.own_files.items():
        copies[key] = str(folder / name)
        with replace_atomically(folder / name) as temporary:
            temporary.write_bytes(modality.own_contents()[name])
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **copies))


@contextlib.contextmanager
def working_cache(run: Run, recipe: Recipe) -> Iterator[Cache]:
    """The cache of a run; what it keeps in the run's own folder is removed in the end."""
    try:
        with Cache(recipe.cache, run.scratch) as cache:
            yield cache
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)


def write_setup(run: Run, setup: Setup, log: Log, export_model: bool) -> ExportChecks | None:
    """Write down what a training begins with: data, plan and some augmented examples.

    Args:
        run: is written to.
        setup: of the training.
        log: hears of examples that were left out.
        export_model: whether the model will be exported.

    Returns:
        The examples that an export is checked on, read before hours of training in which files may vanish; None where there
        will be no export.
    """
    prepared = setup.prepared
    write_recipe(run, setup.recipe, prepared.splits)  # with what was chosen on the features
    write_data(run, prepared)
    write_json_atomic(run.environment_json, {**environment(), "engine": setup.frozen.engine})
    for name, reason in list(prepared.unreadable.items())[:LISTED_UNREADABLE]:
        log.warn(f"left out {name}: {reason}")
    if len(prepared.unreadable) > LISTED_UNREADABLE:
        log.warn(f"{len(prepared.unreadable) - LISTED_UNREADABLE:,} more are listed in {run.data_json}")
    handed = setup.recipe.data.source.startswith(HANDED)
    checks = check_examples(prepared, log) if export_model or handed else None
    if checks and handed:
        run.check_examples.mkdir()
        for number, data in enumerate(checks.encoded):
            with explain_write_errors(run.check_examples):
                (run.check_examples / f"{number:02}").write_bytes(data)
    if setup.recipe.augment.views > 1:
        write_preview(run, prepared)
    plan = make_plan(setup.network, setup.recipe, prepared.splits.counts())
    write_text_atomic(run.plan_txt, plan.text() + "\n")
    return checks if export_model else None


def write_data(run: Run, prepared: DecodedSplits) -> None:
    """Write where the data came from, what was left out, and each example's split."""
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


def write_preview(run: Run, prepared: DecodedSplits) -> None:
    """Draw some training examples beside their augmented views."""
    views, split = prepared.views("train"), prepared.splits.train
    positions = spread_positions(split.count, PREVIEW_EXAMPLES)
    shown = range(min(prepared.recipe.augment.views, PREVIEW_EXAMPLES))
    by_view = [views.modality.shown(views.batch(positions, view)) for view in shown]
    rows = [(str(split.ids[p]), [each[i] for each in by_view]) for i, p in enumerate(positions)]
    plot_augmentation(rows, run.augmentation_png)


def write_answers(run: Run, prepared: DecodedSplits, logits: Mapping[str, np.ndarray]) -> None:
    """Write what the winner answers to each example, and draw the test examples that it is most wrong about.

    Args:
        run: is written to.
        prepared: split examples.
        logits: split → float [n, classes], of `validation` and `test`.
    """
    task, class_names = prepared.recipe.task, prepared.splits.class_names
    answers = [
        answers_to(part, logits[part.name], class_names, task)
        for part in (prepared.splits.validation, prepared.splits.test)
    ]
    write_rows(run.predictions_csv, [vars(each) for part in answers for each in part])
    test = prepared.splits.test
    places = {str(identity): place for place, identity in enumerate(test.ids)}
    worst = [each for each in answers[-1] if each.true != each.predicted][:WORST_EXAMPLES]
    if worst:
        positions = np.array([places[each.id] for each in worst])
        # As the network saw them: a file may be gone by now, and no picture is worth a trained model.
        inputs = prepared.inputs["test"]
        annotated = test.examples.annotated
        shown: Sequence[Any] = inputs.modality.shown(inputs[positions])
        if annotated is not None:  # as it is written, and whole
            shown = [annotated[test.indices[place]].text for place in positions]
        if inputs.modality.pictures:
            plot_worst(list(zip(shown, worst, strict=True)), run.worst_png)
        else:
            rows = [{**vars(each), "shown": example} for example, each in zip(shown, worst, strict=True)]
            write_rows(run.worst_csv, rows)


def write_results(
    run: Run,
    prepared: DecodedSplits,
    report: Report,
    logits: Mapping[str, np.ndarray],
    near: Sequence[Mapping[str, str]],
) -> None:
    """Write what was measured: near copies between splits, confusion, answers and the report."""
    if near:
        write_rows(run.near_copies_csv, near)
    confusion = report.metrics.confusion
    if confusion is not None and confusion.size <= DRAWN_UP_TO:
        plot_confusion(confusion.dense(), report.metrics.confused_names, run.confusion_png, report.columns[1])
    write_answers(run, prepared, logits)
    write_report(run, report)


def save_model(run: Run, network: Network) -> None:
    """Write the whole model into the run's folder."""
    with replace_atomically(run.model_keras) as temporary:
        network.model.save(temporary)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dictionaries with the same keys as CSV with a header; no rows make an empty file."""
    header = list(rows[0]) if rows else []
    _write(path, header, ([row[name] for name in header] for row in rows))


def write_splits(path: Path, splits: Splits) -> None:
    """Write the split and the labels of every example."""
    rows = (
        (split.name, identity, names)
        for split in splits
        for identity, names in zip(split.ids, label_names(split, splits.class_names), strict=True)
    )
    _write(path, ["split", "id", "label"], rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    write_text_atomic(path, text.getvalue())
