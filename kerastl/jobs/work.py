"""The parts of a fit around its training: what is written down before it, and calibration, test, report and export after it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.data.examples import Splits
from kerastl.errors import KerastlError
from kerastl.evaluation.confusion import DRAWN_UP_TO
from kerastl.evaluation.intervals import group_numbers
from kerastl.export.facts import model_facts
from kerastl.export.publish import ExportedModel
from kerastl.features.cache import Cache
from kerastl.jobs.artifacts import write_answers, write_data, write_preview, write_rows
from kerastl.jobs.calibrate import calibrate_network, trust_of, write_calibration
from kerastl.jobs.export import Trained, export_network, readable_images
from kerastl.jobs.log import Log
from kerastl.jobs.near import near_copies_in
from kerastl.jobs.plan import make_plan
from kerastl.jobs.prepare import Prepared, reading_warnings
from kerastl.jobs.setup import Beginning, logits_of, metrics_of
from kerastl.jobs.trained import serving_of
from kerastl.modality import Batch, modality_of
from kerastl.model.build import Network
from kerastl.recipe import Asked, Settings, recipe_to_toml
from kerastl.recipe.schema import HANDED
from kerastl.report.page import PhaseSummary, Report, report_text, write_report
from kerastl.report.plots import plot_confusion
from kerastl.run import Run, create_run, environment
from kerastl.training.batches import class_weights
from kerastl.training.phase import PhaseResult
from kerastl.training.two_phase import FitResult
from kerastl.writing import explain_write_errors, replace_atomically, write_json_atomic, write_text_atomic

LISTED_UNREADABLE = 50


@dataclass(frozen=True, eq=False)
class Work:
    """A run and what it is made with.

    Attributes:
        run: its folder.
        prepared: split and decoded images.
        beginning: network and features.
        cache: keeps the features.
        precision: `float32` or `mixed_bfloat16`.
        log: listens and writes down.
        started: when, by `time.perf_counter`.
    """

    run: Run
    prepared: Prepared
    beginning: Beginning
    cache: Cache
    precision: str
    log: Log
    started: float

    @property
    def recipe(self) -> Settings:
        """The run's settings."""
        return self.prepared.recipe


@dataclass(frozen=True, eq=False)
class CheckImages:
    """Some validation and test images, on which an exported model is compared with what was trained.

    Attributes:
        positions: of them in each split.
        encoded: their bytes.
        inputs: as they were decoded for training.
    """

    positions: Mapping[str, np.ndarray]
    encoded: list[bytes]
    inputs: Batch


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
    recipe = with_own_files(recipe, run.path, files)
    heading = f"Repeat with: kerastl fit {run.recipe_toml}"
    if recipe.data.source.startswith(HANDED):
        heading = f"Trained in Python on {splits.train.examples.origin}: kerastl.fit(..., data) repeats it, with the same data."
    write_text_atomic(run.recipe_toml, recipe_to_toml(recipe, heading))
    write_json_atomic(run.environment_json, environment())
    return run, recipe


def write_setup(work: Work, export_model: bool) -> CheckImages | None:
    """Write down what a training begins with: data, plan and some augmented images.

    Args:
        work: before its training.
        export_model: whether the model will be exported.

    Returns:
        The images that an export is checked on, read before hours of training in which files may vanish; None where there
        will be no export.
    """
    run, prepared, log = work.run, work.prepared, work.log
    write_data(run, prepared)
    for name, reason in list(prepared.unreadable.items())[:LISTED_UNREADABLE]:
        log.warn(f"left out {name}: {reason}")
    if len(prepared.unreadable) > LISTED_UNREADABLE:
        log.warn(f"{len(prepared.unreadable) - LISTED_UNREADABLE:,} more are listed in {run.data_json}")
    handed = work.recipe.data.source.startswith(HANDED)
    checks = _check_images(work) if export_model or handed else None
    if checks and handed:
        run.check_examples.mkdir()
        for number, data in enumerate(checks.encoded):
            with explain_write_errors(run.check_examples):
                (run.check_examples / f"{number:02}").write_bytes(data)
    if work.recipe.augment.views > 1:
        write_preview(run, prepared)
    plan = make_plan(work.beginning.network, work.recipe, prepared.splits.counts())
    write_text_atomic(run.plan_txt, plan.text() + "\n")
    return checks if export_model else None


