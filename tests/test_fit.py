"""The whole job through the command line, on images that anyone can learn, and on ones that nobody can."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Kerastl, heed_ctrl_c, small_backbone_file

from kerastl.data.examples import Split

QUICK = [
    "--image-size",
    "32",
    "--head-epochs",
    "20",
    "--finetune-epochs",
    "3",
    "--unfreeze-from",
    "conv_pw_11_relu",
]
QUICK += [
    "--backbone",
    "mobilenet_025",
    "--set",
    "augment.views=2",
    "--set",
    "finetune_phase.learning_rate=1e-4",
]


@pytest.fixture(scope="module")
def fitted(solid_colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `kerastl fit` has run once."""
    folder = tmp_path_factory.mktemp("fitted")
    command = [sys.executable, "-m", "kerastl", "fit", "--data", str(solid_colours), "--name", "colours"]
    done = subprocess.run(
        [*command, *QUICK, "--deterministic"], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


def run_of(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def report_of(folder: Path) -> dict:
    return json.loads((run_of(folder) / "report.json").read_text())


def test_solid_colours_are_learnt_tested_and_exported(fitted: Path) -> None:
    report = report_of(fitted)
    assert report["metrics"]["accuracy"] >= 0.9
    assert sum(report["counts"].values()) == 72 and report["metrics"]["count"] == report["counts"]["test"]
    assert [phase["phase"] for phase in report["phases"]] == ["head_phase", "finetune_phase"]
    assert (fitted / "saved_models" / "colours" / "1" / "saved_model.pb").is_file()
    assert "accuracy" in (fitted / "stdout.txt").read_text()
    assert "Traceback" not in (fitted / "stderr.txt").read_text()


def test_the_run_folder_holds_all_that_is_needed(fitted: Path) -> None:
    run = run_of(fitted)
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "recipe.toml", "environment.json", "data.json", "splits.csv", "plan.txt", "head_phase.csv",
        "finetune_phase.csv", "model.keras", "report.json", "report.md", "curves.png", "confusion.png", "predictions.csv",
        "augmentation.png", "log.txt", "calibration.json",
    }  # fmt: skip
    assert "scratch" not in names
    with (run / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72 and {row["split"] for row in rows} == {"train", "validation", "test"}


def test_the_log_holds_epochs_and_the_result_and_the_environment_what_it_ran_on(fitted: Path) -> None:
    run = run_of(fitted)
    log = (run / "log.txt").read_text()
    with (run / "head_phase.csv").open() as file:
        losses = [f"{float(row['val_loss']):.3f}" for row in csv.DictReader(file)]
    assert re.findall(r"head phase, epoch \d+: val_loss ([\d.]+)", log) == losses
    accuracy = report_of(fitted)["metrics"]["accuracy"]
    assert re.search(rf"^\S+   accuracy +{accuracy:.3f} ", log, re.MULTILINE)
    assert log.splitlines()[-1].endswith("colours/1"), "where the model lies"
    facts = json.loads((run / "environment.json").read_text())
    assert facts["command"].startswith("kerastl fit ") and "--image-size 32" in facts["command"]
    assert facts["processor"] and isinstance(facts["gpus"], list), "TensorFlow was loaded, so they are known"
    assert {"click", "keras", "tensorflow"} <= set(facts["packages"])


def test_answers_are_written_although_the_files_are_gone_by_then(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.features.cache import Cache
    from kerastl.features.decoded import decode_splits
    from kerastl.jobs.artifacts import write_answers
    from kerastl.jobs.open import open_splits
    from kerastl.progress import Progress
    from kerastl.recipe import load_recipe
    from kerastl.run import create_run

    photos = shutil.copytree(solid_colours, tmp_path / "photos")
    flags = {"data.source": str(photos), "backbone.name": small_backbone_file()}
    recipe, splits = open_splits(load_recipe(flags={**flags, "cache.mode": "off"}))
    run = create_run(tmp_path, "x")
    with Cache(recipe.cache, run.scratch) as cache:
        prepared = decode_splits(recipe, splits, cache, Progress())
        shutil.rmtree(photos)
        logits = {split.name: np.eye(3)[(split.labels + 1) % 3] for split in prepared.splits}
        write_answers(run, prepared, logits)
    with run.predictions_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == prepared.splits.validation.count + prepared.splits.test.count
    assert all(row["true"] != row["predicted"] for row in rows) and run.worst_png.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "saying"),
    [
        ("calibrate.calibrate_network", "before the trained model was tested"),
        ("fit.export_network", "before the model was exported"),
    ],
)
def test_who_stops_after_training_keeps_the_model(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, saying: str
) -> None:
    from kerastl.errors import Interrupted
    from kerastl.jobs import evaluate, fit
    from kerastl.recipe import load_recipe

    def stop(*words: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    flags = {"data.source": str(solid_colours), "backbone.name": small_backbone_file()}
    flags |= {"head_phase.epochs": 1, "finetune_phase.unfreeze_from": "backbone", "augment.views": 1}
    monkeypatch.setattr(f"kerastl.jobs.{step}", stop)
    with pytest.raises(Interrupted, match=saying):
        fit.fit(load_recipe(flags={**flags, "cache.mode": "off"}), runs_dir=tmp_path, models_dir=tmp_path)
    (run,) = tmp_path.glob("*-colours*")
    assert saying in (run / "log.txt").read_text().splitlines()[-1]
    monkeypatch.undo()
    assert evaluate.evaluate(run).count > 0


@pytest.mark.slow
def test_labels_drawn_at_random_are_not_learnt(solid_colours: Path, tmp_path: Path, kerastl: Kerastl) -> None:
    """The control of the accuracy gate above."""
    images = sorted(solid_colours.rglob("*.png"))
    names = ["a", "b", "c"] * (len(images) // 3)
    random.Random(0).shuffle(names)
    rows = "".join(f"{image},{name}\n" for image, name in zip(images, names, strict=True))
    (tmp_path / "random.csv").write_text("path,label\n" + rows)
    done = kerastl(
        "fit", "--data", tmp_path / "random.csv", "--no-finetune", "--no-export", *QUICK[:4], *QUICK[8:10]
    )
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["metrics"]["accuracy"] < 0.75


@pytest.mark.slow
def test_repeating_a_recipe_in_deterministic_mode_repeats_the_bits(
    fitted: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    done = kerastl("fit", run_of(fitted) / "recipe.toml", "--no-export")
    assert done.returncode == 0, done.stderr
    first, second = run_of(fitted), run_of(tmp_path)

    def without_seconds(path: Path) -> list[dict[str, str]]:
        with path.open() as file:
            return [
                {key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)
            ]

    for name in ("head_phase.csv", "finetune_phase.csv"):
        assert without_seconds(first / name) == without_seconds(second / name)
    assert report_of(fitted)["metrics"] == report_of(tmp_path)["metrics"]
    assert (first / "splits.csv").read_text() == (second / "splits.csv").read_text()
    other = kerastl(
        "fit", run_of(fitted) / "recipe.toml", "--no-export", "--seed", "1", "--runs", tmp_path / "other"
    )
    assert other.returncode == 0, other.stderr
    (other_run,) = (tmp_path / "other").iterdir()
    assert without_seconds(first / "head_phase.csv") != without_seconds(other_run / "head_phase.csv")


@pytest.mark.slow
def test_run_and_exported_model_predict_the_same(fitted: Path, solid_colours: Path, kerastl: Kerastl) -> None:
    image = next((solid_colours / "red").iterdir())
    answers = []
    for model in (run_of(fitted), fitted / "saved_models" / "colours"):
        done = kerastl("predict", model, image, "--json")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)[0])
    assert answers[0]["label"] == answers[1]["label"] == "red"
    assert answers[0]["probability"] == pytest.approx(answers[1]["probability"], abs=1e-5)


def test_an_unreadable_image_is_named_and_the_others_are_predicted(
    fitted: Path, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    shutil.copy(next((solid_colours / "blue").iterdir()), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = kerastl("predict", run_of(fitted), tmp_path / "good.png", tmp_path / "bad.png", "--json")
    by_name = {Path(row["path"]).name: row for row in json.loads(done.stdout)}
    assert by_name["good.png"]["label"] == "blue"
    assert by_name["bad.png"]["label"] == "" and "not an image" in by_name["bad.png"]["error"]


@pytest.mark.slow
def test_evaluate_repeats_the_test_result_and_takes_other_data(
    fitted: Path, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    done = kerastl("evaluate", run_of(fitted), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == report_of(fitted)["metrics"]["accuracy"]
    other = tmp_path / "other"
    for colour in ("red", "green"):
        for split in ("train", "test"):
            shutil.copytree(solid_colours / colour, other / split / colour)
    done = kerastl("evaluate", run_of(fitted), "--csv", "-q")
    printed = list(csv.DictReader(done.stdout.splitlines()))
    with (run_of(fitted) / "predictions.csv").open() as file:
        written = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert [row["id"] for row in printed] == [row["id"] for row in written]
    for one, two in zip(printed, written, strict=True):
        assert (one["true"], one["predicted"]) == (two["true"], two["predicted"])
        assert float(one["loss"]) == pytest.approx(float(two["loss"]), abs=0.02)
    mean = sum(float(row["loss"]) for row in written) / len(written)
    assert mean == pytest.approx(report_of(fitted)["metrics"]["log_loss"], abs=1e-5)
    wrong = sum(row["true"] != row["predicted"] for row in written)
    assert 1 - wrong / len(written) == pytest.approx(report_of(fitted)["metrics"]["accuracy"])
    done = kerastl("evaluate", run_of(fitted), "--data", other, "--json")
    assert json.loads(done.stdout)["count"] == 48 and "its test split, 48 of 96 images" in done.stderr
    (other / "test" / "red").rename(other / "test" / "purple")
    done = kerastl("evaluate", run_of(fitted), "--data", other)
    assert done.returncode == 2 and "class 'purple' that the model does not know" in done.stderr
    assert "decode" not in done.stderr  # said before the images are read


@pytest.mark.slow
def test_export_publishes_the_next_version_with_all_that_belongs_to_it(
    fitted: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    base = tmp_path / "models" / "again"
    words = ["export", run_of(fitted), "--models", tmp_path / "models", "--name", "again"]
    for version, more in ((1, []), (2, ["--keep", "1", "--no-warmup"])):
        done = kerastl(*words, *more)
        assert done.returncode == 0, done.stderr
        assert ("will not serve 'again'" in done.stderr) == (version == 2)
        (tmp_path / "models" / "models.config").write_text("model_config_list {}  # my own\n")
        assert (base / str(version) / "saved_model.pb").is_file()
    first = fitted / "saved_models" / "colours" / "1" / "assets.extra"
    assert [child.name for child in base.iterdir()] == ["2"]
    extra = base / "2" / "assets.extra"
    assert sorted(file.name for file in extra.iterdir()) == ["model.json", "model_card.md", "recipe.toml"]
    assert (first / "tf_serving_warmup_requests").stat().st_size > 1000
    # from the report of a run that has ended as from the fit itself
    told, known = (json.loads((folder / "model.json").read_text()) for folder in (extra, first))
    differs = {"name": "", "exported": "", "warmup_request_count": 0, "parity": {}}
    assert {**told, **differs} == {**known, **differs}
    assert told["test"]["accuracy"] == report_of(fitted)["metrics"]["accuracy"]
    assert "Apache-2.0" in (extra / "model_card.md").read_text()
    rows = json.loads(kerastl("models", "list", "--models", tmp_path / "models", "--json").stdout)
    assert [(row["version"], row["accuracy"]) for row in rows] == [(2, told["test"]["accuracy"])]
    config = fitted / "saved_models" / "models.config"
    assert 'base_path: "/models/colours"' in config.read_text()


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_version_that_answers(
    fitted: Path, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    shutil.copytree(fitted / "saved_models", tmp_path / "saved_models")
    base, killed = tmp_path / "saved_models" / "colours", 0
    command = [sys.executable, "-m", "kerastl", "export", str(run_of(fitted)), "--name", "colours"]
    for seconds in (0.0, 0.3, 1.0, 3.0):
        writer = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while writer.poll() is None and len(list(base.glob(f".tmp-{writer.pid}-*"))) == 0:
            time.sleep(0.01)
        time.sleep(seconds)
        writer.kill()
        killed += writer.wait() < 0
    assert killed == 4 and len(list(base.glob(".tmp-*"))) == 4
    assert [child.name for child in base.iterdir() if child.name.isdigit()] == ["1"]
    image = min((solid_colours / "red").iterdir())
    assert '"red"' in kerastl("predict", base, image, "--json").stdout
    for left in base.glob(".tmp-*"):
        os.utime(left, (time.time() - 3600,) * 2)
    assert kerastl(*command[3:]).returncode == 0
    assert sorted(child.name for child in base.iterdir()) == ["1", "2"]
    assert '"red"' in kerastl("predict", base, image, "--json").stdout


@pytest.mark.slow
def test_going_back_serves_the_same_answers_as_the_first_time(
    fitted: Path, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    shutil.copytree(fitted / "saved_models", tmp_path / "saved_models")
    base = tmp_path / "saved_models" / "colours"
    shutil.copytree(base / "1", base / "2")
    assert kerastl("models", "rollback", "colours", "--to", "1").returncode == 0
    images = sorted((solid_colours / "green").iterdir())[:3]
    answers = [kerastl("predict", base / version, *images, "--json").stdout for version in ("1", "3")]
    assert answers[0] == answers[1] and "green" in answers[0]


@pytest.mark.slow
def test_a_refused_export_leaves_what_was_measured_and_says_why(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    import kerastl
    from kerastl.errors import ExportError
    from kerastl.jobs import export

    right = export.write_saved_model

    def blue_for_red(model: keras.Model, serving: object, path: Path) -> None:
        pixels = keras.Input(model.input_shape[1:])
        right(keras.Model(pixels, model(keras.ops.flip(pixels, -1))), serving, path)

    monkeypatch.setattr(export, "write_saved_model", blue_for_red)
    flags = {"data.source": str(solid_colours), "backbone.name": small_backbone_file()}
    flags |= {"augment.views": 1, "finetune_phase.unfreeze_from": "backbone", "name": "colours"}
    recipe = kerastl.load_recipe(flags={**flags, "cache.directory": str(tmp_path / "store")})
    with pytest.raises(ExportError, match="probabilities differ") as caught:
        kerastl.fit(recipe, runs_dir=tmp_path / "runs", models_dir=tmp_path / "models")
    report = report_of(tmp_path)
    assert report["metrics"]["accuracy"] > 0.9 and report["export_problem"] == str(caught.value)
    page = (run_of(tmp_path) / "report.md").read_text()
    assert "## Not exported" in page and "probabilities differ" in page
    assert (run_of(tmp_path) / "confusion.png").is_file()
    assert not list((tmp_path / "models").glob("*/[0-9]*"))
    monkeypatch.undo()
    version = kerastl.export_run(run_of(tmp_path), models_dir=tmp_path / "models")
    assert "Accuracy on" in (version.path / "assets.extra" / "model_card.md").read_text()


@pytest.mark.slow
def test_files_that_vanish_while_a_run_works_do_not_cost_its_export(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kerastl
    from kerastl.jobs import fit, setup

    data = shutil.copytree(solid_colours, tmp_path / "data")
    decode_splits, transfer = setup.decode_splits, fit.transfer
    gone: list[Path] = []

    def decode_and_remove_some(*words: object) -> object:
        prepared = decode_splits(*words)
        for split in (prepared.splits.validation, prepared.splits.test):
            (data / split.ids[0]).unlink()
            (data / split.ids[1]).write_bytes(b"half of an image")
            gone.extend((data / split.ids[0], data / split.ids[1]))
        return prepared

    def remove_all_and_train(*words: object, **others: object) -> object:
        shutil.rmtree(data)
        return transfer(*words, **others)

    monkeypatch.setattr(setup, "decode_splits", decode_and_remove_some)
    monkeypatch.setattr(fit, "transfer", remove_all_and_train)
    flags = {"data.source": str(data), "backbone.name": small_backbone_file()}
    flags |= {
        "augment.views": 1,
        "finetune_phase.unfreeze_from": "backbone",
        "head_phase.epochs": 3,
        "name": "colours",
    }
    recipe = kerastl.load_recipe(flags={**flags, "cache.mode": "off"})
    summary = kerastl.fit(recipe, runs_dir=tmp_path / "runs", models_dir=tmp_path / "models")
    assert summary.exported is not None and summary.exported.example_count > 8
    log = (run_of(tmp_path) / "log.txt").read_text()
    assert "2 validation images cannot be read" in log and "2 test images cannot be read" in log
    assert gone[0].name in log and "others in their place" in log


def test_a_neighbour_stands_in_for_an_image_that_cannot_be_read(tmp_path: Path, solid_colours: Path) -> None:
    from kerastl.data.folder import open_folder
    from kerastl.features.raw import CHECK_EXAMPLES, readable_examples
    from kerastl.modality.image import Image
    from kerastl.progress import Progress

    data = shutil.copytree(solid_colours, tmp_path / "data")
    examples = open_folder(data)
    split = Split("test", examples, np.arange(0, len(examples), 2))
    heard: list[str] = []

    class Ear(Progress):
        def warn(self, message: str) -> None:
            heard.append(message)

    before, images = readable_examples(split, Image(32), Ear())
    assert len(before) == len(images) == CHECK_EXAMPLES and not heard
    assert images[1] == (data / split.ids[before[1]]).read_bytes()
    first, last = before[1], before[-1]  # the last one has no next, so the search begins at the front
    (data / split.ids[first]).unlink()
    (data / split.ids[first + 1]).write_bytes(b"GIF89a")
    (data / split.ids[last]).unlink()
    after, images = readable_examples(split, Image(32), Ear())
    assert len(after) == CHECK_EXAMPLES and {first, first + 1, last} & set(after) == set()
    assert images == [(data / split.ids[position]).read_bytes() for position in after]
    assert heard[0].startswith("3 test images cannot be read, the first is ") and split.ids[first] in heard[0]


@pytest.mark.parametrize("trouble", ["all images", "disk", "fault"])
def test_what_keeps_a_trained_model_from_its_export_is_said_before_training_or_stands_in_the_report(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    import kerastl
    from kerastl.errors import DataError
    from kerastl.jobs import export, setup
    from kerastl.writing import WriteError

    data = shutil.copytree(solid_colours, tmp_path / "data")
    decode_splits = setup.decode_splits

    def decode_and_remove(*words: object) -> object:
        prepared = decode_splits(*words)
        shutil.rmtree(data)
        return prepared

    def fail(*words: object) -> None:
        raise WriteError("the disk is full") if trouble == "disk" else ZeroDivisionError("division by zero")

    if trouble == "all images":
        monkeypatch.setattr(setup, "decode_splits", decode_and_remove)
    else:
        monkeypatch.setattr(export, "write_saved_model", fail)
    flags = {"data.source": str(data), "backbone.name": small_backbone_file()}
    flags |= {
        "augment.views": 1,
        "finetune_phase.unfreeze_from": "backbone",
        "head_phase.epochs": 1,
        "name": "colours",
    }
    recipe = kerastl.load_recipe(flags={**flags, "cache.mode": "off"})
    expected = {"all images": DataError, "disk": WriteError, "fault": ZeroDivisionError}[trouble]
    with pytest.raises(expected) as caught:
        kerastl.fit(recipe, runs_dir=tmp_path / "runs", models_dir=tmp_path / "models")
    if trouble == "all images":
        assert "None of " in str(caught.value) and "validation images can be read" in str(caught.value)
        assert not (run_of(tmp_path) / "model.keras").exists()
    else:
        assert str(caught.value) in report_of(tmp_path)["export_problem"]


def test_nothing_is_published_where_features_and_model_disagree(
    fitted: Path, solid_colours: Path, tmp_path: Path
) -> None:
    import keras

    from kerastl.errors import ExportError
    from kerastl.export.check import expected_answers
    from kerastl.export.facts import measured, model_facts
    from kerastl.jobs.export import export_network
    from kerastl.jobs.trained import serving_of
    from kerastl.recipe import load_recipe
    from kerastl.run import Run

    run = Run(run_of(fitted))
    model = keras.saving.load_model(run_of(fitted) / "model.keras")
    images = [path.read_bytes() for path in sorted((solid_colours / "red").iterdir())[:4]]
    recipe = load_recipe(run_of(fitted) / "recipe.toml")
    serving = serving_of(recipe, ("blue", "green", "red"), None)
    facts = model_facts(recipe, run, serving.class_names, measured(run))
    expected = expected_answers(model, images, serving)
    moved = expected.inputs, np.full((4, 3), 1 / 3)
    name = {"models_dir": tmp_path, "name": "m"}
    with pytest.raises(ExportError, match=r"features that it was trained on.*kerastl cache clear"):
        export_network(model, recipe, serving, images, "float32", **name, trained=moved, facts=facts)
    other = {name: values ^ 1 for name, values in expected.inputs.items()}, expected.probabilities
    with pytest.raises(ExportError, match=r"4 of 4 images are decoded otherwise.*kerastl cache clear"):
        export_network(model, recipe, serving, images, "float32", **name, trained=other, facts=facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_model_itself_is_calibrated_and_the_threshold_travels_with_it(
    fitted: Path, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    import keras
    import tensorflow as tf

    done = kerastl(
        "fit", run_of(fitted) / "recipe.toml",
        "--set", "calibration.kind=none", "--set", "calibration.abstain_coverage=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calibrated, plain = run_of(fitted), run_of(tmp_path)
    found = [json.loads((run / "calibration.json").read_text()) for run in (calibrated, plain)]
    temperature = found[0]["temperatures"][0]
    assert temperature != 1 and found[1]["temperatures"] == [1.0] * 3
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    logits = [
        keras.saving.load_model(run / "model.keras")(images, training=False) for run in (calibrated, plain)
    ]
    np.testing.assert_allclose(np.asarray(logits[0]) * temperature, logits[1], rtol=1e-4, atol=1e-4)
    trust = report_of(fitted)["trust"]
    assert trust["reliability"]["count"] == report_of(fitted)["metrics"]["count"]
    assert trust["reliability"]["log_loss_after"] == pytest.approx(report_of(fitted)["metrics"]["log_loss"])

    report = report_of(tmp_path)["trust"]
    assert report["threshold"] == found[1]["threshold"] and found[0]["threshold"] is None
    assert "accepted" in done.stdout and "accepted" not in (fitted / "stdout.txt").read_text()
    again = kerastl("export", plain, "--name", "again")
    assert again.returncode == 0, again.stderr
    image = tf.constant([next((solid_colours / "red").iterdir()).read_bytes()])
    for name, expected in [("colours", True), ("again", True)]:
        signature = tf.saved_model.load(str(tmp_path / "saved_models" / name / "1")).signatures[
            "serving_default"
        ]
        answer = signature(image_bytes=image)
        assert ("accepted" in answer) == expected
        assert bool(answer["accepted"][0]) == (float(answer["scores"][0, 0]) >= report["threshold"])
    everything = [
        kerastl("predict", model, solid_colours, "--json")
        for model in (plain, tmp_path / "saved_models" / "again")
    ]
    verdicts = [[row["accepted"] for row in json.loads(each.stdout)] for each in everything]
    assert verdicts[0] == verdicts[1] and 0 < sum(verdicts[0]) < len(verdicts[0]) == 72
    first = tf.saved_model.load(str(fitted / "saved_models" / "colours" / "1")).signatures["serving_default"]
    assert "accepted" not in first(image_bytes=image), (
        "the control: without a threshold there is no such output"
    )


def test_the_saved_model_needs_keras_alone(fitted: Path) -> None:
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "answer = model(np.full((2, 32, 32, 3), 127.0, 'float32'), training=False)\n"
        "assert not any(name.startswith('kerastl') for name in sys.modules)\n"
        "print(answer.shape, answer.dtype)\n"
    )
    command = [sys.executable, "-c", script, str(run_of(fitted) / "model.keras")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "(2, 3)" in done.stdout and "float32" in done.stdout


def test_plan_prints_phases_blocks_and_rates_without_training(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    done = kerastl("plan", "--data", solid_colours, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "head phase" in done.stdout and "fine-tune phase" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    states = {(row[0], row[1]) for row in rows}
    assert (
        ("head", "trains") in states
        and ("conv_pw_11_relu", "partly") in states
        and ("input", "frozen") in states
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_unreadable_files_are_listed_and_left_out_or_stop_the_run(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    data = tmp_path / "data"
    shutil.copytree(solid_colours, data)
    (data / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but nothing more")
    done = kerastl("fit", "--data", data, "--no-finetune", "--no-export", *QUICK[:4], *QUICK[8:10])
    assert done.returncode == 0, done.stderr
    listed = json.loads((run_of(tmp_path) / "data.json").read_text())["unreadable"]
    assert list(listed) == ["red/broken.png"] and "red/broken.png" in done.stderr
    for number in range(9):
        (data / "red" / f"broken-{number}.jpg").write_bytes(b"")
    done = kerastl(
        "fit", "--data", data, "--no-finetune", *QUICK[:4], "--runs", tmp_path / "stopped", *QUICK[8:10]
    )
    assert (
        done.returncode == 2 and "data.max_unreadable_fraction" in done.stderr and "empty file" in done.stderr
    )


@pytest.mark.slow
def test_a_stop_keeps_the_best_so_far_and_says_how_to_go_on(solid_colours: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kerastl", "fit", "--data", str(solid_colours), *QUICK[:2], *QUICK[8:10]]
    command += ["--head-epochs", "100000", "--set", "head_phase.patience_epochs=0", "--no-finetune"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert process.stderr is not None
    # Into a pipe a line is written every ten seconds, with the metrics of the last epoch that has ended.
    assert any("val_loss" in line for line in process.stderr), "the run ended before it was stopped"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    run = run_of(tmp_path)
    assert (run / "model.keras").is_file() and not (run / "scratch").exists()
    assert "kerastl export" in errors and "kerastl evaluate" in errors and "Traceback" not in errors
    assert "ended by Interrupted: Stopped. The best model so far" in (run / "log.txt").read_text()
    assert not (tmp_path / "saved_models").exists()


def test_a_stop_before_the_first_epoch_leaves_no_model(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from kerastl.errors import Interrupted
    from kerastl.jobs.fit import fit
    from kerastl.recipe import load_recipe

    def stopped(model: keras.Model, *words: object, **options: object) -> None:
        raise KeyboardInterrupt

    flags = {"data.source": str(solid_colours), "backbone.name": small_backbone_file()}
    sets = ["augment.level='none'", "finetune_phase.unfreeze_from='backbone'", "head.start='zeros'"]
    recipe = load_recipe(None, sets, flags)
    monkeypatch.setattr(keras.Model, "fit", stopped)
    with pytest.raises(Interrupted, match="nothing was learnt"):
        fit(recipe, runs_dir=tmp_path / "runs", models_dir=tmp_path / "models")
    run = run_of(tmp_path)
    assert (run / "recipe.toml").is_file() and not (run / "model.keras").exists()
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_mixed_precision_learns_and_tensorboard_logs_both_phases(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    done = kerastl(
        "fit", "--data", solid_colours, *QUICK, "--precision", "mixed_bfloat16", "--tensorboard", "--name", "mixed"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path)["metrics"]["accuracy"] >= 0.9
    for phase in ("head_phase", "finetune_phase"):
        # Keras writes the validation metrics beside the training metrics, under the same names.
        for part in ("train", "validation"):
            logs = list((run_of(tmp_path) / "tensorboard" / phase / part).glob("events.out.tfevents.*"))
            assert logs, f"no TensorBoard log of the {phase}'s {part} metrics"
            written = b"".join(path.read_bytes() for path in logs)
            assert b"epoch_loss" in written and b"epoch_accuracy" in written
    import keras

    from kerastl.model.precision import precision_of_model

    model = keras.saving.load_model(run_of(tmp_path) / "model.keras")
    assert precision_of_model(model) == "mixed_bfloat16" and model.output.dtype == "float32"
    assert precision_of_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])) == "float32"
