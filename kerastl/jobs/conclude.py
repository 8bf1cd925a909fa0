"""The end of a fit: calibrate what was trained, test it once, report it, and export it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.data.examples import Split
from kerastl.data.step_labels import StepLabels, answered, answered_groups
from kerastl.errors import Interrupted, KerastlError
from kerastl.evaluation.intervals import group_numbers
from kerastl.export.facts import model_facts
from kerastl.export.publish import ExportedModel
from kerastl.features.decoded import cut_warnings, reading_warnings
from kerastl.features.near import near_copies_in
from kerastl.jobs.artifacts import save_model, write_results
from kerastl.jobs.calibrate import Calibrated, calibrate_winner, trust_of, write_calibration
from kerastl.jobs.export import ExportChecks
from kerastl.jobs.log import Log
from kerastl.jobs.measure import logits_of, metrics_of
from kerastl.jobs.setup import Setup
from kerastl.jobs.trained import serving_of
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.recipe import Settings
from kerastl.report.page import PhaseSummary, Report, report_text, write_report
from kerastl.run import Run
from kerastl.training.phase import PhaseResult
from kerastl.training.two_phase import FitResult


@dataclass(frozen=True)
class FitSummary:
    """Result of a fit.

    Attributes:
        run: folder of the run.
        report: the measured result.
        exported: the published SavedModel; None where it was not asked for.
    """

    run: Path
    report: Report
    exported: ExportedModel | None


def conclude(
    run: Run,
    setup: Setup,
    result: FitResult,
    checks: ExportChecks | None,
    publish: Callable[..., ExportedModel],
    log: Log,
    started: float,
) -> FitSummary:
    """Calibrate what was trained, test it once, write the report, and export it.

    Args:
        run: is written to.
        setup: whose network holds the winner's weights.
        result: of its training.
        checks: examples to check the export on; nothing is exported without them.
        publish: `export_network` with the place to publish in.
        log: listens and writes down.
        started: when the fit began, by `time.perf_counter`.

    Raises:
        ExportError: the exported model does not agree with the trained one; nothing was published.
        Interrupted: the user stopped it; the model lies in the run's folder.
    """
    with kept_when_stopped(run, setup.network):
        calibrated, validation = calibrate_winner(setup, result.winner, log)
        write_calibration(run, calibrated)
        save_model(run, setup.network)
        # The one and only look at the test split.
        logits = {"validation": validation, "test": logits_of(setup, result.winner, "test", log)}
        near, about_near = near_copies_in(setup.prepared, log)
        warnings = (
            *about_near,
            *cut_warnings(setup.prepared),
            *reading_warnings((), setup.prepared.converted, modality_of(setup.recipe)),
        )
        for warning in warnings:
            log.warn(warning)
        report = report_of(setup, result, calibrated, logits, warnings, time.perf_counter() - started)
        # Before the export: the test split is looked at once, and what it said must not be lost with a failed check.
        write_results(run, setup.prepared, report, logits, near)
        exported = None
        if checks is not None:
            exported = _exported(run, setup, calibrated, report, logits, checks, publish, log)
    report = dataclasses.replace(report, seconds=time.perf_counter() - started)
    write_report(run, report)
    log.write(report_text(report))
    log.write(f"model {exported.path}" if exported else "no model was exported")
    return FitSummary(run.path, report, exported)


def report_of(
    setup: Setup,
    result: FitResult,
    calibrated: Calibrated,
    logits: dict[str, np.ndarray],
    warnings: tuple[str, ...],
    seconds: float,
) -> Report:
    """Measure the calibrated logits of validation and test.

    Args:
        setup: of the training.
        result: of the training.
        calibrated: what was fitted on validation.
        logits: split -> float [n, classes], as the network gives them after calibration.
        warnings: about near copies, texts that are cut and converted files.
        seconds: that the fit took so far.
    """
    prepared, splits = setup.prepared, setup.prepared.splits
    test = splits.test
    groups = group_numbers(answered_groups(test.labels, test.groups))
    return Report(
        metrics=metrics_of(logits["test"], prepared, "test"),
        modality=modality_of(setup.recipe).name,
        trust=trust_of(calibrated, logits["test"], answered(test.labels), setup.recipe.task, groups),
        validation_metrics=metrics_of(logits["validation"], prepared, "validation"),
        phases=tuple(_summary(phase) for phase in result.phases),
        winner=result.winner,
        counts=splits.counts(),
        unreadable_count=len(prepared.unreadable),
        weights_origin=setup.weights.origin,
        fingerprint=splits.fingerprint,
        class_names=splits.class_names,
        seconds=seconds,
        warnings=(*splits.warnings, *warnings, *calibrated.warnings),
    )


def _exported(
    run: Run,
    setup: Setup,
    calibrated: Calibrated,
    report: Report,
    logits: dict[str, np.ndarray],
    checks: ExportChecks,
    publish: Callable[..., ExportedModel],
    log: Log,
) -> ExportedModel:
    """Publish the model; what keeps it from that is written into the report."""
    recipe, class_names = setup.recipe, setup.prepared.splits.class_names
    known = np.concatenate([
        _known(recipe, getattr(setup.prepared.splits, name), logits[name], positions, checks)
        for name, positions in checks.positions.items()
    ])  # fmt: skip
    try:
        return publish(
            setup.network.model, recipe, serving_of(recipe, class_names, calibrated.threshold),
            checks.encoded, setup.precision, name=recipe.name,
            trained=(checks.inputs, known),
            facts=model_facts(recipe, run, class_names, report.to_dict()), progress=log,
        )  # fmt: skip
    except Exception as error:
        problem = str(error) if isinstance(error, KerastlError) else f"{type(error).__name__}: {error}"
        write_report(run, dataclasses.replace(report, export_problem=problem))
        raise


def _known(
    recipe: Settings, split: Split, logits: np.ndarray, positions: np.ndarray, checks: ExportChecks
) -> np.ndarray:
    """Probabilities [n, k] of some examples of a split; of steps [n, steps, k], NaN for those without a label."""
    labels = split.labels
    if not isinstance(labels, StepLabels):
        return recipe.task.probabilities(logits[positions])
    rows, steps = labels.places
    chosen = np.isin(rows, positions)
    longest = max(each.shape[1] for each in checks.inputs.values() if each.ndim > 1)
    found = np.full((len(positions), longest, logits.shape[1]), np.nan)
    found[np.searchsorted(positions, rows[chosen]), steps[chosen]] = recipe.task.probabilities(logits[chosen])
    return found


@contextlib.contextmanager
def kept_when_stopped(run: Run, network: Network) -> Iterator[None]:
    """Save a trained model where the user stops what follows, and say how to go on.

    Raises:
        Interrupted: the user stopped it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not run.model_keras.is_file():
            save_model(run, network)
        if run.report_json.is_file():
            raise Interrupted(
                f"Stopped before the model was exported. It was tested, as {run.report_md} says, and `kerastl export {run.path}` "
                "publishes it"
            ) from None
        raise Interrupted(
            f"Stopped before the trained model was tested. It lies in {run.path}: `kerastl evaluate {run.path}` tests it, and "
            f"`kerastl export {run.path}` publishes it"
        ) from None


def _summary(phase: PhaseResult) -> PhaseSummary:
    return PhaseSummary(
        phase=phase.name,
        epochs=len(phase.history),
        best_epoch=phase.best_epoch,
        monitor=phase.monitor,
        best_value=phase.best[phase.monitor],
        seconds=phase.seconds,
        examples_per_second=phase.examples_per_second,
        solved=phase.solved,
    )
