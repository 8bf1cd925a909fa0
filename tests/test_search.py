"""The whole search as a command."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Kerastl
from searches import command

from kerastl.recipe import load_recipe


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_tests_its_winner_once(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl, here: Kerastl
) -> None:
    words = command(solid_colours, "--trials", "3", "--set", f"cache.directory={tmp_path / 'store'}")
    first = tmp_path / "tuning" / "colours" / "store" / "trial_1" / "result.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "kerastl", *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )  # fmt: skip
    try:
        while not first.is_file():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    before = first.stat().st_mtime_ns
    done = kerastl(*words)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == before
    folder = tmp_path / "tuning" / "colours"
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    best = min(float(row["score"]) for row in rows)
    baseline = json.loads((folder / "baseline" / "result.json").read_text())["score"]
    result = json.loads((folder / "result.json").read_text())
    kept = best if result["winning_trial"] else baseline
    assert result["score"] == kept and result["baseline"] == baseline
    assert (result["winning_trial"] != "") == (best < baseline and result["gain"]["expected"] > 0)
    assert (
        result["gain"]["apparent"] == pytest.approx(max(baseline - best, 0), abs=1e-6)
        and "importance" in result
    )
    assert (
        bool(result["values"]) == bool(result["winning_trial"])
        and result["seconds"] > result["trial_seconds"] > 0
    )
    winner = load_recipe(folder / "winner.toml")
    run = tmp_path / result["run"]
    trained = load_recipe(run / "recipe.toml")
    assert winner.head.features == "auto" and "auto" not in (trained.head.features, trained.head.pooling)
    # What the winner leaves open is chosen on the same features as in the trials.
    read = {"features": trained.head.features, "pooling": trained.head.pooling}
    assert trained == dataclasses.replace(winner, head=dataclasses.replace(winner.head, **read))
    page = (folder / "search.md").read_text()
    assert "met the test split once" in page and (folder / "keys.png").stat().st_size > 1000
    assert 'name = "colours"' in done.stdout and "in all" in done.stderr
    # asked once more it answers, and trains and tests nothing
    again = here(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 1
    told = here(*words, "--json")
    assert json.loads(told.stdout) == json.loads((folder / "result.json").read_text())
    other = here(*words, "--tuner", "random", "--directory", "tuning/colours")
    assert other.returncode == 2 and "holds another search" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "my flowers"], "name = 'my flowers': expected"),
        (["--budget", "soon"], "Expected one such as 90s, 30m or 1.5h"),
        (["--tuner", "bayes"], "bayesian"),
        (["--space", "defualt"], "Did you mean 'default'?"),
        (["--folds", "3", "--augment", "strong"], "the augmentation mixes images"),
        (["--folds", "3", "--space", "augment"], "the augmentation mixes images (augment.level = strong)"),
        (["--folds", "1"], "--folds"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, here: Kerastl) -> None:
    done = here("tune", "digits", *words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
