"""Pooling, standardisation and the layers that are trained first."""

import keras
import numpy as np
import pytest

from kerastl.model.head_input import make_pooling
from kerastl.model.heads import AdjustableDropout, make_head, renew_head, rewind_dropout
from kerastl.recipe.schema import HeadRecipe
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL

SHAPE = (3, 4, 6)
ACTIVATION = np.random.default_rng(1).gamma(1.0, 2.0, (5, *SHAPE)).astype("float32")
EXPECTED = {
    "avg": ACTIVATION.mean((1, 2)),
    "max": ACTIVATION.max((1, 2)),
    "avgmax": np.concatenate([ACTIVATION.mean((1, 2)), ACTIVATION.max((1, 2))], axis=1),
    "gem": (np.maximum(ACTIVATION, 1e-6).astype("float64") ** 3).mean((1, 2)) ** (1 / 3),
}


def head_of(recipe=None, **options):
    return make_head(recipe or HeadRecipe(), SHAPE[-1], 3, **options)


@pytest.mark.parametrize("name", EXPECTED)
def test_pooling(name):
    pooled = make_pooling(name, SHAPE, "float32")(ACTIVATION)
    np.testing.assert_allclose(pooled, EXPECTED[name], rtol=1e-5)


def test_gem_lies_between_mean_and_maximum_and_bears_negative_activations():
    pooled = keras.ops.convert_to_numpy(make_pooling("gem", SHAPE, "float32")(ACTIVATION))
    assert np.all(EXPECTED["avg"] < pooled) and np.all(pooled < EXPECTED["max"])
    assert np.all(np.isfinite(make_pooling("gem", SHAPE, "float32")(-ACTIVATION)))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'median'"):
        make_pooling("median", SHAPE, "float32")


def test_pooling_of_16_bits_is_exact():
    coarse = keras.ops.cast(ACTIVATION, "bfloat16")
    exact = keras.ops.convert_to_numpy(keras.ops.cast(coarse, "float32")).mean((1, 2))
    pooled = make_pooling("avg", SHAPE, "bfloat16")(coarse)
    np.testing.assert_allclose(pooled, exact, rtol=1e-6)


def test_features_are_standardised():
    features = np.random.default_rng(2).normal(3, 5, (1000, 6)).astype("float32")
    head = head_of(feature_mean=features.mean(0), feature_variance=features.var(0))
    standard = keras.ops.convert_to_numpy(head.normalization(features))
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-4)


def test_without_statistics_features_pass_unchanged():
    features = np.random.default_rng(2).normal(3, 5, (10, 6)).astype("float32")
    np.testing.assert_array_equal(head_of().normalization(features), features)


def test_a_feature_that_never_varied_is_not_blown_up():
    head = head_of(feature_mean=np.zeros(6), feature_variance=np.zeros(6))
    assert np.abs(head.normalization(np.full((1, 6), 0.5, "float32"))).max() == 0.5


def test_small_features_are_standardised_as_well_and_constant_ones_among_them_are_not():
    features = np.random.default_rng(2).normal(3, 5, (1000, 6)) * 1e-6
    features[:, 3] = features[0, 3]
    head = head_of(feature_mean=features.mean(0), feature_variance=features.var(0))
    standard = keras.ops.convert_to_numpy(head.normalization(features.astype("float32")))
    np.testing.assert_allclose(standard.std(0)[[0, 1, 2, 4, 5]], 1, atol=1e-3)
    assert np.abs(standard[:, 3]).max() < 1e-4


def test_layers_follow_the_recipe():
    head = head_of(HeadRecipe(hidden=(8, 4), dropout=0.3, l2=0.01))
    names = [layer.name for layer in head.layers]
    assert names == ["standardize", "hidden_1", "hidden_2", "dropout", "logits"]
    assert [tuple(v.shape) for v in head.model.trainable_variables] == [
        (6, 8), (8,), (8, 4), (4,), (4, 3), (3,)
    ]  # fmt: skip
    kernels = sum(np.sum(np.square(v)) for v in head.model.trainable_variables if v.name == "kernel")
    np.testing.assert_allclose(sum(head.model.losses), 0.01 * kernels, rtol=1e-5)
    assert [layer.name for layer in head_of().layers] == ["standardize", "logits"]


def test_the_seed_alone_decides_the_initial_weights():
    recipe = HeadRecipe(hidden=(8, 8))
    first, same, other = (head_of(recipe, seed=seed).model.get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_a_head_begins_with_the_constant_guess():
    counts = np.array([90, 9, 0])
    head = head_of(HeadRecipe(hidden=(5,)), bias=CLASSIFICATION.first_bias(counts, 99))
    said = keras.ops.convert_to_numpy(keras.ops.softmax(head.model(np.ones((2, 6), "float32"))))
    np.testing.assert_allclose(said, [[91 / 102, 10 / 102, 1 / 102]] * 2, rtol=1e-5)
    odds = keras.ops.convert_to_numpy(keras.ops.sigmoid(MULTI_LABEL.first_bias(np.array([0, 5, 10]), 10)))
    np.testing.assert_allclose(odds, [1 / 12, 6 / 12, 11 / 12], rtol=1e-5)
    assert not CLASSIFICATION.first_bias(np.array([7, 7, 7]), 21).any(), "balanced classes begin from zero"


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("graph", [False, True])
def test_adjustable_dropout_is_keras_dropout_to_the_bit(rate, graph):
    import tensorflow as tf

    features = np.random.default_rng(0).normal(size=(16, 40)).astype("float32")
    theirs, ours = keras.layers.Dropout(rate, seed=5), AdjustableDropout(0.9, 4)

    def answers(layer):
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                dropped = layer(x, training=True)
                total = tf.reduce_sum(dropped * x)
            return dropped, tape.gradient(total, x)

        return tf.function(step) if graph else step

    run = answers(ours)
    run(tf.constant(features))  # traced with another rate
    ours.adjust(rate, 5)
    expected = answers(theirs)
    for _ in range(3):
        for one, other in zip(run(tf.constant(features)), expected(tf.constant(features)), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ours(features, training=False), features)
    if rate:
        again = run(tf.constant(features))[0].numpy()
        rewind_dropout([ours])
        assert (run(tf.constant(features))[0].numpy() != again).any()


def test_a_renewed_head_is_a_new_one():
    recipe, other = HeadRecipe(hidden=(5, 4), dropout=0.2), HeadRecipe(hidden=(5, 4), dropout=0.6)
    used = head_of(other, seed=1, adjustable=True)
    used.model.set_weights([weights + 1 for weights in used.model.get_weights()])
    used.model(np.ones((2, 6), "float32"), training=True)
    bias = np.array([0.5, -1.0, 2.0], "float32")
    renew_head(used.model, recipe, 3, bias, 7)
    new = head_of(recipe, seed=7, bias=bias, adjustable=True)
    plain = head_of(recipe, seed=7, bias=bias)
    for one, two, three in zip(
        used.model.get_weights(), new.model.get_weights(), plain.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    inputs = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    for head in (used, new, plain):
        head.logits.kernel.assign(np.ones(head.logits.kernel.shape))
    said = [keras.ops.convert_to_numpy(head.model(inputs, training=True)) for head in (used, new, plain)]
    np.testing.assert_array_equal(said[0], said[1])
    np.testing.assert_array_equal(said[0], said[2])
