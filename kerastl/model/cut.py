"""A network in two at an unfreeze point: what runs once over all examples, and what is trained.

The parts share layers and weights with the whole. Training the suffix trains the whole model; nothing
is copied back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
from keras import ops

from kerastl.errors import UserError, nearest
from kerastl.model.applications import preprocess
from kerastl.model.build import Network, length_of
from kerastl.model.graph import alone, cut_points, inputs_like
from kerastl.model.head_input import (
    JOIN_POOLINGS,
    LAST,
    POOLINGS,
    STEP_JOIN_POOLINGS,
    STEP_POOLINGS,
    STEPS,
    HeadInput,
    join_names,
    joined,
    pool_in_all_ways,
)

# Outputs of the frozen prefix.
ACTIVATION, SEQUENCE, POOLED, JOINS, UNDER = "activation", "sequence", "pooled", "joins", "under"
# The same for a head that answers each step.
JOIN_STEPS, UNDER_STEPS = "join_steps", "under_steps"
# Those that are pooled, and kept in 32 bits: all that a head sees of an example.
VECTORS = (POOLED, JOINS, UNDER)
# Those with a row a step, where the network is told how many steps are real.
STEPPED = (ACTIVATION, SEQUENCE, JOIN_STEPS, UNDER_STEPS)
# What the suffix takes of joins at the cut or below it.
BELOW = "below"
Joins = Mapping[str, keras.KerasTensor]


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of a network below and above an unfreeze point.

    Attributes:
        unfreeze_point: Where.
        inputs: Named inputs of the prefix, those of the whole network.
        outputs: What the prefix can give, on one graph: `activation` at the point, in the dtype that the backbone
            computes in (bfloat16 under mixed_bfloat16), which is not there for `input`; `sequence`, the backbone's last
            activation; `pooled`, float32 [batch, poolings, channels], that pooled in all ways of
            `kerastl.model.head_input.POOLINGS`, or `STEP_POOLINGS` of sequences with a length, so that they serve any head;
            `joins`, float32 [batch, 2, channels], the average and the maximum of each of `join_names`, side by side; `under`, those of them that lie at the point or below it, if any
            does: these, too, stay as they are when what lies above is trained. For a head that answers each step there are `join_steps`
            and `under_steps`, [batch, steps, channels], in the stead of the pooled ones.
        suffix: `activation`, if there is one, `below`, if its head reads any join there, and the carried inputs, by name ->
            logits; what is alone comes without a name.
        carried: Names of the inputs that the suffix takes beside the activation, as they are; it computes again what
            depends on them without weights. The length of sequences is one of them at every point, as pooling takes it.
        joins: Names of those in `joins`.
        length: Name of the input that says how many steps are real, of a network of sequences; None where all are.
        under: Those of them that lie at the point or below it; what the head reads of them is the suffix's input `below`,
            float32 [batch, features].
    """

    unfreeze_point: str
    inputs: tuple[keras.KerasTensor, ...]
    outputs: Mapping[str, keras.KerasTensor]
    suffix: keras.Model
    carried: tuple[str, ...]
    joins: tuple[str, ...]
    under: tuple[str, ...]
    length: str | None = None

    @property
    def stepped(self) -> tuple[str, ...]:
        """Names of the inputs that leave open how many steps there are, of a network that is told which are real."""
        open_steps = (each for each in self.inputs if len(each.shape) > 1 and each.shape[1] is None)
        return tuple(each.name for each in open_steps) if self.length else ()

    def prefix(self, *names: str) -> keras.Model:
        """Inputs, in their order -> some of the outputs by name; what they have in common is computed once."""
        return keras.Model(alone(self.inputs), {name: self.outputs[name] for name in names}, name="prefix")


