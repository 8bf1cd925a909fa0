"""A run of an earlier version stays usable: old_run/README.md says how it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from net.inputs import write_pictures
from net.worker import SharedResults, Worker

OLD = Path(__file__).with_name("old_run")
ANSWERS = json.loads((OLD / "answers.json").read_text())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run in a folder of its own, so that nothing is written beside the committed one."""
    return Path(shutil.copytree(OLD, tmp_path / "runs" / "20261127-113239-old"))


def check(predictions: list[dict]) -> None:
    for result, kept in zip(predictions, ANSWERS["predict"], strict=True):
        assert Path(result["path"]).name == kept["image"] and result["label"] == kept["label"]
        assert dict(result["top"]) == pytest.approx(dict(kept["top"]), abs=1e-4)


def test_an_old_run_answers_as_it_did(run: Path, worker: Worker, tmp_path: Path) -> None:
    files = [path for path, _ in write_pictures(tmp_path / "pictures", 1700, 12)]
    check(worker.run("predict", run, *files, "--top", "10", "--json", folder=tmp_path).json)
    assert len({each["label"] for each in ANSWERS["predict"]}) > 4, "the control: answers differ"


def test_an_old_run_is_evaluated_as_it_was(run: Path, worker: Worker, tmp_path: Path) -> None:
    result = worker.run("evaluate", run, "--json", folder=tmp_path).json
    assert result["count"] == ANSWERS["evaluate"]["count"]
    assert result["log_loss"] == pytest.approx(ANSWERS["evaluate"]["log_loss"], rel=1e-4)
    assert result["accuracy"] == pytest.approx(ANSWERS["evaluate"]["accuracy"], abs=0.003), "one image of 364"


@pytest.mark.slow
def test_an_old_run_is_exported_and_the_export_answers_as_it_did(
    run: Path, worker: Worker, results: SharedResults, tmp_path: Path
) -> None:
    exported = worker.run("export", run, "--json", folder=tmp_path).json
    assert exported["name"] == "old" and exported["version"] == 1
    files = [path for path, _ in write_pictures(tmp_path / "pictures", 1700, 12)]
    check(
        worker.run(
            "predict", tmp_path / exported["path"], *files, "--top", "10", "--json", folder=tmp_path
        ).json
    )
    assert [each["name"] for each in worker.run("models", "list", "--json", folder=tmp_path).json] == ["old"]


def test_another_model_is_no_old_run(run: Path, worker: Worker, tmp_path: Path) -> None:
    (run / "model.keras").write_bytes((run / "model.keras").read_bytes()[:1000])
    files = [path for path, _ in write_pictures(tmp_path / "pictures", 1700, 1)]
    assert worker.run("predict", run, *files, folder=tmp_path).code in (1, 2), "the control: the file is read"
