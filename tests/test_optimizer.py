"""Learning rates over time and from block to block."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest

from kerastl.recipe import FinetunePhaseRecipe
from kerastl.training.optimizer import WarmupCosine, make_optimizer

SETTINGS = FinetunePhaseRecipe(
    epochs=10,
    batch_size=4,
    learning_rate=0.1,
    weight_decay=0.0,
    warmup_epochs=1.0,
    label_smoothing=0.0,
    gradient_clip_norm=0.0,
)


def settings(**changes: object) -> FinetunePhaseRecipe:
    import dataclasses

    return dataclasses.replace(SETTINGS, **changes)


def test_rate_grows_to_its_peak_and_falls_to_zero() -> None:
    schedule = WarmupCosine(0.2, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in range(111)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[9] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(0.2)
    assert rates[60] == pytest.approx(0.1, rel=1e-3)
    assert rates[110] == pytest.approx(0.0, abs=1e-7)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(rates[10:]))


def step_of(optimizer: keras.optimizers.Optimizer, variables: list, gradient: float) -> list[np.ndarray]:
    before = [variable.numpy().copy() for variable in variables]
    optimizer.build(variables)
    gradients = [keras.ops.full(variable.shape, gradient) for variable in variables]
    optimizer.apply(gradients, variables)
    return [variable.numpy() - old for variable, old in zip(variables, before, strict=True)]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_variable_moves_by_its_share_of_the_rate(name: str) -> None:
    variables = [keras.Variable(np.ones((3, 2), np.float32)) for _ in range(3)]
    optimizer = make_optimizer(settings(optimizer=name), variables, [1.0, 0.5, 0.0], steps_per_epoch=10)
    full, half, none = step_of(optimizer, variables, 0.3)
    assert np.abs(full).min() > 0
    np.testing.assert_allclose(half, 0.5 * full, rtol=1e-5)
    np.testing.assert_array_equal(none, 0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_biases_and_norms_and_follows_the_variables_own_rate(name: str) -> None:
    kernel, lower_kernel = (keras.Variable(np.ones((3, 2), np.float32)) for _ in range(2))
    bias = keras.Variable(np.ones(4, np.float32))
    variables = [kernel, lower_kernel, bias]
    changed = settings(optimizer=name, weight_decay=0.1)
    optimizer = make_optimizer(changed, variables, [1.0, 0.5, 1.0], steps_per_epoch=1)
    moved, lower_moved, bias_moved = step_of(optimizer, variables, 0.0)
    rate = float(optimizer.learning_rate)
    np.testing.assert_allclose(moved, -0.1 * SETTINGS.learning_rate, rtol=1e-4)  # type: ignore[operator]
    np.testing.assert_allclose(lower_moved, 0.5 * moved, rtol=1e-4)
    np.testing.assert_array_equal(bias_moved, 0.0)
    assert rate > 0


def test_gradients_are_clipped_by_their_global_norm() -> None:
    variables = [keras.Variable(np.zeros((100, 100), np.float32))]
    free = make_optimizer(settings(optimizer="sgd"), variables, [1.0], 1)
    clipped = make_optimizer(settings(optimizer="sgd", gradient_clip_norm=1.0), variables, [1.0], 1)
    (far,) = step_of(free, variables, 1.0)
    (near,) = step_of(clipped, variables, 1.0)
    assert np.linalg.norm(far) == pytest.approx(100 * np.linalg.norm(near), rel=1e-3)


@pytest.mark.parametrize("graph", [False, True])
def test_the_fused_kernel_steps_as_keras_adamw_does(graph: bool) -> None:
    import tensorflow as tf

    generator = np.random.default_rng(0)
    start = [generator.normal(size=shape).astype(np.float32) for shape in ((4, 3), (5,))]
    gradients = [[generator.normal(size=one.shape).astype(np.float32) for one in start] for _ in range(6)]

    def ends(make: Callable[[list[keras.Variable]], keras.optimizers.Optimizer]) -> list[np.ndarray]:
        variables = [keras.Variable(one) for one in start]
        optimizer = make(variables)
        optimizer.build(variables)
        apply = lambda *step: optimizer.apply(list(step), variables)  # noqa: E731
        run = tf.function(apply) if graph else apply
        for step in gradients:
            run(*map(tf.constant, step))
        return [variable.numpy() for variable in variables]

    def theirs(variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
        optimizer = keras.optimizers.AdamW(WarmupCosine(0.01, 2, 10), weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_list=variables[1:])
        return optimizer

    changed = settings(learning_rate=0.01, weight_decay=0.1, warmup_epochs=1.0, epochs=5)
    ours = ends(lambda variables: make_optimizer(changed, variables, [1.0, 1.0], 2))
    for one, other in zip(ours, ends(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # the control: another share of the rate is seen
    other = ends(lambda variables: make_optimizer(changed, variables, [0.9, 0.9], 2))
    assert np.abs(ours[0] - other[0]).max() > 1e-3
