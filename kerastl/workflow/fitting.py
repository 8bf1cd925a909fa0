"""`fit`: the main job, from a recipe to a tested and exported model."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.errors import Interrupted, KerastlError
from kerastl.evaluation.confusion import DRAWN_UP_TO
from kerastl.evaluation.intervals import group_numbers
from kerastl.export.publish import ExportedModel
from kerastl.features.cache import Cache
from kerastl.locking import check_locks
from kerastl.model.build import Network
from kerastl.progress import Progress
from kerastl.recipe import Recipe, Settings, recipe_to_toml
from kerastl.report.page import PhaseSummary, Report, report_text, write_report
from kerastl.report.plots import plot_confusion
from kerastl.run import Run, create_run, environment
from kerastl.training.batches import class_weights
from kerastl.training.phase import PhaseResult
from kerastl.training.two_phase import transfer
from kerastl.workflow.beginning import Beginning, logits_of, metrics_of, prepare_and_begin
from kerastl.workflow.calibrating import calibrate_network, trust_of, write_calibration
from kerastl.workflow.exporting import Trained, export_network, readable_images, serving_of
from kerastl.workflow.facts import model_facts
from kerastl.workflow.logbook import Logbook
from kerastl.workflow.near import near_copies_in
from kerastl.workflow.planning import make_plan
from kerastl.workflow.prepare import (
    Prepared,
    lost_images_named,
    open_splits,
    precision_of,
    reading_warnings,
    view_warnings,
)
from kerastl.workflow.records import write_answers, write_data, write_histories, write_preview, write_rows
from kerastl.writing import replace_atomically, write_json_atomic, write_text_atomic

LISTED_UNREADABLE = 50


@dataclass(frozen=True)
class FitSummary:
    """What a fit left behind.

    Attributes:
        run: folder of the run.
        report: the measured result.
        exported: the published SavedModel; None where it was not asked for.
    """

    run: Path
    report: Report
    exported: ExportedModel | None


def fit(
    recipe: Recipe,
    *,
    runs_dir: Path | str = Path("runs"),
    models_dir: Path | str = Path("saved_models"),
    export_model: bool = True,
    tensorboard: bool = False,
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress = Progress(),
) -> FitSummary:
    """Transfer a pretrained backbone to labelled images.

    Args:
        recipe: from `kerastl.load_recipe`.
        runs_dir: where the run's folder is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there.
        tensorboard: also write TensorBoard logs into the run's folder.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some images of the data.
        progress: listens.

    Returns:
        The run's folder, the report on the test split, and the exported model.

    Raises:
        UserError: recipe, data or weights cannot be used; nothing was trained.
        TrainingError: a loss is not finite.
        ExportError: the exported model does not agree with the trained one; nothing was published.
        Interrupted: the user stopped the training; the best model so far lies in the run's folder.
    """
    started = time.perf_counter()
    check_locks()
    recipe, splits = open_splits(recipe, runs_dir, *[models_dir] * export_model)
    run = create_run(runs_dir, recipe.name)
    progress = log = Logbook(progress, run.log_txt)
    progress.note(f"Run {run.path}")
    write_text_atomic(run.recipe_toml, recipe_to_toml(recipe, f"Repeat with: kerastl fit {run.recipe_toml}"))
    write_json_atomic(run.environment_json, environment())
    for warning in (*splits.warnings, *view_warnings(recipe)):
        progress.warn(warning)
    stack = contextlib.ExitStack()
    result = None
    try:
        cache = stack.enter_context(Cache(recipe.cache, run.scratch))
        with precision_of(recipe, progress) as precision:
            prepared, beginning = prepare_and_begin(recipe, splits, cache, progress)
        write_data(run, prepared)
        for name, reason in list(prepared.unreadable.items())[:LISTED_UNREADABLE]:
            progress.warn(f"left out {name}: {reason}")
        if len(prepared.unreadable) > LISTED_UNREADABLE:
            progress.warn(
                f"{len(prepared.unreadable) - LISTED_UNREADABLE:,} more are listed in {run.data_json}"
            )
        if export_model:  # read before hours of training, in which files may vanish or change
            positions, images, pixels = _images_to_check_on(prepared, progress)
        if recipe.augment.views > 1:
            write_preview(run, prepared)
        network, loaded = beginning.network, beginning.weights
        plan = make_plan(network, recipe, prepared.splits.counts())
        write_text_atomic(run.plan_txt, plan.text() + "\n")
        with lost_images_named(prepared):
            result = transfer(
                network,
                beginning.parts,
                beginning.train,
                beginning.validation,
                recipe,
                trainers=beginning.trainers,
                tensorboard=run.tensorboard if tensorboard else None,
                progress=progress,
            )
        write_histories(run, result)
        if result.interrupted and not result.phases[0].history:
            raise Interrupted(
                f"Stopped before the first epoch had ended: nothing was learnt yet. `kerastl fit {run.recipe_toml}` begins anew"
            )
        if result.interrupted:
            save_model(run, network)
            raise Interrupted(
                f"Stopped. The best model so far ({result.winner}, {_values(result.validation)}) lies in {run.path}: "
                f"`kerastl evaluate {run.path}` tests it, `kerastl export {run.path}` publishes it, and "
                f"`kerastl fit {run.recipe_toml}` begins anew"
            )
        logits = {"validation": logits_of(beginning, prepared, result.winner, "validation", cache, progress)}
        labels = {split.name: split.labels for split in prepared.splits}
        calibrated, logits["validation"] = calibrate_network(
            network, logits["validation"], labels["validation"], recipe, progress,
            _validation_weights(beginning, recipe, result.winner), group_numbers(prepared.splits.validation.groups),
        )  # fmt: skip
        write_calibration(run, calibrated)
        save_model(run, network)
        # The one and only look at the test split.
        logits["test"] = logits_of(beginning, prepared, result.winner, "test", cache, progress)
        test, validation = (metrics_of(logits[name], prepared, name) for name in ("test", "validation"))
        groups = group_numbers(prepared.splits.test.groups)
        trust = trust_of(calibrated, logits["test"], labels["test"], recipe.task, groups)
        near = near_copies_in(prepared, progress)
        if near.rows:
            write_rows(run.near_copies_csv, near.rows)
        for warning in near.warnings:
            progress.warn(warning)
        converted = reading_warnings((), prepared.converted)
        for warning in converted:
            progress.warn(warning)
        report = Report(
            metrics=test,
            trust=trust,
            validation_metrics=validation,
            phases=tuple(_summary(phase) for phase in result.phases),
            winner=result.winner,
            counts=prepared.splits.counts(),
            unreadable_count=len(prepared.unreadable),
            weights_origin=loaded.origin,
            fingerprint=prepared.splits.fingerprint,
            class_names=prepared.splits.class_names,
            seconds=time.perf_counter() - started,
            warnings=(*prepared.splits.warnings, *near.warnings, *calibrated.warnings, *converted),
        )
        if test.confusion is not None and test.confusion.size <= DRAWN_UP_TO:
            plot_confusion(test.confusion.dense(), prepared.splits.class_names, run.confusion_png)
        write_answers(run, prepared, logits)
        # Before the export: the test split is looked at once, and what it said must not be lost with a failed check.
        write_report(run, report)
        exported = None
        if export_model:
            serving = serving_of(recipe, prepared.splits.class_names, calibrated.threshold)
            known = np.concatenate([logits[name][positions[name]] for name in positions])
            trained = Trained(pixels, recipe.task.probabilities(known))
            try:
                exported = export_network(
                    network.model, recipe, serving, images, precision, models_dir, recipe.name, trained,
                    facts=model_facts(recipe, run, prepared.splits.class_names, report.to_dict()),
                    keep=keep, warmup=warmup, progress=progress,
                )  # fmt: skip
            except Exception as error:
                problem = (
                    str(error) if isinstance(error, KerastlError) else f"{type(error).__name__}: {error}"
                )
                write_report(run, dataclasses.replace(report, export_problem=problem))
                raise
    except KeyboardInterrupt:
        stopped = _stopped(run, network) if result else "stopped"
        log.write(stopped)
        if not result:
            raise
        raise Interrupted(stopped) from None
    except BaseException as error:
        log.write(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        stack.close()
        shutil.rmtree(run.scratch, ignore_errors=True)
    report = dataclasses.replace(report, seconds=time.perf_counter() - started)
    write_report(run, report)
    log.write(report_text(report))
    log.write(f"model {exported.path}" if exported else "no model was exported")
    return FitSummary(run.path, report, exported)


def _validation_weights(beginning: Beginning, recipe: Settings, winner: str) -> np.ndarray | None:
    """Weight of each validation image in what is fitted on them, as in the phase that was kept; None for all alike."""
    weights = class_weights(getattr(recipe, winner), beginning.validation)
    return None if weights is None else weights[beginning.validation.views.classes]


def save_model(run: Run, network: Network) -> None:
    """Write the whole model into the run's folder."""
    with replace_atomically(run.model_keras) as temporary:
        network.model.save(temporary)


