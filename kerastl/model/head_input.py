"""The input of a head: pooled outputs of joins at several depths of the backbone, of its last activation alone, or of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError, nearest
from kerastl.model.graph import cut_points
from kerastl.model.steps import FIRST_STEP, first_step, maximum_of_steps, mean_of_steps
from kerastl.recipe.schema import HeadRecipe

# Generalised-mean pooling with the exponent that Radenović, Tolias and Chum start from and end near (TPAMI 2018,
# section 3.2).
GEM_EXPONENT = 3.0
GEM_EPSILON = 1e-6
# What is stored of the last activation of every example, so that a head with another pooling needs no forward pass.
POOLINGS = ("avg", "max", "gem")
# The same of sequences, whether all their steps are real or only some.
STEP_POOLINGS = (*POOLINGS, FIRST_STEP)
# What is stored of every join. A power of each value of the wide maps below would take as long as the network itself.
JOIN_POOLINGS = POOLINGS[:2]
STEP_JOIN_POOLINGS = (*JOIN_POOLINGS, FIRST_STEP)
# No pooling: the head reads the state of each step, and answers each.
STEPS = "steps"
# Number of dimensions of an activation, the batch left out -> average and maximum over all positions.
POOLING_LAYERS = {
    2: (layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D),
    3: (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
}
# The unfreeze point that the last activation is.
LAST = "backbone"
# Neighbours in a network of a hundred blocks say much the same.
MOST_JOINS = 16


@dataclass(frozen=True)
class HeadInput:
    """Which pooled outputs a head reads, in their order from the network's input to its output.

    Attributes:
        pooling: `avg`, `max`, `avgmax` or `gem`, and of sequences `first`; `steps` leaves each step by itself.
        names: of joins; `backbone` is the last activation.
        channels: of all joins whose pooled outputs are stored together, by name, in that order; empty where the head reads
            the last activation alone, which is stored by itself.
    """

    pooling: str = "avg"
    names: tuple[str, ...] = (LAST,)
    channels: Mapping[str, int] | None = None

    def of(self, pooled: np.ndarray) -> np.ndarray:
        """Features float32 [n, features] from what is stored: [n, poolings, channels], of all joins side by side or of the last
        activation; of steps [..., features] from [..., channels].
        """
        if self.channels is None:
            return pooled_features(pooled, self.pooling)
        ends = dict(zip(self.channels, np.cumsum([*self.channels.values()]), strict=True))
        parts = [pooled[..., ends[name] - self.channels[name] : ends[name]] for name in self.names]
        return np.concatenate(
            [pooled_features(part, self.pooling, STEP_JOIN_POOLINGS) for part in parts], axis=-1
        )

    def within(self, names: Collection[str]) -> HeadInput:
        """The part of it that comes from some of the joins."""
        return HeadInput(self.pooling, tuple(name for name in self.names if name in names), self.channels)

    def widths(self, last_channels: int) -> tuple[int, ...]:
        """Lengths of its parts: one for each join and way of pooling."""
        ways = 2 if self.pooling == "avgmax" else 1
        return tuple(
            width
            for name in self.names
            for width in [last_channels if self.channels is None else self.channels[name]] * ways
        )

    def pool(
        self, activations: Mapping[str, keras.KerasTensor], length: keras.KerasTensor | None = None
    ) -> list[keras.KerasTensor]:
        """Pooled features float32 [batch, channels] of each of these joins, by the layers of Keras; of steps [batch, steps, channels].

        Args:
            activations: of the joins, by name.
            length: int32 [batch], how many of their steps are real, where they are sequences of which only some are.
        """
        if self.pooling == STEPS:
            return [layers.Activation("linear", dtype="float32")(each) for each in activations.values()]
        return [
            make_pooling(
                self.pooling,
                tuple(each.shape[1:]),
                each.dtype,
                "" if name == LAST else name,
                length is not None,
            )(each if length is None else [each, length])
            for name, each in activations.items()
        ]


def joined(features: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Several vectors of features as one, [batch, features]."""
    if len(features) == 1:
        return features[0]
    return layers.Concatenate(dtype="float32", name="features_of_joins")(list(features))


def join_names(spec: BackboneSpec) -> tuple[str, ...]:
    """The joins whose pooled outputs are stored, from input to output: ends of blocks, 16 at most, and the last activation."""
    ends = [point for point in reversed(spec.unfreeze_points) if point not in (LAST, "input")]
    if len(ends) >= MOST_JOINS:
        chosen = np.linspace(0, len(ends) - 1, MOST_JOINS - 1).round().astype(int)
        ends = [ends[at] for at in chosen]
    return (*ends, LAST)


def pooling_choices(spec: BackboneSpec) -> tuple[str, ...]:
    """The poolings that a recipe which leaves them open chooses from, the simplest one first."""
    return ("avg", "avgmax", FIRST_STEP) if spec.stepped else ("avg", "avgmax")


