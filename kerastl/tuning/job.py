"""`tune`: from a recipe to a better one, searched on validation, and tested once."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kerastl.errors import Interrupted, TrainingError, UserError, nearest
from kerastl.features.cache import Cache
from kerastl.locking import FileLock
from kerastl.progress import Progress
from kerastl.recipe import Recipe, recipe_to_dict
from kerastl.report.search import SearchReport, search_text, write_search_page
from kerastl.training.routine import finetunes
from kerastl.tuning.heads import HeadPhases
from kerastl.tuning.oracles import hyperband_trials, make_oracle
from kerastl.tuning.records import SearchFolder, best_of, damaged, read_record, read_records
from kerastl.tuning.results import make_report, winning_values, write_results
from kerastl.tuning.search import BAD_SETTING, TrialRunner, search
from kerastl.tuning.shared import Shared
from kerastl.tuning.space import Space, load_space
from kerastl.tuning.table import TrialTable
from kerastl.tuning.trial import trial_recipe
from kerastl.workflow import fit
from kerastl.workflow.prepare import make_repeatable, open_splits
from kerastl.writing import explain_write_errors, write_json_atomic

TUNERS = ("bayesian", "hyperband", "random", "grid")
NEEDED = {"keras_tuner": "keras-tuner", "sklearn": "scikit-learn", "tensorboard": "tensorboard"}
DEFAULT_TRIALS = 20
BASELINE = "baseline"


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        tuner: `bayesian`, `hyperband`, `random` or `grid`.
        trials: at most; None for 20, and for hyperband and grid as many as they take.
        budget_seconds: no trial begins after so long, counted over all restarts; None for no limit.
        repeats: trainings a trial, each with a seed of its own.
        folds: 0 for the validation split, or into how many parts train and validation together are divided.
        workers: processes on this machine.
    """

    tuner: str = "bayesian"
    trials: int | None = None
    budget_seconds: float | None = None
    repeats: int = 1
    folds: int = 0
    workers: int = 1


@dataclass(frozen=True)
class TuneSummary:
    """What a search left behind.

    Attributes:
        folder: of the search.
        winner: the winning recipe, a TOML file.
        page: the result, for people.
        text: the result, for a terminal.
        score: of the winner, on validation.
        baseline: score of the recipe as it was given.
        monitor: the metric that is the score.
        trials: that ended.
        run: folder of the winner's own run.
        test_accuracy: of the winner, measured once.
        model: the exported model; None where it was not asked for.
    """

    folder: Path
    winner: Path
    page: Path
    text: str
    score: float
    baseline: float
    monitor: str
    trials: int
    run: Path
    test_accuracy: float
    model: Path | None


@dataclass(frozen=True)
class Question:
    """What a search is asked, all of it: what every process of it has to agree on.

    Attributes:
        recipe: as it was given.
        resolved: the same without open keys.
        space: what is varied.
        settings: how.
        fingerprint: of the data.
    """

    recipe: Recipe
    resolved: Recipe
    space: Space
    settings: SearchSettings
    fingerprint: str

    @property
    def monitor(self) -> str:
        """The validation metric that is the score: that of the last phase of the recipe as it was given."""
        return self._last.monitor

    @property
    def full_epochs(self) -> int:
        """Hyperband's epochs of a trial that gets all it asks for."""
        return max(self._last.epochs or 1, 3)

    @property
    def trials(self) -> int | None:
        """At most so many; None where the space or Hyperband's brackets set the end."""
        counted = self.settings.tuner in ("bayesian", "random")
        return self.settings.trials or (DEFAULT_TRIALS if counted else None)

    @property
    def _last(self) -> Any:
        return (
            self.resolved.finetune_phase
            if finetunes(self.resolved.finetune_phase)
            else self.resolved.head_phase
        )

    def to_dict(self) -> dict[str, Any]:
        """What may not change while a search goes on; more trials or time, and other workers, may."""
        tables = recipe_to_dict(self.recipe)
        del tables["cache"], tables["calibration"]
        return {
            "recipe": tables,
            "space": self.space.to_dict(),
            "tuner": self.settings.tuner,
            "repeats": self.settings.repeats,
            "folds": self.settings.folds,
            "data": self.fingerprint,
        }


