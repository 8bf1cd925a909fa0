"""`fit`: the main job, from a recipe to a tested and exported model."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from kerastl.data.examples import Examples
from kerastl.errors import Interrupted
from kerastl.export.publish import ExportedModel
from kerastl.features.cache import Cache
from kerastl.jobs.artifacts import write_histories
from kerastl.jobs.log import Log
from kerastl.jobs.prepare import lost_images_named, open_splits, precision_of, view_warnings
from kerastl.jobs.setup import prepare_and_begin
from kerastl.jobs.work import Work, conclude, save_model, start_run, write_end, write_setup
from kerastl.locking import check_locks
from kerastl.model.build import Network
from kerastl.progress import Progress
from kerastl.recipe import Recipe
from kerastl.report.page import Report
from kerastl.run import Run
from kerastl.training.two_phase import transfer


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
    examples: Examples | None = None,
    files: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
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
        examples: those of the recipe's data, where they are open already, or were handed over in Python.
        files: folder of networks that were handed over in Python; those that the recipe names are kept in the run's folder.
        callbacks: Keras callbacks for both phases.

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
    recipe, splits = open_splits(recipe, runs_dir, *[models_dir] * export_model, examples=examples)
    run, recipe = start_run(recipe, splits, runs_dir, files)
    log = Log(progress, run.log_txt)
    log.note(f"Run {run.path}")
    for warning in (*splits.warnings, *view_warnings(recipe)):
        log.warn(warning)
    stack = contextlib.ExitStack()
    result = None
    try:
        cache = stack.enter_context(Cache(recipe.cache, run.scratch))
        with precision_of(recipe, log) as precision:
            prepared, beginning = prepare_and_begin(recipe, splits, cache, log)
        work = Work(run, prepared, beginning, cache, precision, log, started)
        checks = write_setup(work, export_model)
        network = beginning.network
        with lost_images_named(prepared):
            result = transfer(
                network,
                beginning.parts,
                beginning.train,
                beginning.validation,
                recipe,
                callbacks=callbacks,
                tensorboard=run.tensorboard if tensorboard else None,
                progress=log,
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
        report, exported = conclude(work, result, checks, models_dir, keep, warmup)
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
    return FitSummary(run.path, write_end(work, report, exported), exported)


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


def _values(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
