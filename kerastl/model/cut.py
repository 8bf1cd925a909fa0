"""A network in two at an unfreeze point: what runs once over all examples, and what is trained.

The parts share layers and weights with the whole. Training the suffix trains the whole model; nothing
is copied back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras

from kerastl.errors import UserError, nearest
from kerastl.model.applications import preprocess
from kerastl.model.build import Network
from kerastl.model.graph import alone, cut_points, inputs_like
from kerastl.model.heads import pool_in_all_ways

# Outputs of the frozen prefix.
ACTIVATION, SEQUENCE, POOLED = "activation", "sequence", "pooled"


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of a network below and above an unfreeze point.

    Attributes:
        unfreeze_point: Where.
        inputs: Named inputs of the prefix, those of the whole network.
        outputs: What the prefix can give, on one graph: `activation` at the point, in the dtype that the backbone
            computes in (bfloat16 under mixed_bfloat16), which is not there for `input`; `sequence`, the backbone's last
            activation; `pooled`, float32 [batch, poolings, channels], that pooled in all ways of
            `kerastl.model.heads.POOLINGS`, so that they serve any head.
        suffix: `activation`, if there is one, and the carried inputs, by name -> logits; what is alone comes without a name.
        carried: Names of the inputs that the suffix takes beside the activation, as they are; it computes again what
            depends on them without weights.
    """

    unfreeze_point: str
    inputs: tuple[keras.KerasTensor, ...]
    outputs: Mapping[str, keras.KerasTensor]
    suffix: keras.Model
    carried: tuple[str, ...]

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
    backbone, spec = network.backbone, network.spec
    halves = split_backbone(backbone, unfreeze_point)
    # The whole network's inputs are the backbone's, in their order; their names may differ.
    taken = [at for at, each in enumerate(backbone.inputs) if each.name in halves.carried]

    def below(inputs: Sequence[keras.KerasTensor]) -> dict[str, keras.KerasTensor]:
        if halves.below is None:
            return {}
        return {ACTIVATION: halves.below(alone([preprocess(spec, each) for each in inputs]))}

    def above(
        activation: Mapping[str, keras.KerasTensor], carried: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        if halves.above is None:
            return activation[ACTIVATION]
        return halves.above(alone([*activation.values(), *(preprocess(spec, each) for each in carried)]))

    inputs = inputs_like(network.model.inputs)
    outputs = below(inputs)
    last = above(outputs, [inputs[at] for at in taken])

    carried = inputs_like([network.model.inputs[at] for at in taken])
    entries = {
        name: keras.Input(each.shape[1:], dtype=each.dtype, name=name) for name, each in outputs.items()
    }
    logits = network.head(network.pooling(above(entries, carried)))
    named = entries | {each.name: each for each in carried}
    suffix = keras.Model(named if len(named) > 1 else alone([*named.values()]), logits, name="suffix")
    return Cut(
        unfreeze_point=unfreeze_point,
        inputs=tuple(inputs),
        outputs={**outputs, SEQUENCE: last, POOLED: pool_in_all_ways(last)},
        suffix=suffix,
        carried=tuple(each.name for each in carried),
    )


@dataclass(frozen=True, eq=False)
class Halves:
    """The parts of a backbone below and above a cut point, which share its layers; None for an empty part.

    Attributes:
        below: All inputs of the backbone, in their order -> the tensor at the point.
        above: That tensor, if anything is below, and after it the inputs that are carried -> last activation.
        carried: Names of those inputs.
    """

    below: keras.Model | None
    above: keras.Model | None
    carried: tuple[str, ...] = ()


def split_backbone(backbone: keras.Model, unfreeze_point: str) -> Halves:
    """Cut a backbone in two.

    Args:
        backbone: A functional model with one input or several.
        unfreeze_point: `backbone`, `input`, or one of its `kerastl.model.graph.cut_points`.

    Raises:
        UserError: The point is no cut point of this network.
    """
    if unfreeze_point == "backbone":
        return Halves(backbone, None)
    if unfreeze_point == "input":
        return Halves(None, backbone, tuple(each.name for each in backbone.inputs))
    points = cut_points(backbone)
    if unfreeze_point not in points:
        raise UserError(
            f"Unknown unfreeze point '{unfreeze_point}' for backbone '{backbone.name}'."
            f"{nearest(unfreeze_point, points)} Expected a cut point, which every path passes: backbone, "
            f"{', '.join(reversed(points))}, input."
        )
    point = points[unfreeze_point]
    below = keras.Model(alone(backbone.inputs), point.tensor, name="below")
    above = keras.Model(alone([point.tensor, *point.carried]), backbone.outputs[0], name="above")
    return Halves(below, above, tuple(each.name for each in point.carried))