def tune(
    recipe: Recipe,
    *,
    space: Path | str | None = None,
    settings: SearchSettings = SearchSettings(),
    directory: Path | str | None = None,
    runs_dir: Path | str = Path("runs"),
    models_dir: Path | str = Path("saved_models"),
    export_model: bool = True,
    progress: Progress = Progress(),
) -> TuneSummary:
    """Search recipe keys on training and validation images; train the winner and test it once.

    The same call goes on where an earlier one was stopped, by whatever; finished trials are not repeated.

    Args:
        recipe: from `kerastl.load_recipe`.
        space: a TOML file or the name of a shipped space; see `kerastl.tuning.space`.
        settings: how to search.
        directory: folder of the search; `tuning/<name of the recipe>` without it.
        runs_dir: where the winner's run is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there.
        progress: listens.

    Raises:
        UserError: recipe, space, data or folder cannot be used.
        TrainingError: no trial could be finished.
        Interrupted: the user stopped the search.
    """
    check_packages()
    _check(recipe, settings)
    resolved, splits = open_splits(recipe)
    question = Question(recipe, resolved, load_space(space, recipe, resolved), settings, splits.fingerprint)
    assert resolved.name
    folder = SearchFolder(Path(directory) if directory is not None else Path("tuning") / resolved.name)
    with explain_write_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.lock) as lock:
        if not lock.acquire(exclusive=True):
            raise UserError(
                f"Another process searches in {folder.path}. Wait for it, or choose another folder with --directory."
            )
        check_same(folder, question)
        if folder.result_json.is_file():
            progress.note(
                f"This search has ended and its winner was tested, which happens once. Choose another --directory than "
                f"{folder.path} to search on"
            )
            return _read_summary(folder)
        for warning in splits.warnings:
            progress.warn(warning)
        try:
            report = _search(question, folder, progress)
        except KeyboardInterrupt:
            ended = len(read_records(folder))
            raise Interrupted(
                f"Stopped after {ended} trials. The same command goes on in {folder.path}; finished trials are not repeated"
            ) from None
        return _finish(question, report, folder, runs_dir, models_dir, export_model, progress)


def _search(question: Question, folder: SearchFolder, progress: Progress) -> SearchReport:
    settings, monitor = question.settings, question.monitor
    direction = "max" if monitor == "val_accuracy" else "min"
    oracle = make_oracle(
        settings.tuner,
        question.space,
        direction,
        question.trials,
        question.full_epochs,
        question.resolved.seed,
    )
    expected = question.trials
    if settings.tuner == "hyperband":
        expected = min(hyperband_trials(question.full_epochs), expected or 10**6)
    with open_runner(question, folder, progress) as runner:
        # A baseline that diverges is no reason to stop: then every trial is better.
        with contextlib.suppress(*BAD_SETTING):
            runner.run(folder.baseline, BASELINE, {})
        with TrialTable(
            folder, monitor, expected, settings.budget_seconds, settings.workers, progress
        ) as table:
            table.start(read_record(folder.baseline))
            oracle.ended, oracle.out_of_time = table.ended, table.out_of_time
            search(oracle, folder, runner)
        records = read_records(folder)
        if best_of(records, 1) is None:
            reasons = "; ".join(dict.fromkeys(record.reason for record in records)) or "none was run"
            raise TrainingError(f"No trial could be finished: {reasons[:600]}")
        work = (
            f"{runner.shared.forward_passes:,} forward passes, {runner.heads.trained} head phases run and "
            f"{runner.heads.reused} taken over"
        )
        name = question.resolved.name or ""
        report = make_report(
            folder, name, question.space, settings.tuner, monitor, _measured(settings, monitor), records, work
        )
        recipe = trial_recipe(question.recipe, winning_values(report), runner.shared)
        write_results(folder, report, recipe, question.space, records)
        return report


