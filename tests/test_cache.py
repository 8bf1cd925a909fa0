"""The store through the command line: later runs compute nothing again, and nothing wrong is ever used."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Kerastl

from kerastl.store.block import BLOCK
from kerastl.store.store_folder import KEY_FILE

QUICK = ["--backbone", "mobilenet_025", "--image-size", "32", "--head-epochs", "8", "--finetune-epochs", "2"]
QUICK += ["--unfreeze-from", "conv_pw_11_relu", "--set", "augment.views=2", "--deterministic", "--no-export"]
FitRun = Callable[..., tuple[Path, str]]


def run_fit(data: Path, folder: Path, name: str, *words: str) -> tuple[Path, str]:
    """Fit with the store `folder/store`; the run's folder and what was said."""
    command = [sys.executable, "-m", "kerastl", "fit", "--data", str(data), *QUICK, *words]
    environment = {**os.environ, "KERASTL_CACHE_DIR": str(folder / "store")}
    done = subprocess.run(
        [*command, "--runs", str(folder / name)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = (folder / name).iterdir()
    return run, done.stderr


@pytest.fixture(scope="module")
def first(solid_colours: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A first run: its store, its folder and what was said. The store is to be copied, not used."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "store", *run_fit(solid_colours, folder, "first")


@pytest.fixture
def fit(
    solid_colours: Path, tmp_path: Path, first: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> FitRun:
    """`fit(name, *words)` fits again with a copy of the first run's store."""
    shutil.copytree(first[0], tmp_path / "store")
    monkeypatch.setenv("KERASTL_CACHE_DIR", str(tmp_path / "store"))
    return functools.partial(run_fit, solid_colours, tmp_path)


def outcome(run: Path) -> tuple[object, ...]:
    """Everything measured in a run, without times."""
    report = json.loads((run / "report.json").read_text())
    histories = []
    for name in ("head_phase.csv", "finetune_phase.csv"):
        with (run / name).open() as file:
            histories.append(
                [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
            )
    return report["metrics"], report["winner"], histories


def assert_alike(run: Path, exact: Path, tolerance: float) -> None:
    """The same winner after the same epochs, and nearly the same accuracy."""
    (metrics, winner, histories), (exact_metrics, exact_winner, exact_histories) = map(outcome, (run, exact))
    assert winner == exact_winner
    assert [len(rows) for rows in histories] == [len(rows) for rows in exact_histories]  # type: ignore[attr-defined]
    assert abs(metrics["accuracy"] - exact_metrics["accuracy"]) <= tolerance  # type: ignore[index]


@pytest.mark.slow
def test_a_second_run_with_another_head_computes_no_feature_again(
    fit: FitRun, first: tuple[Path, Path, str]
) -> None:
    _, first_run, said = first
    assert "no forward pass" not in said and "forward passes" in said
    other = ["--seed", "5", "--set", "head.pooling=avgmax", "--set", "head.hidden=[8]", "--head-epochs", "4"]
    other += ["--set", "head_phase.learning_rate=0.01"]
    second, said = fit("second", *other)
    assert "Features of train and validation: read from the store, no forward pass" in said
    assert "decode" not in (second / "log.txt").read_text().split("Features of")[0]
    assert outcome(second) != outcome(first_run)
    again, said = fit("again")
    assert said.count("no forward pass") == 2 and outcome(again) == outcome(first_run), (
        "test features are kept as well"
    )


@pytest.mark.slow
def test_a_live_run_gives_the_same_result(fit: FitRun, first: tuple[Path, Path, str], tmp_path: Path) -> None:
    exact = ["--set", "cache.dtype=float32"]
    kept, _ = fit("kept", *exact)
    before = sorted((tmp_path / "store").iterdir())
    live, said = fit("live", "--cache", "off", *exact)
    assert "computed live" in said and sorted((tmp_path / "store").iterdir()) == before
    assert outcome(live) == outcome(kept)
    sixteen, _ = fit("sixteen")
    assert_alike(sixteen, kept, 1 / 14)


@pytest.mark.weights
@pytest.mark.slow
def test_a_live_run_of_a_real_network_gives_the_same_result(
    weights_folder: Path, shared_cifar10: Path, tmp_path: Path
) -> None:
    words = ["--backbone", "resnet50", "--weights", str(weights_folder / "resnet50_notop.weights.h5")]
    words += ["--examples-per-class", "16", "--image-size", "64", "--unfreeze-from", "conv4_block6_out"]
    words += ["--head-epochs", "4", "--finetune-epochs", "2"]
    exact = [*words, "--set", "cache.dtype=float32"]
    kept, said = run_fit(shared_cifar10, tmp_path, "kept", *exact)
    assert "computed live" not in said
    live, said = run_fit(shared_cifar10, tmp_path, "live", "--cache", "off", *exact)
    assert "computed live" in said
    assert outcome(live) == outcome(kept)
    sixteen, _ = run_fit(shared_cifar10, tmp_path, "sixteen", *words)
    # Rounding moves a few of 1,000 images across a boundary; another seed moves accuracy by a point or two.
    assert_alike(sixteen, kept, 0.005)
    other, _ = run_fit(shared_cifar10, tmp_path, "other", "--seed", "1", *words)
    assert outcome(other)[2] != outcome(sixteen)[2], "a seed that changes nothing would prove nothing here"


@pytest.mark.slow
def test_damaged_blocks_are_computed_again_and_the_result_is_the_same(
    fit: FitRun, first: tuple[Path, Path, str], tmp_path: Path
) -> None:
    for rows in (tmp_path / "store").rglob(f"*{BLOCK}"):
        content = bytearray(rows.read_bytes())
        content[-1] ^= 1
        rows.write_bytes(content)
    second, said = fit("second")
    assert "no forward pass" not in said and outcome(second) == outcome(first[1])
    assert "is damaged and was removed" in said


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_built_is_taken_up(tmp_path: Path, kerastl: Kerastl) -> None:
    words = ["fit", "digits", "--no-finetune", "--no-export", "--head-epochs", "3", "--deterministic"]
    words += ["--set", "augment.views=6", "--image-size", "32"]
    environment = {**os.environ, "KERASTL_CACHE_DIR": str(tmp_path / "store")}
    child = subprocess.Popen(
        [sys.executable, "-m", "kerastl", *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob(f"joins-*/[!.]*{BLOCK}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    built = len(list((tmp_path / "store").glob(f"joins-*/[!.]*{BLOCK}")))
    assert 1 <= built < 30, "the control: it was killed while it computed"
    done = kerastl(*words, env=environment)
    assert done.returncode == 0, done.stderr
    whole = kerastl(*words, env={**environment, "KERASTL_CACHE_DIR": str(tmp_path / "other")}, cwd=tmp_path)
    passes = [
        int(line.split(": ")[1].split()[0].replace(",", ""))
        for out in (done, whole)
        for line in out.stderr.splitlines()
        if "Features of train and validation" in line
    ]
    assert passes[0] <= passes[1] - 200 * built, passes
    runs = sorted(path for path in (tmp_path / "runs").iterdir() if (path / "report.json").exists())
    reports = [json.loads((run / "report.json").read_text())["metrics"] for run in runs]
    assert len(reports) == 2 and reports[0] == reports[1]


def test_damaged_descriptions_are_listed_and_cleared(tmp_path: Path, kerastl: Kerastl) -> None:
    damaged = [
        '{"created": "yesterday"}',
        '{"facts": 7, "about": []}',
        "[1]",
        "{",
        '{"about": {"data": [1]}}',
        "null",
    ]
    for number, text in enumerate(damaged):
        folder = tmp_path / "store" / f"pooled-{number:024x}"
        folder.mkdir(parents=True)
        (folder / f"a{BLOCK}").write_bytes(b"rows")
        (folder / KEY_FILE).write_text(text)
    words = ("--directory", str(tmp_path / "store"))
    listed = kerastl("cache", "list", *words)
    assert listed.returncode == 0 and f"{len(damaged)} arrays" in listed.stdout, listed.stderr
    assert f"removed {len(damaged)} arrays" in kerastl("cache", "clear", *words).stdout


def test_cache_list_prune_and_clear(
    fit: FitRun, tmp_path: Path, kerastl: Kerastl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    listed = kerastl("cache", "list")
    assert "mobilenet_025 conv_pw_11_relu 32 px, " in listed.stdout, listed.stdout
    units = json.loads(kerastl("cache", "list", "--json").stdout)
    assert {unit["kind"] for unit in units} == {
        "contents",
        "inputs_pixels",
        "joins",
        "activation",
        "head_input",
    }
    total = sum(unit["bytes"] for unit in units)
    assert "removed 0 arrays" in kerastl("cache", "prune", "--older-than-days", "1").stdout
    pruned = json.loads(kerastl("cache", "prune", "--max-gigabytes", str((total - 1) / 1e9), "--json").stdout)
    assert sum(unit["bytes"] for unit in pruned["removed"]) >= 1 and pruned["not_removed"] == []
    left = json.loads(kerastl("cache", "list", "--json").stdout)
    assert 0 < len(left) < len(units) and sum(unit["bytes"] for unit in left) <= total - 1
    removed = json.loads(kerastl("cache", "clear", "--json").stdout)["removed"]
    assert [unit["name"] for unit in removed] == [unit["name"] for unit in left] != []
    assert "removed 0 arrays" in kerastl("cache", "clear").stdout
    assert json.loads(kerastl("cache", "list", "--json").stdout) == []
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]
