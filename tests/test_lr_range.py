"""The learning-rate range test: it trains what a phase trains, leaves no trace, and its suggestion trains well."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import Kerastl
from test_phase import CLASSES, data, features, features_of, linear_model, phase_settings

from kerastl.errors import UserError
from kerastl.jobs.lr_range import lr_range
from kerastl.recipe import load_recipe
from kerastl.task.classification import CLASSIFICATION
from kerastl.training import lr_range as lr_range_module
from kerastl.training.batches import batches
from kerastl.training.lr_range import GeometricRate, RateRange, has_diverged, run_rate_range
from kerastl.training.optimizer import make_optimizer
from kerastl.training.phase import run_phase

# Without label smoothing no rate is too high for clouds that a line can part: the logits grow, and are right.
SMOOTHED = phase_settings(label_smoothing=0.1)
ASKED = {"low": 1e-4, "high": 100.0, "steps": 60, "seed": 0}


def model_with_state() -> keras.Model:
    """With all that a step changes: kernels, moving statistics and the seed of dropout."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8,))
    hidden = keras.layers.BatchNormalization()(
        keras.layers.Dense(6, use_bias=False, kernel_regularizer="l2")(inputs)
    )
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Dropout(0.3)(hidden))
    model = keras.Model(inputs, outputs)
    model.compile("adam", CLASSIFICATION.loss(phase_settings().label_smoothing or 0.0))
    model.train_on_batch(np.ones((4, 8), "float32"), np.eye(CLASSES, dtype="float32")[[0, 1, 2, 0]])
    return model


def state_of(model: keras.Model) -> list[bytes]:
    return [variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables]]


def draws() -> list[float]:
    """The next number of every source."""
    global_generator = tf.random.get_global_generator()
    sources = (random.random(), np.random.random(), keras.random.uniform(()), tf.random.uniform(()), global_generator.uniform(()))  # fmt: skip
    return [float(number) for number in sources]


@contextlib.contextmanager
def forgetful(model: keras.Model) -> Iterator[None]:
    """In the place of `untouched`: nothing is put back."""
    yield


def range_of(model: keras.Model, **changes: object) -> RateRange:
    return run_rate_range("head_phase", model, data(), SMOOTHED, **{**ASKED, **changes})


def test_weights_optimizer_and_random_numbers_are_what_they_were_to_the_bit() -> None:
    model = model_with_state()
    before, expected = state_of(model), None
    for test_between in (False, True):
        keras.utils.set_random_seed(11)
        draws()
        if test_between:
            found = range_of(model)
            assert len(found.rates) > 10
        now = draws()[:4]  # nobody seeds the last one, TensorFlow's global generator
        expected = expected or now
        assert now == expected
    assert state_of(model) == before


def test_a_range_test_that_does_not_restore_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with_state()
    before = state_of(model)
    monkeypatch.setattr(lr_range_module, "untouched", forgetful)
    range_of(model)
    changed = [old != new for old, new in zip(before, state_of(model), strict=True)]
    variables = [variable.path for variable in [*model.variables, *model.optimizer.variables]]
    moved = {path for path, change in zip(variables, changed, strict=True) if change}
    for part in ("kernel", "moving_mean", "seed_generator"):
        assert any(part in path for path in moved), f"the control: {part} should have moved"


def test_an_error_in_the_middle_restores_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with_state()
    before = state_of(model)

    def stopped(losses: list[float], steps: int) -> bool:
        if len(losses) == 5:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(lr_range_module, "has_diverged", stopped)
    with pytest.raises(KeyboardInterrupt):
        range_of(model)
    assert state_of(model) == before


