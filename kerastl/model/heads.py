"""Heads: standardisation, optional hidden layers, logits. All in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kerastl.model.graph import alone, trace
from kerastl.model.own_head import gives_logits, load_layers
from kerastl.recipe.schema import HeadRecipe

STANDARDIZE = "standardize"
# Of the mean variance: an absolute bound would silence networks whose features are small, random ones above all.
SMALLEST_VARIANCE_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Head:
    """A head's layers, which may be applied more than once and keep their weights.

    Attributes:
        layers: In order.
        model: The layers as a model on pooled features.
    """

    layers: tuple[keras.Layer, ...]
    model: keras.Model

    @property
    def normalization(self) -> keras.layers.Normalization:
        """The first layer, which standardises the features."""
        return self.layers[0]

    @property
    def logits(self) -> keras.layers.Dense:
        """The last layer."""
        return self.layers[-1]

    def apply(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Logits of pooled features."""
        for layer in self.layers:
            features = layer(features)
        return features


def make_head(
    recipe: HeadRecipe,
    feature_count: int,
    class_count: int,
    feature_mean: np.ndarray | None = None,
    feature_variance: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    seed: int = 0,
    adjustable: bool = False,
) -> Head:
    """A new head on pooled features.

    Args:
        recipe: What it is made of.
        feature_count: Length of the vector that it reads; the head computes in float32.
        class_count: Number of logits.
        feature_mean: Float [features], or None for no standardisation.
        feature_variance: Float [features], or None for no standardisation; where it is zero the feature is
            only centred.
        bias: Float [classes], logits that the head begins with; zeros without it.
        seed: Source of the hidden layers' initial weights and of dropout; the last layer's kernel begins at zero.
        adjustable: Whether `renew_head` may change dropout. A layer of ours stands in for Keras' then, which is equal to
            the bit but cannot be saved: no head is always adjustable, because saved models hold Keras' own layers alone.
    """
    if feature_mean is None or feature_variance is None:
        feature_mean, feature_variance = np.zeros(feature_count), np.ones(feature_count)
    # A feature that is constant over the training examples would be divided by almost nothing, and shout
    # over all others at the first example where it is not.
    variance = np.asarray(feature_variance, np.float64)
    feature_variance = np.where(variance > SMALLEST_VARIANCE_SHARE * variance.mean(), variance, 1.0)
    penalty = keras.regularizers.L2(recipe.l2) if recipe.l2 else None
    stack: list[keras.Layer] = [
        layers.Normalization(
            mean=np.asarray(feature_mean, "float32"),
            variance=np.asarray(feature_variance, "float32"),
            dtype="float32",
            name=STANDARDIZE,
        )
    ]
    for index, units in enumerate(recipe.hidden):
        initializer = _hidden_initializer(seed, index)
        stack.append(
            layers.Dense(
                units,
                activation="relu",
                kernel_initializer=initializer,
                kernel_regularizer=penalty,
                dtype="float32",
                name=f"hidden_{index + 1}",
            )
        )
    if adjustable and not recipe.layers:
        stack.append(AdjustableDropout(recipe.dropout, seed))
    elif recipe.dropout:
        stack.append(layers.Dropout(recipe.dropout, seed=seed, dtype="float32", name="dropout"))
    if recipe.layers:
        stack += load_layers(recipe.layers, feature_count, class_count)
    if not (recipe.layers and gives_logits(stack[-1], class_count)):
        stack.append(
            layers.Dense(
                class_count,
                # From zero, as BiT does: on standardised features random logits are noise that early stopping keeps.
                kernel_initializer="zeros",
                bias_initializer=_first_bias(bias),
                kernel_regularizer=penalty,
                dtype="float32",
                name="logits",
            )
        )
    features = keras.Input((feature_count,), dtype="float32", name="features")
    logits = features
    for layer in stack:
        logits = layer(logits)
    return Head(tuple(stack), keras.Model(features, logits, name="head"))


