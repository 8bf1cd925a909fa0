"""What leaves the house: a model that answers to raw bytes, anywhere, as `kerastl predict` does here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from net.conftest import Fitted, Pictures
from net.inputs import MARKS
from net.jobs import predictions
from net.worker import Worker

Answers = dict[str, dict[str, np.ndarray]]


@pytest.mark.parametrize("asked", ["run", "exported"])
def test_one_label_is_answered_alike_by_predict_and_where_kerastl_is_not(
    asked: str, one_label: Fitted, answers: Answers, pictures: Pictures, worker: Worker
) -> None:
    words = ("predict", getattr(one_label, asked), *pictures.files, "--top", "10", "--json")
    result, served = worker.run(*words, folder=one_label.folder).json, answers["one_label"]
    assert [each["label"] for each in result] == list(served["label"])
    assert [Path(each["path"]).name for each in result] == [Path(path).name for path in pictures.files]
    for each, probabilities in zip(result, served["probabilities"], strict=True):
        top = dict(each["top"])
        np.testing.assert_allclose([top[str(digit)] for digit in range(10)], probabilities, atol=1e-5)
        assert each["probability"] == pytest.approx(max(probabilities), abs=1e-5) and each["error"] == ""
    assert len(set(served["label"])) > 3, "the control: it does not answer the same to all"


def test_several_labels_are_answered_alike_by_predict_and_where_kerastl_is_not(
    many_labels: Fitted, answers: Answers, pictures: Pictures, worker: Worker
) -> None:
    result, served = worker.call(predictions, many_labels.run, pictures.files, 3), answers["many_labels"]
    for each, row, labels in zip(result, served["probabilities"], served["labels"], strict=True):
        np.testing.assert_allclose([dict(each["top"])[mark] for mark in sorted(MARKS)], row, atol=1e-5)
        above = [mark for mark, probability in zip(sorted(MARKS), row, strict=True) if probability > 0.5]
        assert list(each["labels"]) == above == (labels.split("\n") if labels else [])
    assert len(set(served["labels"])) > 2 and (served["probabilities"].sum(axis=1) > 1.05).any()


def test_an_exported_model_says_what_it_is(one_label: Fitted, many_labels: Fitted) -> None:
    for fit, names in ((one_label, [str(digit) for digit in range(10)]), (many_labels, sorted(MARKS))):
        assert (fit.exported / "assets" / "labels.txt").read_text().split() == names
        card = (fit.exported / "assets.extra" / "model_card.md").read_text()
        facts = json.loads((fit.exported / "assets.extra" / "model.json").read_text())
        assert "mobilenet_025" in card and facts["classes"] == names and facts["image_size"] == 32
        assert f"{facts['test']['count']}" in card
    assert (one_label.exported / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert not (many_labels.exported / "assets.extra" / "tf_serving_warmup_requests").exists()


def test_python_fits_without_an_export_and_exports_later(many_labels: Fitted) -> None:
    facts = many_labels.facts or {}
    assert facts["before"] == (False, None), "nothing was exported before it was asked for"
    assert facts["version"] == 1 and facts["exported"].parent.name == "marks"
    report = json.loads((many_labels.run / "report.json").read_text())
    assert facts["log_loss"] == report["metrics"]["log_loss"] and report["metrics"]["hamming_loss"] > 0
    assert {"decode train", "head phase", "fine-tune phase"} <= set(facts["tracked"])


def test_exported_versions_are_listed_rolled_back_and_removed(
    one_label: Fitted, worker: Worker, tmp_path: Path
) -> None:
    for version in "123":
        shutil.copytree(one_label.exported, tmp_path / "saved_models" / "digits" / version)

    def models(*words: str) -> Any:
        return worker.run("models", *words, "--json", folder=tmp_path).json

    def listed() -> dict[int, bool]:
        return {each["version"]: each["served"] for each in models("list", "digits")}

    assert listed() == {1: False, 2: False, 3: True}
    models("rollback", "digits", "--to", "1")
    assert listed() == {1: False, 2: False, 3: False, 4: True}
    assert [each["rollback_of"] for each in models("list") if each["version"] == 4] == [1]
    models("prune", "digits", "--keep", "1")
    assert listed() == {1: False, 4: True}, "what is served stays, and what it is a roll back of"
    again = worker.run("models", "rollback", "nothing", folder=tmp_path)
    assert again.code == 2 and "nothing" in again.err
    assert "digits" in worker.run("models", "list", folder=tmp_path).out