def head_input(
    recipe: HeadRecipe, spec: BackboneSpec, backbone: keras.Model, per_step: bool = False
) -> HeadInput:
    """The input of a recipe's head; where it is still to be chosen on the features, the last activation.

    Args:
        recipe: of the head.
        spec: which backbone it stands on.
        backbone: that network.
        per_step: whether the task answers each step.

    Raises:
        UserError: the backbone has no join of a name.
    """
    pooling = STEPS if per_step else "avg" if recipe.pooling == "auto" else recipe.pooling
    if recipe.features == "last" or pooling == "gem" or (recipe.features == "auto" and recipe.layers):
        return HeadInput(pooling)
    points, known = cut_points(backbone), join_names(spec)
    channels = {
        name: int((backbone.outputs[0] if name == LAST else points[name].tensor).shape[-1]) for name in known
    }
    if recipe.features == "auto":
        return HeadInput(pooling, (LAST,), channels)
    asked = known if recipe.features == "joins" else tuple(recipe.features.split(","))
    for name in asked:
        if name not in known:
            raise UserError(
                f"head.features = '{recipe.features}': backbone '{spec.name}' has no join '{name}' whose output is kept."
                f"{nearest(name, known)} Expected auto, last, joins, or some of {', '.join(known)}"
            )
    return HeadInput(pooling, tuple(name for name in known if name in asked), channels)


def make_pooling(
    name: str,
    activation_shape: tuple[int | None, ...],
    activation_dtype: str,
    join: str = "",
    with_length: bool = False,
) -> keras.Model:
    """Activation [batch, ..., channels] -> float32 [batch, features], without weights.

    Args:
        name: `avg`, `max`, `avgmax` (both, concatenated: twice the channels) or `gem`; of steps also `first`, the first one.
        activation_shape: Height, width, channels; steps, channels; or channels alone, where there is nothing to pool.
        activation_dtype: Type of the activations.
        join: Where they come from; part of the model's name.
        with_length: Whether the model takes a second input, int32 [batch]: how many steps of each example are real. The others are
            left out, so that an example's features do not depend on how far its batch was filled up.
    """
    activation = keras.Input(activation_shape, dtype=activation_dtype, name="activation")
    length = keras.Input((), dtype="int32", name="length") if with_length else None
    inputs = activation if length is None else [activation, length]
    pooled = _pooled(name, activation, length)
    return keras.Model(inputs, pooled, name=f"{join}_{name}_pooling".lstrip("_"))


def pool_in_all_ways(
    activation: keras.KerasTensor, poolings: Sequence[str], length: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """Activation [batch, ..., channels] -> float32 [batch, poolings, channels].

    Args:
        activation: of a join.
        poolings: in their order.
        length: int32 [batch], how many of its steps are real; all of them without it.
    """
    return ops.stack([_pooled(name, activation, length, named=False) for name in poolings], axis=1)


def _pooled(
    name: str, activation: keras.KerasTensor, length: keras.KerasTensor | None = None, named: bool = True
) -> keras.KerasTensor:
    """The output of `make_pooling`; without names of their own its layers may stand in one graph more than once."""
    average, maximum = POOLING_LAYERS.get(len(activation.shape) - 1, (layers.Identity, layers.Identity))

    def layer(kind: Callable[..., keras.Layer], called: str, *words: str) -> keras.Layer:
        return kind(*words, dtype="float32", name=called if named else None)

    # Sums over a few hundred positions lose digits in 16 bits.
    exact = layer(layers.Activation, "float32", "linear")(activation)
    if length is not None:
        return _pooled_steps(name, exact, length)
    if name == "avg":
        return layer(average, "average")(exact)
    if name == "max":
        return layer(maximum, "maximum")(exact)
    if name == "avgmax":
        both = [layer(average, "average")(exact), layer(maximum, "maximum")(exact)]
        return layer(layers.Concatenate, "avgmax")(both)
    if name == "gem":
        powers = ops.power(ops.maximum(exact, GEM_EPSILON), GEM_EXPONENT)
        return ops.power(layer(average, "average")(powers), 1.0 / GEM_EXPONENT)
    if name == FIRST_STEP and len(activation.shape) == 3:
        return first_step(exact)
    raise ValueError(f"unknown pooling {name!r}")


def _pooled_steps(name: str, states: keras.KerasTensor, length: keras.KerasTensor) -> keras.KerasTensor:
    """The same over the real steps of float32 [batch, steps, channels]."""
    if name == "avg":
        return mean_of_steps(states, length)
    if name == "max":
        return maximum_of_steps(states, length)
    if name == "avgmax":
        return ops.concatenate([mean_of_steps(states, length), maximum_of_steps(states, length)], axis=1)
    if name == "gem":
        powers = ops.power(ops.maximum(states, GEM_EPSILON), GEM_EXPONENT)
        return ops.power(mean_of_steps(powers, length), 1.0 / GEM_EXPONENT)
    if name == FIRST_STEP:
        return first_step(states)
    raise ValueError(f"unknown pooling {name!r}")


def pooled_features(pooled: np.ndarray, pooling: str, stored: Sequence[str] = STEP_POOLINGS) -> np.ndarray:
    """The output of a pooling layer of that name, from stored ones.

    Args:
        pooled: float32 [batch, poolings, channels], as `pool_in_all_ways` makes them.
        pooling: `avg`, `max`, `avgmax`, `gem` or `first`.
        stored: which poolings there are, in their order, `avg` and `max` first; of networks without steps the last one is not there.

    Returns:
        float32 [batch, features].
    """
    if pooling == STEPS:
        return pooled.astype(np.float32, copy=False)
    if pooling == "avgmax":
        return np.ascontiguousarray(pooled[:, :2]).reshape(len(pooled), -1)
    return np.ascontiguousarray(pooled[:, stored.index(pooling)])
