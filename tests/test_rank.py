"""Ranking backbones: better features come first, what is computed is kept, what cannot be had is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Kerastl

from kerastl.backbones import get_backbone
from kerastl.cli.rank import overview
from kerastl.errors import DataError, UserError, WeightsError
from kerastl.evaluation.label_probe import label_evidence, label_folds, mean_average_precision
from kerastl.evaluation.transferability import log_evidence
from kerastl.jobs.fit import fit
from kerastl.jobs.lr_range import lr_range
from kerastl.jobs.rank import rank
from kerastl.model.weights import weights_at_hand
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.report import plots_choices
from kerastl.report.ranking import LeftOut, RankedBackbone, Ranking, write_ranking


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    warn = note


def recipe_of(source: Path, **flags: Any) -> Any:
    flags = {key.replace("__", "."): value for key, value in flags.items()}
    return load_recipe(None, [], {"data.source": str(source), "backbone.image_size": 32, **flags})


def manifest(folder: Path, images: list[Path], labels: list[str], groups: list[str] | None = None) -> Path:
    rows = [f"{image},{label}" for image, label in zip(images, labels, strict=True)]
    if groups:
        rows = [f"{row},{group}" for row, group in zip(rows, groups, strict=True)]
    path = folder / "images.csv"
    path.write_text("\n".join([f"path,label{',group' if groups else ''}", *rows]) + "\n")
    return path


def test_honest_labels_rank_above_shuffled_ones(solid_colours: Path, tmp_path: Path) -> None:
    images = sorted(solid_colours.rglob("*.png"))
    names = [image.parent.name for image in images]
    random.Random(0).shuffle(names)
    shuffled = manifest(tmp_path, images, names)
    rows = [
        rank(recipe_of(source), backbones=["mobilenet_025"], runs_dir=tmp_path / "runs").rows[0]
        for source in (solid_colours, shuffled)
    ]
    assert rows[0].accuracy > 0.95 and rows[1].accuracy < 0.65
    assert rows[0].log_evidence > rows[1].log_evidence
    assert rows[0].features == 256 and rows[0].weights == "bundled" and rows[0].examples_per_second > 0


def test_a_later_fit_reads_the_features_that_the_ranking_made(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store of its own: what another test kept of these images would change what is said.
    monkeypatch.setenv("KERASTL_CACHE_DIR", str(tmp_path / "cache"))
    first, second, later = Notes(), Notes(), Notes()
    recipe = recipe_of(solid_colours, backbone__weights="none")
    for notes in (first, second):
        rank(recipe, backbones=["mobilenet_025"], runs_dir=tmp_path / "runs", progress=notes)
    flags = {"backbone__name": "mobilenet_025", "finetune_phase__unfreeze_from": "backbone"}
    flags |= {"augment__level": "none", "head_phase__epochs": 1, "backbone__weights": "none"}
    fitted = recipe_of(solid_colours, **flags)
    summary = fit(fitted, runs_dir=tmp_path / "runs", export_model=False, progress=later)
    features = "Features of train and validation: "
    computed = [line for line in first.lines if line.startswith(features)]
    assert computed and "no forward pass" not in computed[0], "the control: the first time they are computed"
    assert f"{features}read from the store, no forward pass" in second.lines
    passes = summary.report.counts["test"]  # a ranking does not look at these
    assert f"Features of train, validation and test: {passes} forward passes" in later.lines


def test_images_of_the_test_split_are_not_even_opened(solid_colours: Path, tmp_path: Path) -> None:
    source = tmp_path / "images"
    for colour in sorted(solid_colours.iterdir()):
        shutil.copytree(colour, source / "train" / colour.name)
        (source / "test" / colour.name).mkdir(parents=True)
        (source / "test" / colour.name / "broken.png").write_bytes(b"\x89PNG no more")
    recipe = recipe_of(source, backbone__name="mobilenet_025", head_phase__epochs=2)
    assert rank(recipe, backbones=["mobilenet_025"], runs_dir=tmp_path / "runs").rows
    assert lr_range(recipe, steps=4, runs_dir=tmp_path / "runs").result.rates
    with pytest.raises(DataError, match="None of the 3 test images can be read"):  # the control: a fit tests
        fit(recipe, runs_dir=tmp_path / "runs", export_model=False)


def test_what_cannot_be_had_is_left_out_with_the_reason(solid_colours: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    recipe = recipe_of(solid_colours, backbone__weights_dir=str(tmp_path / "empty"))
    names = ["vgg16", "inception_v3", "mobilenet_025"]
    ranking = rank(recipe, backbones=names, runs_dir=tmp_path / "runs")
    assert [row.name for row in ranking.rows] == ["mobilenet_025"]
    reasons = {each.name: each.reason for each in ranking.left_out}
    assert "No ImageNet weights" in reasons["vgg16"] and "at least 75 pixels" in reasons["inception_v3"]
    assert [row.name for row in rank(recipe, runs_dir=tmp_path / "runs").rows] == ["mobilenet_025"]
    with pytest.raises(WeightsError, match=r"No backbone is left to rank:\n  - vgg16: No ImageNet weights"):
        rank(recipe, backbones=["vgg16"], runs_dir=tmp_path / "runs")


def test_all_means_those_whose_weights_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, bundled = get_backbone("vgg16"), get_backbone("mobilenet_025")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("KERASTL_WEIGHTS_DIR", raising=False)
    assert weights_at_hand(bundled, 64, "pretrained") and weights_at_hand(spec, 224, "none")
    assert not weights_at_hand(spec, 224, "pretrained") and not weights_at_hand(bundled, 64, "imagenet")
    (tmp_path / "keras" / "models").mkdir(parents=True)
    (tmp_path / "keras" / "models" / spec.published[0].file).touch()
    assert weights_at_hand(spec, 224, "imagenet")
    assert not weights_at_hand(spec, 224, "imagenet", str(tmp_path))
    (tmp_path / "vgg16_notop.weights.h5").touch()
    assert weights_at_hand(spec, 224, "imagenet", str(tmp_path))
    assert not weights_at_hand(spec, 224, str(tmp_path / "nothing.h5"))


def test_images_of_one_group_are_not_told_apart_from_themselves(solid_colours: Path, tmp_path: Path) -> None:
    """Labels that only the group knows: with groups kept together nothing is left to learn."""
    images = sorted((solid_colours / "red").iterdir())
    copies, labels, groups = [], [], []
    for number, image in enumerate(images):
        for copy in range(4):
            target = tmp_path / f"{number}-{copy}.png"
            target.write_bytes(image.read_bytes() + bytes([copy]))  # the same pixels, other bytes
            copies.append(target)
            labels.append("ab"[number % 2])
            groups.append(f"g{number}")
    scores = []
    for known in (None, groups):
        source = manifest(tmp_path, copies, labels, known)
        ranking = rank(recipe_of(source), backbones=["mobilenet_025"], runs_dir=tmp_path / "runs")
        scores.append(ranking.rows[0].accuracy)
    assert scores[0] > 0.85, "the control: copies in other folds give the label away"
    assert scores[1] < 0.75


def test_the_command_sorts_and_leaves_numbers_and_a_plot(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    words = ["rank", "--data", solid_colours, "--image-size", "32", "--weights", "none", "--json"]
    done = kerastl(*words, "--backbones", "mobilenet_025,mobilenet_v3_small")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    accuracies = [row["accuracy"] for row in answer["rows"]]
    assert len(accuracies) == 2 and accuracies == sorted(accuracies, reverse=True)
    assert answer["left_out"] == []
    run = tmp_path / answer["run"]
    assert {path.name for path in run.iterdir()} == {
        "environment.json", "log.txt", "ranking.json", "ranking.png"
    }  # fmt: skip
    assert (run / "ranking.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "ranking.json").read_text())["rows"] == answer["rows"]


def test_the_axes_of_the_plot_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots_choices, "_save", lambda figure, path: drawn.append(figure))
    row = RankedBackbone("small", 0.9, 0.01, 5, -1.0, 1.0, 1000, 32, 64, 50.0, "none")
    write_ranking(Ranking(tmp_path, 40, (row,), (), "mean average precision", "image"))
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "images a second of the forward pass"
    assert axis.get_ylabel() == "mean average precision of the linear probe"


@pytest.mark.slow
def test_images_with_several_labels_are_ranked_by_mean_average_precision(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    images = sorted(solid_colours.rglob("*.png"))
    labels = [{"blue": "cold", "green": "cold|plant", "red": "warm"}[image.parent.name] for image in images]
    shuffled = random.Random(0).sample(labels, len(labels))
    rows = []
    for number, named in enumerate((labels, shuffled)):
        (tmp_path / str(number)).mkdir()
        source = manifest(tmp_path / str(number), images, named)
        done = kerastl(
            "rank", "--data", source, "--set", "data.task=multi_label", "--image-size", "32",
            "--backbones", "mobilenet_025", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["metric"] == "mean average precision"
        rows.append(answer["rows"][0])
    chance = (2 / 3 + 1 / 3 + 1 / 3) / 3
    assert rows[0]["accuracy"] > 0.95 and rows[1]["accuracy"] < chance + 0.3
    assert rows[0]["log_evidence"] > rows[1]["log_evidence"]
    row = RankedBackbone("vgg16", 0.8, 0.02, 5, 0.2, 0.01, 10, 224, 512, 33.3, "imagenet")
    ranking = Ranking(tmp_path, 100, (row,), (), answer["metric"])
    assert overview(ranking).split()[:2] == ["backbone", "mAP"]


def test_mean_average_precision_is_what_a_hand_counts() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.9, 0.0], [0.7, 0.8, 0.0], [0.1, 0.2, 1.0]])
    # first label: found at ranks 1 and 3, (1/1 + 2/3) / 2; second: 1; the third occurs nowhere
    assert mean_average_precision(labels, scores) == pytest.approx((5 / 6 + 1) / 2)
    assert mean_average_precision(labels, -scores) < 0.6


def test_evidence_of_labels_is_that_of_classes_where_each_image_has_one() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 4, 200)
    features = generator.normal(size=(200, 10)) + 2 * np.eye(4, 10)[codes]
    hot = (codes[:, None] == np.arange(4)).astype(np.int64)
    assert label_evidence(features, hot) == pytest.approx(log_evidence(features, codes), rel=1e-9)
    assert label_evidence(features, generator.permutation(hot)) < label_evidence(features, hot)


def test_folds_of_several_labels_keep_groups_whole() -> None:
    groups = np.array([f"g{number // 3}" if number < 30 else "" for number in range(60)], object)
    folds = label_folds(60, groups)
    assert len(folds) == 5 and sorted(np.concatenate([held for _, held in folds])) == list(range(60))
    for train, held in folds:
        assert not (set(groups[train]) & set(groups[held])) - {""}


def test_the_table_names_every_backbone_and_each_reason_once(tmp_path: Path) -> None:
    rows = [
        RankedBackbone(name, accuracy, 0.02, 5, 0.2, 0.01, 23_587_712, 224, 2048, 33.3, "imagenet")
        for name, accuracy in (("resnet50", 0.8531), ("vgg16", 0.8))
    ]
    left_out = [LeftOut(name, "its weights are not on this machine") for name in ("xception", "vgg19")]
    lines = overview(Ranking(tmp_path, 100, tuple(rows), tuple(left_out), noun="image")).splitlines()
    assert lines[0].split()[:5] == ["backbone", "accuracy", "±", "LogME", "images/s"]
    assert lines[1].split() == ["resnet50", "0.853", "±", "0.020", "0.200", "33", "23.6", "M", "224", "2,048"]
    assert "left out xception, vgg19: its weights are not on this machine" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "resnet5O"], "Did you mean 'resnet50'?"),
        (["--backbones", ","], "expected at least one name"),
        (["--backbone", "vgg16"], "expected --backbones"),
        (["--weights", "one.weights.h5", "--backbones", "vgg16,resnet50"], "the file of one network"),
    ],
)
def test_bad_input_gets_one_clear_message(
    words: list[str], message: str, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    (tmp_path / "one.weights.h5").touch()
    done = kerastl("rank", "--data", solid_colours, *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()


def test_an_unknown_backbone_is_a_slip_and_not_left_out(solid_colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'mobilenet_v2'"):
        rank(recipe_of(solid_colours), backbones=["mobilenet_025", "mobilenetv2"], runs_dir=tmp_path)
