"""`fit`: the main job, from a recipe to a tested and exported model."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import keras

from kerastl.data.examples import Examples
from kerastl.errors import Interrupted
from kerastl.features.decoded import lost_examples_named
from kerastl.jobs.artifacts import save_model, start_run, working_cache, write_histories, write_setup
from kerastl.jobs.conclude import FitSummary, conclude, kept_when_stopped
from kerastl.jobs.export import export_network
from kerastl.jobs.log import Log
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import Setup, set_up
from kerastl.locking import check_locks
from kerastl.progress import Progress
from kerastl.recipe import Recipe
from kerastl.recipe.rule import view_warnings
from kerastl.run import Run
from kerastl.training.reuse import leak_workaround
from kerastl.training.two_phase import FitResult, transfer


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
    """Transfer a pretrained backbone to labelled examples.

    Args:
        recipe: from `kerastl.load_recipe`.
        runs_dir: where the run's folder is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there.
        tensorboard: also write TensorBoard logs into the run's folder.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some of the examples.
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
    publish = functools.partial(export_network, models_dir=models_dir, keep=keep, warmup=warmup)
    with leak_workaround(), log.end_written(), working_cache(run, recipe) as cache:
        setup = set_up(recipe, splits, cache, log)
        checks = write_setup(run, setup, log, export_model)
        result = train(run, setup, log, callbacks, tensorboard)
        return conclude(run, setup, result, checks, publish, log, started)


def train(
    run: Run, setup: Setup, log: Log, callbacks: Sequence[keras.callbacks.Callback], tensorboard: bool
) -> FitResult:
    """Train both phases and write their histories; the network ends with the weights of the better one.

    Raises:
        TrainingError: a loss is not finite.
        Interrupted: the user stopped it; the best model so far is saved.
    """
    with lost_examples_named(setup.prepared):
        result = transfer(
            setup.network,
            setup.parts,
            setup.train,
            setup.validation,
            setup.recipe,
            callbacks=callbacks,
            tensorboard=run.tensorboard if tensorboard else None,
            progress=log,
        )
    with kept_when_stopped(run, setup.network):
        write_histories(run, result)
        if result.interrupted and not (result.phases[0].history or result.phases[0].solved):
            raise Interrupted(
                f"Stopped before the first epoch had ended: nothing was learnt yet. `kerastl fit {run.recipe_toml}` begins anew"
            )
        if result.interrupted:
            save_model(run, setup.network)
            values = ", ".join(f"{name} {value:.3f}" for name, value in result.validation.items())
            raise Interrupted(
                f"Stopped. The best model so far ({result.winner}, {values}) lies in {run.path}: "
                f"`kerastl evaluate {run.path}` tests it, `kerastl export {run.path}` publishes it, and "
                f"`kerastl fit {run.recipe_toml}` begins anew"
            )
    return result