def conclude(
    work: Work,
    result: FitResult,
    checks: CheckImages | None,
    models_dir: Path | str,
    keep: int | None,
    warmup: bool,
) -> tuple[Report, ExportedModel | None]:
    """Calibrate what was trained, test it once, write the report, and export it.

    Args:
        work: whose network holds the winner's weights.
        result: of its training.
        checks: images to check the export on; nothing is exported without them.
        models_dir: the folder that TensorFlow Serving watches.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests beside the model.

    Raises:
        ExportError: the exported model does not agree with the trained one; nothing was published.
    """
    run, prepared, beginning, log = work.run, work.prepared, work.beginning, work.log
    recipe, splits, network = work.recipe, work.prepared.splits, work.beginning.network
    logits = {"validation": logits_of(beginning, prepared, result.winner, "validation", work.cache, log)}
    labels = {split.name: split.labels for split in splits}
    calibrated, logits["validation"] = calibrate_network(
        network, logits["validation"], labels["validation"], recipe, log,
        _validation_weights(beginning, recipe, result.winner), group_numbers(splits.validation.groups),
    )  # fmt: skip
    write_calibration(run, calibrated)
    save_model(run, network)
    # The one and only look at the test split.
    logits["test"] = logits_of(beginning, prepared, result.winner, "test", work.cache, log)
    test, validation = (metrics_of(logits[name], prepared, name) for name in ("test", "validation"))
    trust = trust_of(
        calibrated, logits["test"], labels["test"], recipe.task, group_numbers(splits.test.groups)
    )
    near = near_copies_in(prepared, log)
    if near.rows:
        write_rows(run.near_copies_csv, near.rows)
    converted = reading_warnings((), prepared.converted)
    for warning in (*near.warnings, *converted):
        log.warn(warning)
    report = Report(
        metrics=test,
        trust=trust,
        validation_metrics=validation,
        phases=tuple(_summary(phase) for phase in result.phases),
        winner=result.winner,
        counts=splits.counts(),
        unreadable_count=len(prepared.unreadable),
        weights_origin=beginning.weights.origin,
        fingerprint=splits.fingerprint,
        class_names=splits.class_names,
        seconds=time.perf_counter() - work.started,
        warnings=(*splits.warnings, *near.warnings, *calibrated.warnings, *converted),
        modality=modality_of(recipe).name,
    )
    if test.confusion is not None and test.confusion.size <= DRAWN_UP_TO:
        plot_confusion(
            test.confusion.dense(), splits.class_names, run.confusion_png, modality_of(recipe).noun
        )
    write_answers(run, prepared, logits)
    # Before the export: the test split is looked at once, and what it said must not be lost with a failed check.
    write_report(run, report)
    if checks is None:
        return report, None
    serving = serving_of(recipe, splits.class_names, calibrated.threshold)
    known = np.concatenate([logits[name][positions] for name, positions in checks.positions.items()])
    try:
        exported = export_network(
            network.model, recipe, serving, checks.encoded, work.precision, models_dir, recipe.name,
            Trained(checks.inputs, recipe.task.probabilities(known)),
            facts=model_facts(recipe, run, splits.class_names, report.to_dict()),
            keep=keep, warmup=warmup, progress=log,
        )  # fmt: skip
    except Exception as error:
        problem = str(error) if isinstance(error, KerastlError) else f"{type(error).__name__}: {error}"
        write_report(run, dataclasses.replace(report, export_problem=problem))
        raise
    return report, exported


def write_end(work: Work, report: Report, exported: ExportedModel | None) -> Report:
    """Write the report once more, with the whole time, and both into the log."""
    report = dataclasses.replace(report, seconds=time.perf_counter() - work.started)
    write_report(work.run, report)
    work.log.write(report_text(report))
    work.log.write(f"model {exported.path}" if exported else "no model was exported")
    return report


def save_model(run: Run, network: Network) -> None:
    """Write the whole model into the run's folder."""
    with replace_atomically(run.model_keras) as temporary:
        network.model.save(temporary)


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


def _check_images(work: Work) -> CheckImages:
    positions: dict[str, np.ndarray] = {}
    images: list[bytes] = []
    for name in ("validation", "test"):
        positions[name], read = readable_images(getattr(work.prepared.splits, name), work.log)
        images += read
    parts = [work.prepared.pixels[name][positions[name]] for name in positions]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return CheckImages(positions, images, inputs)


def _validation_weights(beginning: Beginning, recipe: Settings, winner: str) -> np.ndarray | None:
    """Weight of each validation image in what is fitted on them, as in the phase that was kept; None for all alike."""
    weights = class_weights(getattr(recipe, winner), beginning.validation)
    return None if weights is None else weights[beginning.validation.views.classes]


def _summary(phase: PhaseResult) -> PhaseSummary:
    return PhaseSummary(
        phase=phase.name,
        epochs=len(phase.history),
        best_epoch=phase.best_epoch,
        monitor=phase.monitor,
        best_value=phase.best[phase.monitor],
        seconds=phase.seconds,
        examples_per_second=phase.images_per_second,
    )
