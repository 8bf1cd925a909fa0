"""Results of a search: a table of its trials, a page, pictures, the winning recipe and a summary."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.jobs.artifacts import write_rows
from kerastl.recipe import Recipe, recipe_to_toml
from kerastl.recipe.schema import HANDED
from kerastl.report.search_plots import plot_importance, plot_keys, plot_parallel
from kerastl.report.search_report import (
    Importance,
    SearchedKey,
    SearchReport,
    SelectionBias,
    TrialRecord,
    no_winner_text,
    value_text,
    write_search_page,
)
from kerastl.run import environment
from kerastl.search.analysis import importance_of, selection_bias_of
from kerastl.search.hyperparameters import Hyperparameter, Space
from kerastl.search.search_folder import (
    SearchFolder,
    best_of,
    damaged,
    read_losses,
    read_record,
    whole_trials,
)
from kerastl.search.spec import SearchSpec
from kerastl.search.trial_log import seconds_in
from kerastl.task import sign_of
from kerastl.writing import explain_write_errors, write_json_atomic, write_text_atomic


@dataclass(frozen=True)
class TuneSummary:
    """Summary of a search.

    Attributes:
        folder: of the search.
        winner: the winning recipe, a TOML file.
        page: the result, for people.
        text: the result, for a terminal.
        score: of the winner, on validation.
        baseline: score of the recipe as it was given; None where it failed.
        monitor: the metric that is the score.
        trials: that ended.
        run: folder of the winner's own run.
        test_accuracy: of the winner, measured once.
        model: the exported model; None without one.
        winning_trial: its name; empty where the recipe stays as it was.
        values: recipe keys that the winner sets, and their values.
        no_better_than_chance: name of the trial that scored best without a gain to expect on other examples; else empty.
        gain: of the best trial over the recipe as it was: apparent, expected, and its 95 % interval; None where not measured.
        importance: of the searched keys; None where there were too few trials.
        failed: trials that failed.
        seconds: that the search took, without the winner's own training.
        trial_seconds: of all trials, added up.
    """

    folder: Path
    winner: Path
    page: Path
    text: str
    score: float
    baseline: float | None
    monitor: str
    trials: int
    run: Path
    test_accuracy: float
    model: Path | None
    winning_trial: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    no_better_than_chance: str = ""
    gain: SelectionBias | None = None
    importance: Importance | None = None
    failed: int = 0
    seconds: float = 0.0
    trial_seconds: float = 0.0


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
    noun: str = "example",
) -> SearchReport:
    """Make the report of a search from the records of its trials.

    `groups` are those of `selection_bias_of`; `noun` is one example in words.
    """
    sign = sign_of(monitor)
    baseline = read_record(folder.baseline)
    best = best_of(records, sign)
    assert baseline is not None
    better = best is not None and (
        baseline.score is None or sign * float(best.score or 0.0) < sign * baseline.score
    )
    bias = _selection_bias(folder, baseline, records, groups)
    # What looks better and is no better on other examples was only picked from many.
    wins = better and (bias is None or bias.expected > 0)
    return SearchReport(
        name=name,
        tuner=tuner,
        monitor=monitor,
        measured=measured,
        keys=tuple(_searched_key(hp, records) for hp in space),
        trials=tuple(records),
        baseline=baseline.score,
        best=best.trial_id if best and wins else "",
        bias=bias,
        importance=importance_of(space, records),
        work=work,
        seconds=sum(record.seconds for record in records),
        wall_seconds=seconds_in(folder),
        chance=best.trial_id if best and better and not wins else "",
        noun=noun,
    )


def winning_values(report: SearchReport) -> dict[str, Any]:
    """The keys that the winner sets; none where the recipe as it was given was best."""
    return next((dict(trial.values) for trial in report.trials if trial.trial_id == report.best), {})


def write_results(
    folder: SearchFolder, report: SearchReport, recipe: Recipe, space: Space, records: Sequence[TrialRecord]
) -> None:
    """Write table, pictures, winning recipe and page.

    Args:
        folder: of the search.
        report: of the search.
        recipe: the winner's, resolved.
        space: what was searched.
        records: of all trials.
    """
    write_trials(folder.trials_csv, records, space)
    values = winning_values(report)
    set_keys = "\n".join(f"  {key} = {value_text(value)}" for key, value in values.items())
    heading = (
        f"Found by kerastl tune among {len(records)} trials ({report.tuner}): {report.monitor} {report.best_score:.4f} on "
        f"validation, {report.baseline_text} as it was.\n"
        + (f"What the search set:\n{set_keys}\n" if values else f"{no_winner_text(report).capitalize()}.\n")
        + f"Train it with: {train_command(recipe, folder.winner_toml)}"
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


def train_command(recipe: Recipe, winner: Path) -> str:
    """The command that trains the winner, in Python where its data were handed over there."""
    handed = recipe.data.source.startswith(HANDED)
    return f'kerastl.fit("{winner}", data), with the same data' if handed else f"kerastl fit {winner}"


def write_trials(path: Path, records: Sequence[TrialRecord], space: Space) -> None:
    """Write all trials as a table that every spreadsheet reads."""
    metrics = list(dict.fromkeys(name for record in records for name in record.metrics))
    rows = []
    for one in records:
        values = {hp.key: one.values.get(hp.key, "") for hp in space}
        rows.append(
            {
                "trial": one.trial_id,
                "status": one.status,
                "score": "" if one.score is None else one.score,
                **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
                "share_of_epochs": one.share,
                **{name: one.metrics.get(name, "") for name in metrics},
                "kept_phase": one.winner,
                "seconds": round(one.seconds, 2),
                "reason": one.reason,
            }
        )
    write_rows(path, rows)


def _searched_key(hp: Hyperparameter, records: Sequence[TrialRecord]) -> SearchedKey:
    ends = hp.corners()
    places = tuple(
        hp.encoded(record.values[hp.key]) if hp.key in record.values else None for record in records
    )
    labels = tuple(value_text(value) for value in hp.values)
    return SearchedKey(hp.key, labels, value_text(ends[0]), value_text(ends[-1]), places)


def _selection_bias(
    folder: SearchFolder, baseline: TrialRecord, records: Sequence[TrialRecord], groups: np.ndarray | None
) -> SelectionBias | None:
    losses = [read_losses(folder.of_trial(one.trial_id)) for one in whole_trials(records)]
    if baseline.score is None or not losses:
        return None
    return selection_bias_of(np.stack(losses), read_losses(folder.baseline), groups)


def append_log(path: Path, spec: SearchSpec, report: SearchReport, test_text: str) -> None:
    """Add a line to the log of all searches: when, which command, on which machine, and the result."""
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
        "as_it_was": report.baseline_text,
        "winner": round(report.best_score, 4),
        "expected_gain": round(report.bias.expected, 4) if report.bias else "",
        "test": test_text,
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


def write_summary(folder: SearchFolder, summary: TuneSummary) -> None:
    """Write the summary for programs: the mark that a search has ended."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(summary).items()}
    write_json_atomic(folder.result_json, plain)


def read_summary(folder: SearchFolder) -> TuneSummary:
    """The summary of a search that has ended.

    Raises:
        UserError: the file is damaged.
    """
    try:
        values = json.loads(folder.result_json.read_text(encoding="utf-8"))
        for name in ("folder", "winner", "page", "run", "model"):
            values[name] = Path(values[name]) if values[name] else None
        values["gain"] = SelectionBias.from_dict(values["gain"]) if values.get("gain") else None
        values["importance"] = Importance(**values["importance"]) if values.get("importance") else None
        return TuneSummary(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder.result_json, error) from error