def divide_logits(layer: keras.layers.Dense, temperatures: np.ndarray) -> None:
    """Change a head's last layer so that each logit is divided by its class' temperature.

    The model itself is calibrated then: whatever reads or serves it needs to know nothing of temperatures.

    Args:
        layer: the head's last layer.
        temperatures: float [classes], above 0.
    """
    layer.set_weights([weights / np.asarray(temperatures, weights.dtype) for weights in layer.get_weights()])


def _first_bias(bias: np.ndarray | None) -> keras.initializers.Initializer | str:
    return "zeros" if bias is None else keras.initializers.Constant(np.asarray(bias, np.float32))


def _hidden_initializer(seed: int, index: int) -> keras.initializers.Initializer:
    return keras.initializers.HeNormal(seed=seed + 1 + index)


class AdjustableDropout(layers.Layer):
    """Keras' `Dropout`, number by number, with a rate that may change after a step was traced.

    Args:
        rate: share of the features that are dropped, from 0 to below 1.
        seed: of what is drawn.
    """

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(dtype="float32", name="dropout")
        self.seed_generator = keras.random.SeedGenerator(seed)
        # TensorFlow's own variables: Keras would count its own among the weights.
        self._rate, self._scale = (tf.Variable(0.0, trainable=False) for _ in range(2))
        self.adjust(rate, seed)

    def adjust(self, rate: float, seed: int) -> None:
        """Change the rate, and draw as if new."""
        self.rate, self.seed = rate, seed
        self._rate.assign(rate)
        self._scale.assign(1 / (1 - rate))  # in Python's precision, as Keras does
        rewind_dropout([self])

    def call(self, features: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """The features, some of them zero and the others larger."""
        if not training:
            return features
        drawn = keras.random.uniform(ops.shape(features), seed=self.seed_generator)
        return ops.where(drawn >= self._rate, features * self._scale, 0.0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the features."""
        return input_shape


def rewind_dropout(head_layers: Iterable[keras.Layer]) -> None:
    """Let dropout draw from the start again: a phase then does not depend on how much was drawn before it."""
    for layer in head_layers:
        if hasattr(layer, "seed_generator") and hasattr(layer, "seed"):
            fresh = keras.random.SeedGenerator(layer.seed)
            layer.seed_generator.state.assign(fresh.state)


def renew_head(
    head: keras.Model, recipe: HeadRecipe, class_count: int, bias: np.ndarray | None, seed: int
) -> None:
    """Let an adjustable head be as `make_head` makes it of this recipe, with this first bias and seed.

    Args:
        head: its layers are those of the recipe; the rate of dropout may be another.
        recipe: what it is made of.
        class_count: number of logits.
        bias: float [classes], logits that the head begins with; zeros without it.
        seed: of the hidden layers' initial weights and of dropout.
    """
    _, _, *stack = head.layers  # after the features and their standardisation
    own = load_layers(recipe.layers, head.input_shape[1], class_count) if recipe.layers else []
    for layer, fresh in zip(stack, own, strict=False):
        for variable, start in zip(layer.variables, fresh.variables, strict=True):
            variable.assign(start)
    dense = [layer for layer in stack[len(own) :] if isinstance(layer, layers.Dense)]
    for index, layer in enumerate(dense):
        start = keras.initializers.Zeros() if layer is dense[-1] else _hidden_initializer(seed, index)
        layer.kernel.assign(start(layer.kernel.shape, layer.kernel.dtype))
        layer.bias.assign(ops.zeros_like(layer.bias))
    if bias is not None and dense:
        dense[-1].bias.assign(bias)
    for layer in stack:
        if isinstance(layer, AdjustableDropout):
            layer.adjust(recipe.dropout, seed)


def embedding_model(model: keras.Model) -> keras.Model:
    """Decoded inputs -> what the head stands on: the pooled features of the backbone, before they are standardised.

    Args:
        model: a whole model, also a reloaded one. In one without a head of kerastl's, what its last layer takes.
    """
    # A sequential model has no graph of its own; a model around its tensors has.
    inputs = alone(model.inputs)
    steps = trace(keras.Model(inputs, model.outputs[0]))
    head = next((step for step in steps if step.name == STANDARDIZE), steps[-1])
    return keras.Model(inputs, steps[head.sources[0]].tensor, name="embedding")
