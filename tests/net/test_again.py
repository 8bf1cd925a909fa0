"""What was done once is not done again, and what was measured once is measured alike."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from net.conftest import THAWED, Fitted, Pictures
from net.golden import measured
from net.jobs import figures
from net.stopped import passes
from net.worker import SharedResults, Worker


@pytest.fixture(scope="session")
def other_head(
    results: SharedResults, worker: Worker, recipe: list[str], one_label: Fitted, store: Path
) -> Fitted:
    """The same fit with another head."""

    def make(folder: Path) -> Fitted:
        own = folder / "store"
        # Another of pytest's processes may write to the shared one meanwhile; what it has half written is not needed here.
        with contextlib.suppress(shutil.Error):
            shutil.copytree(store, own)
        before = kept(worker, own)
        words = ["fit", *recipe, *THAWED, "--set", "head.hidden=[16]", "--no-export", "--name", "other"]
        answer = worker.run(*words, "--set", f"cache.directory={own}", folder=folder)
        (run,) = (folder / "runs").iterdir()
        return Fitted(folder, run, run, answer, {"before": before, "after": kept(worker, own)})

    return results.made("other_head", make)


def kept(worker: Worker, store: Path) -> int:
    """Bytes in the store."""
    listed = worker.run("cache", "list", "--directory", store, "--json", folder=store.parent).json
    return sum(unit["bytes"] for unit in listed)


def test_a_second_fit_with_another_head_computes_no_feature_again(
    one_label: Fitted, other_head: Fitted
) -> None:
    assert one_label.answer is not None and other_head.answer is not None and other_head.facts is not None
    assert other_head.answer.code == 0, other_head.answer.err
    first, second = passes(one_label.answer.err), passes(other_head.answer.err)
    assert sum(first) >= 3 * 160 and len(second) == len(first) and sum(second) == 0
    assert other_head.facts["before"] == other_head.facts["after"] > 0
    assert measured(other_head.run) != measured(one_label.run), "the control: the heads differ"


def test_what_is_printed_for_people_holds_the_measured_figures(other_head: Fitted) -> None:
    report = json.loads((other_head.run / "report.json").read_text())
    assert other_head.answer is not None
    for value in (report["metrics"]["accuracy"], report["metrics"]["log_loss"]):
        assert (
            f"{value:.3f}" in other_head.answer.out
            and f"{value:.3f}" in (other_head.run / "report.md").read_text()
        )
    assert max(map(len, other_head.answer.out.splitlines()[:-2])) <= 80


def test_evaluate_repeats_the_test_figures_of_the_report(one_label: Fitted, worker: Worker) -> None:
    reported = json.loads((one_label.run / "report.json").read_text())["metrics"]
    result = worker.run("evaluate", one_label.run, "--json", folder=one_label.folder).json
    assert all(result[key] == reported[key] for key in ("count", "confusion", "accuracy"))
    # the report's come from activations that were kept in sixteen bits
    assert result["log_loss"] == pytest.approx(reported["log_loss"], rel=1e-3)


def test_evaluate_from_python_repeats_them_too(many_labels: Fitted, worker: Worker) -> None:
    reported = json.loads((many_labels.run / "report.json").read_text())["metrics"]
    result = worker.call(figures, many_labels.run)
    assert (result["count"], result["accuracy"]) == (reported["count"], reported["accuracy"])
    assert result["log_loss"] == pytest.approx(reported["log_loss"], rel=1e-3)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_answered(
    one_label: Fitted, pictures: Pictures, worker: Worker, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    answer = worker.run(
        "predict", one_label.run, pictures.files[0], tmp_path / "broken.png", "--json", folder=tmp_path
    )
    good, bad = json.loads(answer.out)
    assert answer.code == 1 and good["label"] and not good["error"] and bad["error"] and not bad["label"]
    csv = worker.run("predict", one_label.run, *pictures.files[:2], "--csv", folder=tmp_path)
    assert csv.code == 0 and len(csv.out.splitlines()) == 3
    people = worker.run("predict", one_label.run, *pictures.files[:2], "--top", "2", folder=tmp_path)
    assert people.code == 0 and Path(pictures.files[0]).name in people.out


JSON = [
    ("backbones", "--json"),
    ("backbones", "mobilenet_025", "--json"),
    ("datasets", "--json"),
    ("cache", "list", "--directory", "STORE", "--json"),
    ("cache", "prune", "--directory", "STORE", "--older-than-days", "1", "--json"),
    ("check", "--json"),
    ("models", "list", "--json"),
    ("models", "config", "--json"),
    ("plan", "RECIPE", "--json"),
    ("rank", "RECIPE", "--backbones", "mobilenet_025", "--json"),
    ("lr-range", "RECIPE", "--steps", "20", "--json"),
]


@pytest.mark.parametrize("words", JSON, ids=lambda words: " ".join(words[:-1]))
def test_json_parses(
    words: tuple[str, ...], recipe: list[str], one_label: Fitted, worker: Worker, store: Path
) -> None:
    stands_for = {"RECIPE": recipe, "STORE": [str(store)]}
    flat = [each for word in words for each in stands_for.get(word, [word])]
    answer = worker.run(*flat, folder=one_label.folder)
    assert answer.json and isinstance(answer.json, dict | list)
    assert "warning" not in answer.out


@pytest.mark.slow
def test_the_formats_of_a_model_are_written_and_compared(
    one_label: Fitted, worker: Worker, tmp_path: Path
) -> None:
    words = ("export", one_label.run, "--format", "litert", "--json")
    written = worker.run(*words, folder=tmp_path).json
    assert (tmp_path / written["path"]).exists() and written["format"] == "litert"
    words = ("benchmark", one_label.run, "--format", "litert", "--json")
    result = worker.run(*words, folder=tmp_path).json
    assert "litert" in json.dumps(result)