def cut(network: Network, unfreeze_point: str) -> Cut:
    """Split a network at a cut point.

    Args:
        network: From `build_model`.
        unfreeze_point: One of `network.spec.unfreeze_points`, or any other cut point of the backbone.

    Raises:
        UserError: There is no such point, or some path leads around it.
    """
    backbone, spec, reads = network.backbone, network.spec, network.reads
    names = join_names(spec)
    halves = split_backbone(backbone, unfreeze_point, names)
    # The whole network's inputs are the backbone's, in their order; their names may differ.
    places = [at for at, each in enumerate(backbone.inputs) if each.name in (*halves.carried, spec.length)]

    def above(activation: Sequence[keras.KerasTensor], carried: Sequence[keras.KerasTensor]) -> Joins:
        if halves.above is None:
            return {LAST: activation[0]}
        taken = [
            preprocess(spec, each)
            for at, each in zip(places, carried, strict=True)
            if backbone.inputs[at].name in halves.carried
        ]
        return halves.above(alone([*activation, *taken]))

    inputs = inputs_like(network.model.inputs)
    length = length_of(spec, inputs)
    found = {} if halves.below is None else halves.below(alone([preprocess(spec, each) for each in inputs]))
    activation = {ACTIVATION: found[unfreeze_point]} if found else {}
    found = {**found, **above([*activation.values()], [inputs[at] for at in places])}
    last, under = found[LAST], tuple(name for name in names if name in halves.under)
    steps = reads.pooling == STEPS
    ways, last_ways = (STEP_JOIN_POOLINGS, STEP_POOLINGS) if spec.stepped else (JOIN_POOLINGS, POOLINGS)
    joins = (
        HeadInput(STEPS).pool({name: found[name] for name in names})
        if steps
        else [pool_in_all_ways(found[name], ways, length) for name in names]
    )
    outputs = {SEQUENCE: last, JOIN_STEPS if steps else JOINS: side_by_side(joins)}
    if under:
        outputs[UNDER_STEPS if steps else UNDER] = side_by_side(joins[: len(under)])
    if not steps:
        outputs[POOLED] = pool_in_all_ways(last, last_ways, length)

    kept = reads.within(under)
    carried = inputs_like([network.model.inputs[at] for at in places])
    entries = {
        name: keras.Input(each.shape[1:], dtype=each.dtype, name=name) for name, each in activation.items()
    }
    live = above([*entries.values()], carried)
    unkept = {name: live[name] for name in reads.names if name not in kept.names}
    features = reads.pool(unkept, length_of(spec, carried))
    if kept.names:
        entries[BELOW] = keras.Input((*[None] * steps, sum(kept.widths(0))), dtype="float32", name=BELOW)
        features = [entries[BELOW], *features]
    named = entries | {each.name: each for each in carried}
    logits = network.apply_head(joined(features))
    suffix = keras.Model(named if len(named) > 1 else alone([*named.values()]), logits, name="suffix")
    return Cut(
        unfreeze_point=unfreeze_point,
        inputs=tuple(inputs),
        outputs={**activation, **outputs},
        suffix=suffix,
        carried=tuple(each.name for each in carried),
        joins=names,
        under=under,
        length=spec.length,
    )


def side_by_side(pooled: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Pooled outputs [batch, poolings, channels] of several joins as one, or their states [batch, steps, channels]."""
    return pooled[0] if len(pooled) == 1 else ops.concatenate(list(pooled), axis=2)


@dataclass(frozen=True, eq=False)
class Halves:
    """The parts of a backbone below and above a cut point, which share its layers; None for an empty part.

    Attributes:
        below: All inputs of the backbone, in their order -> by name the tensor at the point and the joins below it.
        above: The tensor at the point, if anything is below, and after it the inputs that are carried -> by name the last
            activation (`backbone`) and the joins above the point.
        carried: Names of those inputs.
        under: Names of the joins that `below` gives and `above` does not.
    """

    below: keras.Model | None
    above: keras.Model | None
    carried: tuple[str, ...] = ()
    under: frozenset[str] = frozenset()


def split_backbone(backbone: keras.Model, unfreeze_point: str, joins: Sequence[str] = ()) -> Halves:
    """Cut a backbone in two.

    Args:
        backbone: A functional model with one input or several.
        unfreeze_point: `backbone`, `input`, or one of its `kerastl.model.graph.cut_points`.
        joins: Cut points whose tensors the parts give, too.

    Raises:
        UserError: The point is no cut point of this network.
    """
    points = cut_points(backbone)
    tensors = {name: points[name].tensor for name in joins if name != LAST} | {LAST: backbone.outputs[0]}
    if unfreeze_point == LAST:
        return Halves(
            keras.Model(alone(backbone.inputs), tensors, name="below"), None, (), frozenset(joins) - {LAST}
        )
    if unfreeze_point == "input":
        whole = keras.Model(alone(backbone.inputs), tensors, name="above")
        return Halves(None, whole, tuple(each.name for each in backbone.inputs))
    if unfreeze_point not in points:
        raise UserError(
            f"Unknown unfreeze point '{unfreeze_point}' for backbone '{backbone.name}'."
            f"{nearest(unfreeze_point, points)} Expected a cut point, which every path passes: backbone, "
            f"{', '.join(reversed(points))}, input."
        )
    point, order = points[unfreeze_point], [*points]
    lower = set(order[: order.index(unfreeze_point) + 1])
    under = {name: each for name, each in tensors.items() if name in lower} | {unfreeze_point: point.tensor}
    over = {name: each for name, each in tensors.items() if name not in lower}
    below = keras.Model(alone(backbone.inputs), under, name="below")
    # Keras copies the calls between tensors within a graph, and counts inputs among these calls: without their own place in the
    # graph the whole network could not be saved any more.
    places = [each._keras_history for each in point.carried]
    above = keras.Model(alone([point.tensor, *point.carried]), over, name="above")
    for each, place in zip(point.carried, places, strict=True):
        each._keras_history = place
    return Halves(below, above, tuple(each.name for each in point.carried), frozenset(under))