@contextlib.contextmanager
def open_runner(question: Question, folder: SearchFolder, progress: Progress) -> Iterator[TrialRunner]:
    """What runs trials in this process, with its hold on the store."""
    scratch = folder.path / f"scratch-{os.getpid()}"
    make_repeatable(question.resolved)
    _, splits = open_splits(question.recipe)
    settings = question.settings
    try:
        with Cache(question.resolved.cache, scratch) as cache:
            shared = Shared(splits, cache, settings.folds, question.trials or DEFAULT_TRIALS, progress)
            heads = HeadPhases(folder.heads, progress)
            yield TrialRunner(
                question.recipe, question.space, shared, heads, folder,
                question.monitor, settings.repeats, question.full_epochs,
            )  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _finish(
    question: Question,
    report: SearchReport,
    folder: SearchFolder,
    runs_dir: Path | str,
    models_dir: Path | str,
    export_model: bool,
    progress: Progress,
) -> TuneSummary:
    """Train the winner as anybody would, and let it meet the test split."""
    from kerastl.recipe import load_recipe

    progress.note(f"Training the winner: kerastl fit {folder.winner_toml}")
    fitted = fit(
        load_recipe(folder.winner_toml),
        runs_dir=runs_dir,
        models_dir=models_dir,
        export_model=export_model,
        progress=progress,
    )
    low, high = fitted.report.metrics.accuracy_interval
    words = f"accuracy {fitted.report.metrics.accuracy:.4f} (95 % interval {low:.3f} to {high:.3f}) on {fitted.report.metrics.count:,} images"
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
        test_accuracy=fitted.report.metrics.accuracy,
        model=fitted.exported.path if fitted.exported else None,
    )
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(summary).items()}
    write_json_atomic(folder.result_json, plain)
    return summary


def _read_summary(folder: SearchFolder) -> TuneSummary:
    try:
        values = json.loads(folder.result_json.read_text(encoding="utf-8"))
        for name in ("folder", "winner", "page", "run", "model"):
            values[name] = Path(values[name]) if values[name] else None
        return TuneSummary(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder.result_json, error) from error


def check_packages() -> None:
    """Raise UserError where a package that only the search needs is missing, before anything is decoded."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"kerastl tune needs {' and '.join(missing)}. Install: pip install {' '.join(missing)}"
        )


def check_same(folder: SearchFolder, question: Question) -> None:
    """Take down what is asked, or raise UserError where the folder belongs to another search."""
    asked = json.loads(json.dumps(question.to_dict()))
    if not folder.search_json.is_file():
        write_json_atomic(folder.search_json, asked)
        return
    try:
        known = json.loads(folder.search_json.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder.search_json, error) from error
    differing = [name for name in asked if known.get(name) != asked[name]]
    if differing:
        raise UserError(
            f"{folder.path} holds another search: its {' and '.join(differing)} differ{'s' if len(differing) == 1 else ''}. "
            "Trials of two questions cannot be compared: choose another folder with --directory, or remove this one."
        )


def _check(recipe: Recipe, settings: SearchSettings) -> None:
    problems = []
    if settings.tuner not in TUNERS:
        problems.append(
            f"tuner = {settings.tuner!r}: expected one of {', '.join(TUNERS)}.{nearest(settings.tuner, TUNERS)}"
        )
    if settings.folds == 1 or settings.folds < 0:
        problems.append(f"folds = {settings.folds}: expected at least 2, or 0 for the validation split")
    for name in ("trials", "repeats", "workers"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            problems.append(f"{name} = {value}: expected at least 1")
    mixes = [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(recipe.augment, name)]
    if settings.folds and (mixes or recipe.augment.level == "strong"):
        problems.append(
            "folds: the augmentation mixes images, and would mix those that a fold holds out into those that it learns "
            "from. Use repeats, or an augmentation without MixUp and CutMix"
        )
    if problems:
        raise UserError("\n".join(problems))


def _measured(settings: SearchSettings, monitor: str) -> str:
    where = f"{settings.folds} folds of train and validation" if settings.folds else "the validation split"
    seeds = f", mean over {settings.repeats} seeds" if settings.repeats > 1 else ""
    return f"`{monitor}` on {where}{seeds}"
