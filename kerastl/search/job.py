"""`tune`: from a recipe to a better one, searched on validation, and tested once."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerastl.data.examples import Examples
from kerastl.errors import Interrupted, TrainingError, UserError
from kerastl.features.cache import Cache
from kerastl.jobs.conclude import FitSummary
from kerastl.jobs.fit import fit
from kerastl.jobs.net import Net
from kerastl.jobs.open import open_splits
from kerastl.jobs.python import handed_over
from kerastl.jobs.recipes import usable
from kerastl.locking import FileLock
from kerastl.modality import modality_of
from kerastl.model.precision import make_repeatable
from kerastl.progress import Logging, Progress
from kerastl.recipe import Recipe, load_recipe
from kerastl.report.search_report import SearchReport, search_text, write_search_page
from kerastl.search.head_phases import HeadPhases
from kerastl.search.hyperparameters import first_values, values_of
from kerastl.search.oracle import Oracle, hyperband_trials, make_oracle
from kerastl.search.results import (
    TuneSummary,
    append_log,
    make_report,
    read_summary,
    train_command,
    winning_values,
    write_results,
    write_summary,
)
from kerastl.search.search_folder import (
    SearchFolder,
    read_record,
    read_records,
    scratch_folder,
    whole_trials,
)
from kerastl.search.shared import Shared
from kerastl.search.space import load_space
from kerastl.search.spec import (
    DEFAULT_TRIALS,
    SearchSettings,
    SearchSpec,
    check_folds,
    check_same,
    check_settings,
    check_shared,
    folder_for,
)
from kerastl.search.trial import BAD_SETTING, TrialRunner, room_warning, search, trial_recipe
from kerastl.search.trial_log import TrialLog
from kerastl.search.workers import IP, search_with_workers
from kerastl.task import MONITORS
from kerastl.wording import counted, interval
from kerastl.writing import explain_write_errors

NEEDED = {"keras_tuner": "keras-tuner", "sklearn": "scikit-learn", "tensorboard": "tensorboard"}
UNLIMITED = 10**6
BASELINE = "baseline"


def tune(
    recipe: Net | Recipe | str | Path | None = None,
    data: Examples | str | Path | None = None,
    *,
    space: Path | str | None = None,
    settings: SearchSettings | None = None,
    directory: Path | str | None = None,
    runs_dir: Path | str = Path("runs"),
    models_dir: Path | str = Path("saved_models"),
    export_model: bool | None = None,
    tensorboard: bool = False,
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> TuneSummary:
    """Search recipe keys on training and validation examples; train the winner and test it once.

    The same call goes on where an earlier one was stopped, by whatever; finished trials are not repeated.

    Args:
        recipe: as `kerastl.fit` takes it: a network from `kerastl.build`, perhaps with a head of its own layers; or a recipe, the name of a
            shipped one or its TOML file; or the name of a backbone, or a `.keras` file with one.
        data: as `kerastl.fit` takes it: examples, or what `--data` takes. A search goes on with the same examples alone.
        space: a TOML file or the name of a shipped space; see `kerastl.search.space`.
        settings: how to search; the defaults without it.
        directory: folder of the search; `tuning/<name of the recipe>` without it, with a number where another search is there.
        runs_dir: where the winner's run is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there; without it that is done where no data are handed over.
        tensorboard: also write TensorBoard logs of the winner's training into its run's folder.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some of the examples.
        progress: listens; without it warnings go to `logging`.
        **options: keys of the recipe, as `kerastl.fit` takes them.

    Raises:
        UserError: recipe, space, data or folder cannot be used.
        TrainingError: no trial could be finished.
        Interrupted: the user stopped the search.

    Example:
        >>> data = kerastl.from_arrays(x, y)
        >>> kerastl.load(kerastl.tune("resnet50", data, space="head", unfreeze_from="backbone").run).predict(x[0]).label
        'daisy'
    """
    settings, progress = settings or SearchSettings(), progress or Logging()
    check_packages()
    check_settings(settings)
    if export_model is None:
        export_model = data is None and not isinstance(recipe, Net)
    asked, examples, files = handed_over(recipe, data, options)
    examples = usable(examples, asked)
    resolved, splits = open_splits(asked, directory or "tuning", runs_dir, models_dir, examples=examples)
    # What was learnt of the examples holds for all trials.
    asked = dataclasses.replace(asked, data=resolved.data)
    spec = SearchSpec(asked, resolved, load_space(space, asked, resolved), settings, splits, files)
    check_folds(asked, resolved, spec.space, settings)
    if has_workers(settings):
        check_shared(spec)
    if directory is not None:
        folder = SearchFolder(Path(directory))
    else:
        folder = folder_for(spec, Path("tuning") / resolved.name, progress)
    with explain_write_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.lock) as lock:
        if not lock.acquire(exclusive=True):
            raise UserError(
                f"Another process searches in {folder.path}. Wait for it, or choose another folder with --directory."
            )
        check_same(folder, spec)
        if folder.result_json.is_file():
            progress.note(
                f"This search has ended and its winner was tested, which happens once. Choose another --directory than "
                f"{folder.path} to search on"
            )
            return read_summary(folder)
        spec = spec.kept_in(folder.path)
        for warning in splits.warnings:
            progress.warn(warning)
        try:
            report = _search(spec, folder, progress)
        except KeyboardInterrupt:
            ended = len(read_records(folder))
            raise Interrupted(
                f"Stopped after {ended} trials. The same command goes on in {folder.path}; finished trials are not repeated"
            ) from None
        progress.note(f"Training the winner: {train_command(spec.recipe, folder.winner_toml)}")
        fitted = fit(
            load_recipe(folder.winner_toml), runs_dir=runs_dir, models_dir=models_dir, export_model=export_model,
            tensorboard=tensorboard, keep=keep, warmup=warmup, progress=progress, examples=examples, files=spec.files,
        )  # fmt: skip
        return _finish(spec, report, folder, fitted, directory is None)


def _search(spec: SearchSpec, folder: SearchFolder, progress: Progress) -> SearchReport:
    settings, monitor = spec.settings, spec.monitor
    oracle = oracle_of(spec)
    expected = spec.trials
    if settings.tuner == "hyperband":
        expected = min(hyperband_trials(spec.full_epochs), expected or UNLIMITED)
    with open_runner(spec, folder, progress) as runner:
        if spec.space.added:
            progress.note(
                f"Added to the space, which the recipe as it is lies outside of: {', '.join(spec.space.added)}"
            )
        warning = room_warning(spec.recipe, spec.space, runner.shared)
        if warning:
            progress.warn(warning)
        with TrialLog(folder, monitor, expected, settings.budget_seconds, progress) as log:
            # A baseline that diverges is no reason to stop: then every trial is better.
            with contextlib.suppress(*BAD_SETTING):
                runner.run(folder.baseline, BASELINE, {})
            log.start(read_record(folder.baseline))
            oracle.open(folder)
            oracle.ended, oracle.out_of_time = log.ended, log.out_of_time
            if has_workers(settings):
                search_with_workers(oracle, spec.to_dict(), settings.workers, progress)
            else:
                search(oracle, runner)
        records, baseline = read_records(folder), read_record(folder.baseline)
        if not whole_trials(records):
            reasons = "; ".join(dict.fromkeys(filter(None, (record.reason for record in records))))
            message = (
                f"No trial was finished with all its epochs: {reasons[:600] or 'no time was left for one'}"
            )
            if baseline is None or baseline.score is None:
                raise TrainingError(message)
            progress.warn(
                f"{message}. The recipe as it is stays the best; --budget and --trials may be raised"
            )
        every = [*records, *filter(None, [baseline])]
        work = (
            f"{sum(record.forward_passes for record in every):,} forward passes and "
            f"{sum(record.heads for record in every)} head phases for {len(every)} trials"
        )
        name = spec.resolved.name
        report = make_report(
            folder, name, spec.space, settings.tuner, monitor, spec.measured, records, work,
            runner.shared.measured_groups(spec.resolved), modality_of(spec.resolved).noun,
        )  # fmt: skip
        recipe = trial_recipe(spec.recipe, winning_values(report), runner.shared)
        write_results(folder, report, recipe, spec.space, records)
        return report


def has_workers(settings: SearchSettings) -> bool:
    """True where trials run in other processes: an address to listen at asks for a chief, for workers on other machines."""
    return settings.workers > 1 or IP in os.environ


def oracle_of(spec: SearchSpec) -> Oracle:
    """The oracle that chooses the trials of a search."""
    tuner, direction = spec.settings.tuner, "max" if MONITORS[spec.monitor] else "min"
    first = first_values(spec.space, values_of(spec.resolved, spec.space))
    return make_oracle(tuner, spec.space, direction, spec.trials, spec.full_epochs, spec.resolved.seed, first)


@contextlib.contextmanager
def open_runner(
    spec: SearchSpec, folder: SearchFolder, progress: Progress = Progress()
) -> Iterator[TrialRunner]:
    """Open the runner of this process' trials, with its hold on the store."""
    make_repeatable(spec.resolved)
    with scratch_folder(folder) as scratch, Cache(spec.resolved.cache, scratch) as cache:
        shared = Shared(spec.splits, cache, spec.settings.folds, spec.trials or DEFAULT_TRIALS, progress)
        yield TrialRunner(spec, folder, shared, HeadPhases(folder.heads, progress))