def test_its_steps_are_those_of_keras_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With regularisation, dropout, BatchNorm, class weights, clipping and shares of the rate."""
    settings = phase_settings(
        class_weights="balanced", weight_decay=0.1, label_smoothing=0.1, mixup_alpha=0.2
    )

    def factors(variable: keras.Variable) -> float:
        return 0.1 if "kernel" in variable.path else 1.0

    base = features(120, seed=1)
    rare = dataclasses.replace(base.views, classes=np.array([0] * 90 + [1] * 24 + [2] * 6))
    phase_data, steps = data(features_of(rare, base.pooled_batch(np.arange(120), 0))), 20
    monkeypatch.setattr(lr_range_module, "untouched", forgetful)
    mine = model_with_state()
    run_rate_range(
        "head_phase", mine, phase_data, settings, low=1e-3, high=1e-1, steps=steps, seed=4, factors=factors
    )
    fitted = model_with_state()
    variables = fitted.trainable_variables
    optimizer = make_optimizer(settings, variables, [factors(v) for v in variables], 8)
    optimizer.learning_rate = GeometricRate(1e-3, 1e-1, steps)
    fitted.compile(optimizer, CLASSIFICATION.loss(settings.label_smoothing or 0.0))
    stream = batches(phase_data, dataclasses.replace(settings, epochs=3), 8, 4, fitted.input)
    fitted.fit(stream.take(steps), verbose=0)
    for one, two in zip(mine.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    other = model_with_state()
    assert any((one != two).any() for one, two in zip(mine.get_weights(), other.get_weights(), strict=True))


def test_the_suggested_rate_trains_better_than_far_smaller_and_far_larger_ones() -> None:
    found = range_of(linear_model())
    assert found.suggestion is not None and found.diverged_rate == found.rates[-1]
    best = {
        share: run_phase(
            "head_phase", linear_model(), data(), dataclasses.replace(SMOOTHED, learning_rate=share * found.suggestion, epochs=5), seed=0
        ).best["val_loss"]
        for share in (0.001, 1.0, 1000.0)
    }  # fmt: skip
    assert best[1.0] < best[0.001] and best[1.0] < best[1000.0]


def test_the_rate_grows_by_the_same_factor_from_step_to_step() -> None:
    schedule = GeometricRate(1e-4, 1.0, 5)
    assert [float(schedule(step)) for step in range(5)] == pytest.approx(
        [1e-4, 1e-3, 1e-2, 1e-1, 1.0], rel=1e-5
    )
    found = range_of(linear_model())
    ratios = np.array(found.rates[1:]) / found.rates[:-1]
    np.testing.assert_allclose(ratios, ratios[0])


def test_nothing_is_suggested_where_the_loss_does_not_diverge_or_does_so_at_once() -> None:
    calm = range_of(linear_model(), high=1e-2)
    assert calm.diverged_rate is None and calm.suggestion is None and len(calm.rates) == ASKED["steps"]
    rows = features(120, seed=1).pooled_batch(np.arange(120), 0)
    rows[:] = np.nan
    poisoned = data(features_of(features(120, seed=1).views, rows))
    at_once = run_rate_range("head_phase", linear_model(), poisoned, phase_settings(), **ASKED)
    assert at_once.diverged_rate == ASKED["low"] and at_once.suggestion is None


def test_divergence_is_far_above_the_lowest_loss_and_the_start() -> None:
    falling = list(np.linspace(2.0, 0.1, 40))
    assert not has_diverged(falling, 60)
    assert not has_diverged([*falling, *[1.0] * 10], 60), "a noisy batch late in training is no divergence"
    assert has_diverged([*falling, *[5.0] * 10], 60)
    assert has_diverged([2.0, float("nan")], 60)


QUICK = [
    "--backbone",
    "mobilenet_025",
    "--image-size",
    "32",
    "--set",
    "augment.views=1",
    "--head-epochs",
    "5",
]


def test_the_command_prints_a_table_and_leaves_plot_and_numbers(
    solid_colours: Path, tmp_path: Path, kerastl: Kerastl
) -> None:
    words = ["--data", solid_colours, *QUICK, "--unfreeze-from", "conv_pw_12_relu", "--steps", "60"]
    done = kerastl("lr-range", *words, "--phase", "finetune", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["result"]["phase"] == "finetune_phase" and answer["recipe_rate"] == 1e-3
    assert answer["result"]["suggestion"] == pytest.approx(answer["result"]["diverged_rate"] / 30, rel=0.06)
    (run,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {
        "recipe.toml", "log.txt", "lr_range.csv", "lr_range.json", "lr_range.png"
    }  # fmt: skip
    assert (run / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    rows = (run / "lr_range.csv").read_text().splitlines()
    assert rows[0] == "learning_rate,loss,smoothed_loss" and len(rows) == 1 + len(answer["result"]["rates"])


def test_head_phase_from_python_says_the_same_twice(solid_colours: Path, tmp_path: Path) -> None:
    flags = {"data.source": str(solid_colours), "backbone.name": "mobilenet_025", "backbone.image_size": 32}
    recipe = load_recipe(None, ["augment.views=1"], flags)
    one, two = (lr_range(recipe, steps=40, runs_dir=tmp_path) for _ in range(2))
    assert one.result == two.result and one.run != two.run
    assert f"suggested {one.result.suggestion:.1e}" in one.text() and "head phase: " in one.text()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"phase": "both"}, "expected one of head, finetune"),
        ({"low": 1.0, "high": 0.1}, "the lower one first"),
        ({"low": 0.0}, "rates above 0"),
        ({"steps": 1}, "at least 2"),
        ({"phase": "finetune"}, "trains nothing"),
    ],
)
def test_what_cannot_be_tested_is_said_before_anything_is_made(
    asked: dict[str, object], message: str, tmp_path: Path
) -> None:
    recipe = load_recipe("digits", ["finetune_phase.unfreeze_from=backbone"])
    with pytest.raises(UserError, match=message):
        lr_range(recipe, runs_dir=tmp_path / "runs", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()
