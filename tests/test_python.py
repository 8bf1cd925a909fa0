"""The Python way: data and options by name, callbacks, and what comes back."""

from __future__ import annotations

import gc
import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, Kerastl

import kerastl
from kerastl.errors import DataError, RecipeError, UserError
from kerastl.recipe.flags import keys_from_options

SIDE = 32
QUICK = {
    "image_size": SIDE, "head_epochs": 3, "finetune_epochs": 1, "augment": "none", "deterministic": True,
    "unfreeze_from": "backbone",
}  # fmt: skip


def colours(count: int = 24, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of three colours, and their numbers."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(3 * count) % 3
    noise = generator.integers(-25, 26, (3 * count, SIDE, SIDE, 3))
    pixels = np.array(list(COLOURS.values()))[numbers][:, None, None] + noise
    return np.clip(pixels, 0, 255).astype(np.uint8), numbers


X, Y = colours()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """File of a small network with one block."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, name="stem")(layers.Rescaling(1 / 127.5, offset=-1)(images))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="block_conv")(x)
    path = str(tmp_path_factory.mktemp("backbone") / "small.keras")
    keras.Model(images, layers.Add(name="block_out")([x, y])).save(path)
    return path


@pytest.fixture(scope="module")
def data() -> Any:
    return kerastl.from_arrays(X, Y, class_names=list(COLOURS))


class Seen:
    """A Keras callback that keeps what it is told, made when Keras is there."""

    def __new__(cls, stop_after: int | None = None) -> Any:
        import keras

        class Callback(keras.callbacks.Callback):
            def __init__(self) -> None:
                super().__init__()
                self.epochs: list[tuple[str, int]] = []
                self.logs: list[dict[str, float]] = []

            def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
                self.epochs.append((self.model.name, epoch))
                self.logs.append(dict(logs or {}))
                if stop_after is not None and epoch + 1 >= stop_after:
                    self.model.stop_training = True

        return Callback()


@pytest.fixture(scope="module")
def fitted(data: Any, backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return kerastl.fit(backbone, data, runs_dir=tmp_path_factory.mktemp("runs"), **QUICK)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"unfreeze_from": "backbone", "head_epochs": 3}, {"finetune_phase.unfreeze_from": "backbone", "head_phase.epochs": 3}),
        ({"dropout": 0.2, "validation_fraction": 0.3}, {"head.dropout": 0.2, "data.validation_fraction": 0.3}),
        ({"finetune_phase": {"epochs": 2}, "augment": {"views": 3}}, {"finetune_phase.epochs": 2, "augment.views": 3}),
        ({"augment": "light", "cache": "off", "head.l2": 1e-4}, {"augment.level": "light", "cache.mode": "off", "head.l2": 1e-4}),
    ],
)  # fmt: skip
def test_options_are_flags_and_keys(options: dict[str, Any], keys: dict[str, Any]) -> None:
    assert keys_from_options(options) == keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze_form": "input"}, "Did you mean 'unfreeze_from'"),
        (
            {"learning_rate": 1.0},
            r"head_phase.learning_rate and finetune_phase.learning_rate. Say which: head_phase=",
        ),
        ({"head": 3}, r"expected a mapping of the keys of \[head\]"),
        ({"dropout": 2}, "below 1"),
        ({"finetune_phase": {"epohcs": 2}}, "Did you mean 'finetune_phase.epochs'"),
    ],
)
def test_an_option_that_is_none_is_refused_before_any_work(
    options: dict[str, Any], message: str, data: Any, backbone: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        kerastl.fit(backbone, data, **options)


def test_a_name_that_is_neither_recipe_nor_backbone_is_refused() -> None:
    with pytest.raises(UserError, match=r"'resnet5' is no recipe and no backbone. Did you mean 'resnet50'"):
        kerastl.fit("resnet5")


def test_what_comes_back_has_the_report_and_the_history(fitted: Any) -> None:
    assert fitted.report.metrics.accuracy > 0.8 and fitted.report.class_names == tuple(COLOURS)
    assert list(fitted.history) == ["head_phase"] and len(fitted.history["head_phase"]["val_loss"]) == 3
    assert fitted.exported is None and fitted.run.is_dir() and not Path("saved_models/arrays-small").exists()
    assert "accuracy" in str(fitted) and repr(fitted) == f"Fitted('{fitted.run}')"
    assert fitted.recipe.backbone.image_size == SIDE and fitted.model.output_shape == (None, 3)


def test_the_run_says_what_it_was_made_from(fitted: Any, data: Any) -> None:
    said = json.loads((fitted.run / "data.json").read_text())
    assert said["origin"] == "72 images in arrays" and fitted.run.name.endswith("arrays-small")
    recipe = (fitted.run / "recipe.toml").read_text()
    assert 'source = "python:arrays"' in recipe and recipe.startswith(
        "# Trained in Python on 72 images in arrays"
    )
    ids = [line.split(",")[1] for line in (fitted.run / "splits.csv").read_text().splitlines()[1:]]
    assert sorted(ids) == sorted(data.ids)


def test_one_image_gives_one_answer_and_several_a_list(fitted: Any, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "red.png"
    Image.fromarray(X[2]).save(file)
    expected = fitted.predict(X[2])
    assert expected.label == fitted.class_names[2] and len(expected.top) == 3
    for one in (X[2].astype(np.float32), Image.fromarray(X[2]), file.read_bytes(), file, str(file)):
        assert fitted.predict(one).top == expected.top
    many = (X[2:4], list(X[2:4]), [file, X[3].tobytes() and file.read_bytes()], [Image.fromarray(X[2]), X[3]])
    for several in many:
        answers = fitted.predict(several)
        assert len(answers) == 2 and answers[0].top == expected.top
    assert [each.path for each in fitted.predict(tmp_path)] == [str(file)]
    assert len(fitted.predict(X[:1])) == 1 and fitted.predict(X[2, :, :, 0]).error == ""
    assert fitted.predict(X[2], top=1).top == expected.top[:1]


def test_the_model_gives_what_predict_says(fitted: Any) -> None:
    logits = fitted.model.predict(X[:5].astype(np.float32), verbose=0)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(shares.max(axis=1), [each.probability for each in fitted.predict(X[:5])], atol=1e-5)


def test_what_cannot_be_predicted_is_said(fitted: Any) -> None:
    assert fitted.predict(b"no picture").error and not fitted.predict(b"no picture").accepted
    with pytest.raises(DataError, match=r"Expected 0\.\.255, not 0\.\.1"):
        fitted.predict(X[0] / 255)
    with pytest.raises(DataError, match=r"Cannot read a int of shape"):
        fitted.predict(3)
    with pytest.raises(UserError, match="nowhere"):
        fitted.predict("nowhere.jpg")


def test_it_is_measured_on_its_own_test_images_and_on_others(
    fitted: Any, data: Any, solid_colours: Path
) -> None:
    own = fitted.evaluate()
    assert own.count == fitted.report.counts["test"] and own.accuracy == fitted.report.metrics.accuracy
    assert abs(own.log_loss - fitted.report.metrics.log_loss) < 1e-4
    others, numbers = colours(5, seed=1)
    found = fitted.evaluate(others, numbers)
    assert found.count == 15 and found.accuracy > 0.8
    named = kerastl.from_arrays(others, [list(COLOURS)[number] for number in numbers])
    assert fitted.evaluate(named).to_dict() == found.to_dict()
    assert fitted.evaluate(solid_colours).count == 72
    with pytest.raises(DataError, match="3, but there are 3 class_names"):
        fitted.evaluate(others, numbers + 2)
    with pytest.raises(DataError, match="data is a ndarray; expected examples"):
        fitted.evaluate(others)


def test_an_earlier_run_is_loaded_whole(fitted: Any) -> None:
    again = kerastl.load(str(fitted.run))
    assert again.report.to_dict() == fitted.report.to_dict() and again.history == fitted.history
    assert again.predict(X[:3]) == fitted.predict(X[:3])
    with pytest.raises(UserError, match="no run at"):
        kerastl.load("runs/nothing")


def test_images_that_are_gone_are_asked_for(fitted: Any, data: Any, kerastl: Kerastl) -> None:
    import kerastl as package

    again = package.load(fitted.run)
    with pytest.raises(DataError, match=r"handed over in Python.*--data FOLDER.*evaluate\(data\)"):
        again.evaluate()
    done = kerastl("evaluate", fitted.run)
    assert done.returncode == 2 and "handed over in Python" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_it_is_exported_also_from_another_process(fitted: Any, tmp_path: Path, kerastl: Kerastl) -> None:
    exported = fitted.export(tmp_path / "models" / "colours")
    assert exported.path == tmp_path / "models" / "colours" / "1" == fitted.exported.path
    done = kerastl("export", fitted.run, "--models", tmp_path / "models", "--name", "colours")
    assert done.returncode == 0 and (tmp_path / "models" / "colours" / "2").is_dir(), done.stderr


def test_callbacks_take_part_in_both_phases(data: Any, backbone: str, tmp_path: Path) -> None:
    seen = Seen()
    options = {**QUICK, "unfreeze_from": "stem", "head_epochs": 2}
    fitted = kerastl.fit(backbone, data, callbacks=[seen], runs_dir=tmp_path, **options)
    assert seen.epochs == [("head", 0), ("head", 1), ("suffix", 0)]
    losses = [row["val_loss"] for row in seen.logs]
    assert losses == fitted.history["head_phase"]["val_loss"] + fitted.history["finetune_phase"]["val_loss"]


def test_a_callback_ends_its_phase_and_warnings_are_logged(
    data: Any, backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(stop_after=1)
    with caplog.at_level(logging.WARNING, logger="kerastl"):
        fitted = kerastl.fit(backbone, data, callbacks=[seen], runs_dir=tmp_path, **QUICK)
    assert len(fitted.history["head_phase"]["loss"]) == 1 and seen.epochs == [("head", 0)]
    assert any("validation images" in record.message for record in caplog.records)


@pytest.mark.slow
def test_a_folder_from_python_is_the_fit_of_its_recipe(
    solid_colours: Path, backbone: str, tmp_path: Path
) -> None:
    first = kerastl.fit(backbone, kerastl.from_folder(solid_colours), runs_dir=tmp_path, **QUICK)
    again = kerastl.run(first.run / "recipe.toml", runs_dir=tmp_path, export_model=False)
    named = kerastl.fit(backbone, solid_colours, runs_dir=tmp_path, export_model=False, **QUICK)
    figures = [
        {k: v for k, v in each.history["head_phase"].items() if k != "seconds"}
        for each in (first, again, named)
    ]
    assert figures[0] == figures[1] == figures[2]
    assert (first.run / "recipe.toml").read_text().splitlines()[1:] == (
        again.run / "recipe.toml"
    ).read_text().splitlines()[1:]


def test_keys_of_opening_count_also_when_they_come_with_the_fit(solid_colours: Path) -> None:
    from kerastl.jobs.python import recipe_for, usable

    examples = kerastl.from_folder(solid_colours)
    for options, as_they_are in (
        ({"test_fraction": 0.3}, True),
        ({"data": {"group_pattern": "[0-9]"}}, False),
    ):
        asked = recipe_for("mobilenet_025", examples, options)
        assert (
            asked.data.source == str(solid_colours) and (usable(examples, asked) is examples) == as_they_are
        )


def test_a_recipe_takes_options_and_other_data(data: Any) -> None:
    from kerastl.jobs.python import recipe_for

    recipe = kerastl.load_recipe("digits", ["seed=3"])
    changed = recipe_for(recipe, data, {"dropout": 0.3})
    assert (changed.seed, changed.head.dropout, changed.data.source) == (3, 0.3, "python:arrays")
    assert recipe_for("digits", None, {"seed": 4}).seed == 4
    several = kerastl.from_arrays(X[:4], [["a"], [], ["a", "b"], ["b"]])
    assert recipe_for(None, several, {}).data.task == "multi_label"


@pytest.mark.parametrize("name", ["run", "features"])
def test_a_function_named_like_a_module_stays_callable(name: str) -> None:
    module = importlib.import_module(f"kerastl.{name}")
    assert getattr(kerastl, name) is module and module.__name__ == f"kerastl.{name}"
    if name == "run":
        with pytest.raises(UserError, match="No recipe 'no such recipe'"):
            kerastl.run("no such recipe")
    else:
        with pytest.raises(TypeError, match="net"):
            kerastl.features()


@pytest.mark.slow
def test_a_format_of_floats_is_checked_on_the_images_that_a_run_keeps(
    fitted: Any, data: Any, tmp_path: Path, kerastl: Kerastl
) -> None:
    import kerastl as package

    pytest.importorskip("onnxruntime")
    kept = package.convert(fitted.run, "onnx", exported_dir=tmp_path)
    assert kept.example_count == len(list((fitted.run / "images").iterdir())) > 0
    assert kept.test_count == 0 and kept.label_agreement == 1 and kept.largest_difference < 1e-4
    given = package.convert(fitted.run, "onnx", data, exported_dir=tmp_path)
    assert (
        given.test_count == fitted.report.counts["test"] and given.accuracy == fitted.report.metrics.accuracy
    )
    done = kerastl("export", fitted.run, "--format", "onnx", "--exported", tmp_path / "again")
    assert done.returncode == 0, done.stderr


def test_integers_need_the_training_images_that_were_handed_over(
    fitted: Any, solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    import kerastl as package

    pytest.importorskip("ai_edge_litert")
    asked = r"litert-int8 is fitted to images of the training split.*handed over in Python.*Pass them: kerastl.convert\("
    with pytest.raises(DataError, match=asked):
        package.convert(fitted.run, "litert-int8", exported_dir=tmp_path)
    with pytest.raises(DataError, match=asked):
        package.benchmark(fitted.run, str(solid_colours), formats=["litert-int8"])
    done = kerastl("export", fitted.run, "--format", "litert-int8", "--exported", tmp_path)
    assert done.returncode == 2 and "Pass them" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_formats_of_a_run_on_handed_images_are_measured_but_for_integers(
    fitted: Any, data: Any, solid_colours: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    measured = kerastl.benchmark(fitted.run, str(solid_colours), formats=["keras", "saved_model"])
    assert [row.format for row in measured.rows] == ["keras", "saved_model"] and measured.example_count == 72
    assert kerastl.benchmark(fitted.run, data).left_out.keys() == {"litert-int8"}
    made = kerastl.convert(fitted.run, "litert-int8", data, exported_dir=tmp_path)
    assert made.test_count == fitted.report.counts["test"]


def test_fits_in_one_process_leave_no_network_and_no_graph_behind(
    backbone: str, data: Any, tmp_path: Path
) -> None:
    import keras
    from searches import graphs_alive

    def alive() -> tuple[int, int]:
        graphs = graphs_alive()  # which collects garbage first
        return sum(isinstance(each, keras.Model) for each in gc.get_objects()), graphs

    counts = []
    options = {**QUICK, "unfreeze_from": "stem"}
    for _ in range(3):
        fitted = kerastl.fit(backbone, data, runs_dir=tmp_path, export_model=False, **options)
        assert len(fitted.report.phases) == 2
        del fitted
        counts.append(alive())
    assert counts[1] == counts[2]


@pytest.mark.parametrize("weighting", ["none", "balanced"])
def test_fine_tuning_has_to_beat_the_head_phase_however_it_weighs_classes(
    weighting: str, tmp_path: Path
) -> None:
    # Fine-tuning begins with a head of a heavy penalty, and at this rate makes it better, but no better than the head phase's.
    options = {"examples_per_class": 20, "augment": "none", "finetune_epochs": 2, "runs_dir": tmp_path}
    more = {"finetune_phase.learning_rate": 1e-5, "finetune_phase.class_weights": weighting}
    fitted = kerastl.fit("digits", export_model=False, **options, **more)
    head, finetune = fitted.report.phases
    assert head.solved and fitted.report.winner == "head_phase" and finetune.best_epoch == 0