def _finish(
    spec: SearchSpec, report: SearchReport, folder: SearchFolder, fitted: FitSummary, default_place: bool
) -> TuneSummary:
    """Write down the winner's result on the test split, after a training like any other."""
    metrics = fitted.report.metrics
    between = interval(*metrics.accuracy_interval, metrics.groups)
    words = f"accuracy {metrics.accuracy:.4f} ({between}) on {counted(metrics.count, report.noun)}"
    report = dataclasses.replace(report, test=words)
    write_search_page(folder.path, folder.page_md, report, folder.winner_toml.read_text(encoding="utf-8"))
    summary = TuneSummary(
        folder=folder.path,
        winner=folder.winner_toml,
        page=folder.page_md,
        text=f"{search_text(report)}\n  {'test, once':<20}{words}",
        score=report.best_score,
        baseline=report.baseline,
        monitor=report.monitor,
        trials=len(report.trials),
        run=fitted.run,
        test_accuracy=metrics.accuracy,
        model=fitted.exported.path if fitted.exported else None,
        winning_trial=report.best,
        values=winning_values(report),
        no_better_than_chance=report.chance,
        gain=report.bias,
        importance=report.importance,
        failed=sum(trial.score is None for trial in report.trials),
        seconds=report.wall_seconds,
        trial_seconds=report.seconds,
    )
    if default_place:
        append_log(folder.path.parent / "ledger.csv", spec, report, words)
    write_summary(folder, summary)
    return summary


def check_packages() -> None:
    """Raise UserError where a package that only the search needs is missing, before anything is decoded."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"kerastl tune needs {' and '.join(missing)}. Install: pip install {' '.join(missing)}"
        )