def _stopped(run: Run, network: Network) -> str:
    """What is there, and how to go on, where a fit was stopped after its training; the model is saved if it was not yet."""
    if not run.model_keras.is_file():
        save_model(run, network)
    if run.report_json.is_file():
        return (
            f"Stopped before the model was exported. It was tested, as {run.report_md} says, and `kerastl export {run.path}` "
            "publishes it"
        )
    return (
        f"Stopped before the trained model was tested. It lies in {run.path}: `kerastl evaluate {run.path}` tests it, and "
        f"`kerastl export {run.path}` publishes it"
    )


def _images_to_check_on(
    prepared: Prepared, progress: Progress
) -> tuple[dict[str, np.ndarray], list[bytes], np.ndarray]:
    """Some validation and test images: positions in each split, bytes, and uint8 [n, s, s, 3] as they were decoded."""
    positions: dict[str, np.ndarray] = {}
    images: list[bytes] = []
    for name in ("validation", "test"):
        positions[name], read = readable_images(getattr(prepared.splits, name), progress)
        images += read
    return positions, images, np.concatenate([prepared.pixels[name][positions[name]] for name in positions])


def _summary(phase: PhaseResult) -> PhaseSummary:
    return PhaseSummary(
        phase=phase.name,
        epochs=len(phase.history),
        best_epoch=phase.best_epoch,
        monitor=phase.monitor,
        best_value=phase.best[phase.monitor],
        seconds=phase.seconds,
        images_per_second=phase.images_per_second,
    )


def _values(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
