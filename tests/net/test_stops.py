"""What is stopped at any moment leaves nothing wrong behind: the same command goes on, or what was learnt is kept."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from net.conftest import Fitted, Pictures
from net.golden import measured
from net.stopped import FEATURES_BEGIN, TRIAL, Stopped, changed, kill_search, passes
from net.worker import Answer, SharedResults, Worker

SPACE = (
    "[head]\ndropout = { ordered = [0.0, 0.3] }\n[head_phase]\nlearning_rate = { ordered = [0.003, 0.03] }\n"
)


StoppedFits = dict[str, Callable[[Path], Stopped]]


def test_a_fit_that_is_killed_while_it_computes_features_goes_on_to_the_same_bits(
    results: SharedResults, worker: Worker, stopped_fits: StoppedFits, one_label: Fitted
) -> None:
    stopped = results.made("killed_fit", stopped_fits["killed_fit"])
    (run,) = (stopped.folder / "runs").iterdir()
    assert stopped.code == -signal.SIGKILL and FEATURES_BEGIN.search(stopped.err)
    assert passes(stopped.err) == [], "the control: it was killed before it had all features"
    assert not (run / "model.keras").exists() and not (run / "report.json").exists()
    again = worker.run(*stopped.words, "--runs", "again", "--json", folder=stopped.folder)
    assert measured(stopped.folder / again.json["run"]) == measured(one_label.run)
    assert one_label.answer is not None
    whole, went_on = passes(one_label.answer.err), passes(again.err)
    assert len(went_on) == len(whole) and sum(went_on) <= sum(whole)


def trials_of(folder: Path) -> list[dict[str, str]]:
    """The trials of a search, without what they took in time."""
    with (folder / "tuning" / "search" / "trials.csv").open() as file:
        return [
            {key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)
        ]


def outcome(folder: Path) -> dict[str, Any]:
    """What a search found, without times and the names of folders."""
    result = json.loads((folder / "tuning" / "search" / "result.json").read_text())
    return {key: result[key] for key in ("score", "baseline", "winning_trial", "values", "gain")}


@pytest.fixture(scope="session")
def search(recipe: list[str], results: SharedResults) -> list[str]:
    """The words of a search of four trials."""

    def make(folder: Path) -> Path:
        (folder / "space.toml").write_text(SPACE)
        return folder / "space.toml"

    words = [
        "tune",
        *recipe,
        "--no-finetune",
        "--space",
        str(results.made("space", make)),
        "--tuner",
        "grid",
    ]
    return [*words, "--name", "search", "--no-export"]


@pytest.fixture(scope="session")
def whole_search(
    results: SharedResults, worker: Worker, search: list[str], one_label: Fitted
) -> tuple[Path, Answer]:
    """A search that nothing stopped; beside it, the one that is killed."""
    results.begin("killed_search", partial(kill_search, search))
    return results.made("search", lambda folder: (folder, worker.run(*search, "--json", folder=folder)))


def test_a_search_that_is_killed_goes_on_and_ends_as_one_that_was_not(
    results: SharedResults, worker: Worker, search: list[str], whole_search: tuple[Path, Answer]
) -> None:
    stopped = results.made("killed_search", partial(kill_search, search))
    answer = worker.run(*search, "--json", folder=stopped.folder)
    whole, told = whole_search
    ended = len(TRIAL.findall(stopped.err))
    assert stopped.code == -signal.SIGKILL and 0 < ended < len(trials_of(whole))
    assert trials_of(stopped.folder) == trials_of(whole) and outcome(stopped.folder) == outcome(whole)
    assert answer.json["score"] == told.json["score"] and len(trials_of(whole)) >= 4
    assert len({row["score"] for row in trials_of(whole)}) > 1, "the control: trials differ"


def test_a_search_that_has_ended_is_told_again_and_nothing_is_trained(
    worker: Worker, search: list[str], whole_search: tuple[Path, Answer]
) -> None:
    folder, told = whole_search
    before = changed(folder)
    again = worker.run(*search, "--json", folder=folder)
    assert again.json == told.json and changed(folder) == before
    assert (folder / told.json["run"] / "report.json").is_file(), "the winner was trained and tested"


def test_a_fit_that_is_asked_to_end_keeps_the_best_model_so_far(
    results: SharedResults, worker: Worker, stopped_fits: StoppedFits, pictures: Pictures
) -> None:
    stopped = results.made("ended_fit", stopped_fits["ended_fit"])
    assert stopped.code == 128 + signal.SIGTERM and stopped.out == "" and "Traceback" not in stopped.err
    (run,) = (stopped.folder / "runs").iterdir()
    assert "kerastl evaluate" in stopped.err and "kerastl export" in stopped.err, "it says how to go on"
    assert not (run / "report.json").exists() and not (stopped.folder / "saved_models").exists()
    told = worker.run("evaluate", run, "--json", folder=stopped.folder).json
    assert told["accuracy"] > 0.2, "it learnt more than the tenth that is right by chance"
    assert len(worker.run("predict", run, pictures.folder, "--json", folder=stopped.folder).json) == 40
