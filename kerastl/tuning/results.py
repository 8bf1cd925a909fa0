"""What a search leaves behind when its trials are done: a table, a page, pictures and the winning recipe."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.recipe import Recipe, recipe_to_toml
from kerastl.report.search import (
    Luck,
    SearchAxis,
    SearchReport,
    SearchTrial,
    no_winner_words,
    value_text,
    write_search_page,
)
from kerastl.report.search_plots import plot_importance, plot_keys, plot_parallel
from kerastl.run import environment
from kerastl.task import sign_of
from kerastl.tuning.analysis import importance_of, luck_of
from kerastl.tuning.hyperparameters import Space
from kerastl.tuning.search_folder import (
    SearchFolder,
    TrialRecord,
    best_of,
    read_losses,
    read_record,
    whole_trials,
    write_trials,
)
from kerastl.tuning.spec import SearchSpec
from kerastl.tuning.trial_log import seconds_in
from kerastl.writing import explain_write_errors, write_text_atomic


def make_report(
    folder: SearchFolder,
    name: str,
    space: Space,
    tuner: str,
    monitor: str,
    measured: str,
    records: Sequence[TrialRecord],
    work: str,
    groups: np.ndarray | None = None,
) -> SearchReport:
    """What a search found, from the records of its trials; `groups` as `luck_of` takes them."""
    sign = sign_of(monitor)
    baseline = read_record(folder.baseline)
    best = best_of(records, sign)
    assert baseline is not None
    better = best is not None and (
        baseline.score is None or sign * float(best.score or 0.0) < sign * baseline.score
    )
    luck = _luck(folder, baseline, records, groups)
    # What looks better and is no better on other images is the luck of many tries.
    wins = better and (luck is None or luck.expected > 0)
    return SearchReport(
        name=name,
        tuner=tuner,
        monitor=monitor,
        measured=measured,
        axes=tuple(
            SearchAxis(
                a.key,
                tuple(value_text(v) for v in a.values),
                value_text(a.corners()[0]),
                value_text(a.corners()[-1]),
            )
            for a in space
        ),
        trials=tuple(_shown(space, record) for record in records),
        baseline=baseline.score,
        best=best.trial_id if best and wins else "",
        luck=luck,
        importance=importance_of(space, records),
        work=work,
        seconds=sum(record.seconds for record in records),
        wall_seconds=seconds_in(folder),
        chance=best.trial_id if best and better and not wins else "",
    )


def winning_values(report: SearchReport) -> dict[str, Any]:
    """The keys that the winner sets; none where the recipe as it was given was best."""
    return next((dict(trial.values) for trial in report.trials if trial.name == report.best), {})


def write_results(
    folder: SearchFolder, report: SearchReport, recipe: Recipe, space: Space, records: Sequence[TrialRecord]
) -> None:
    """Write table, pictures, winning recipe and page.

    Args:
        folder: of the search.
        report: what was found.
        recipe: the winner's, resolved.
        space: what was searched.
        records: of all trials.
    """
    write_trials(folder.trials_csv, records, space)
    values = winning_values(report)
    set_keys = "\n".join(f"  {key} = {value_text(value)}" for key, value in values.items())
    heading = (
        f"Found by kerastl tune among {len(records)} trials ({report.tuner}): {report.monitor} {report.best_score:.4f} on "
        f"validation, {report.baseline_words} as it was.\n"
        + (f"What the search set:\n{set_keys}\n" if values else f"{no_winner_words(report).capitalize()}.\n")
        + f"Train it with: kerastl fit {folder.winner_toml}"
    )
    text = recipe_to_toml(recipe, heading)
    write_text_atomic(folder.winner_toml, text)
    if report.importance:
        plot_importance(report.importance, folder.path / "importance.png")
    if sum(trial.score is not None for trial in report.trials) > 1:
        plot_keys(report, folder.path / "keys.png")
    if len(whole_trials(records)) > 1:
        plot_parallel(report, folder.path / "parallel.png")
    write_search_page(folder.path, folder.page_md, report, text)


def _shown(space: Space, record: TrialRecord) -> SearchTrial:
    places = {hp.key: hp.encoded(record.values[hp.key]) for hp in space if hp.key in record.values}
    return SearchTrial(
        record.trial_id, record.values, places, record.score, record.share, record.reason, record.seconds
    )


def _luck(
    folder: SearchFolder, baseline: TrialRecord, records: Sequence[TrialRecord], groups: np.ndarray | None
) -> Luck | None:
    losses = [read_losses(folder.of_trial(one.trial_id)) for one in whole_trials(records)]
    if baseline.score is None or not losses:
        return None
    return luck_of(np.stack(losses), read_losses(folder.baseline), groups)


def write_ledger(path: Path, spec: SearchSpec, report: SearchReport, tested: str) -> None:
    """Add a search to the list of all searches: when, what was asked, on which machine, and what came of it."""
    facts, settings = environment(), spec.settings
    row = {
        "ended": datetime.now().isoformat(timespec="minutes"),
        "name": report.name,
        "command": _command(),
        "data": spec.recipe.data.source,
        "backbone": spec.recipe.backbone.name,
        "tuner": settings.tuner,
        "trials": len(report.trials),
        "failed": sum(trial.score is None for trial in report.trials),
        "workers": settings.workers,
        "seconds": round(report.wall_seconds),
        "hardware": f"{facts['machine']}, {facts['cpu_count']} cores",
        "monitor": report.monitor,
        "as_it_was": report.baseline_words,
        "winner": round(report.best_score, 4),
        "expected_gain": round(report.luck.expected, 4) if report.luck else "",
        "test": tested,
        "set": "; ".join(f"{key} = {value_text(value)}" for key, value in winning_values(report).items()),
    }
    text = io.StringIO()
    lines = csv.DictWriter(text, list(row), lineterminator="\n")
    if not path.exists():
        lines.writeheader()
    lines.writerow(row)
    # One write of one line: searches that end together do not tear each other's.
    with explain_write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text.getvalue())


def _command() -> str:
    """The command line of this process, where it is kerastl's."""
    program = Path(sys.argv[0])
    return shlex.join(["kerastl", *sys.argv[1:]]) if "kerastl" in program.parts[-2:] else "from Python"
