"""A network in two at an unfreeze point: what runs once over all images, and what is trained.

The parts share layers and weights with the whole. Training the suffix trains the whole model; nothing
is copied back.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from kerastl.errors import UserError, nearest
from kerastl.model.build import Network, preprocess
from kerastl.model.graph import cut_points
from kerastl.model.heads import pool_in_all_ways


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of a network below and above an unfreeze point.

    `pixels` are float32 [batch, side, side, 3] RGB 0..255. The activation has the dtype that the backbone
    computes in (bfloat16 under mixed_bfloat16). For `input` it is the pixels themselves, and
    preprocessing then belongs to the suffix.

    Attributes:
        unfreeze_point: Where.
        prefix: Pixels -> activation at the point.
        suffix: Activation -> logits.
        pooled: Pixels -> float32 [batch, poolings, channels], the last activation pooled in all ways of
            `kerastl.model.heads.POOLINGS`, so that they serve any head.
        both: Pixels -> (activation, what `pooled` gives), computing each once.
    """

    unfreeze_point: str
    prefix: keras.Model
    suffix: keras.Model
    pooled: keras.Model
    both: keras.Model


def cut(network: Network, unfreeze_point: str) -> Cut:
    """Split a network at a cut point.

    Args:
        network: From `build_model`.
        unfreeze_point: One of `network.spec.unfreeze_points`, or any other cut point of the backbone that carries no input.

    Raises:
        UserError: There is no such point, or some path leads around it.
    """
    halves = split_backbone(network.backbone, unfreeze_point)
    if halves.carried:
        raise UserError(
            f"finetune_phase.unfreeze_from = '{unfreeze_point}': what is above it takes the pixels as well, and only its "
            "activation is kept. Expected a point that every path from the input passes, such as backbone or input."
        )
    below, above = halves.below, halves.above
    pixels = keras.Input(network.model.inputs[0].shape[1:], dtype="float32", name="pixels")
    if below is None:
        activation = keras.layers.Identity(dtype="float32", name="pixels_themselves")(pixels)
    elif below is network.backbone:
        activation = network.backbone(preprocess(network.spec, pixels))
    else:
        activation = below(preprocess(network.spec, pixels))
    prefix = keras.Model(pixels, activation, name="prefix")

    entry = keras.Input(prefix.outputs[0].shape[1:], dtype=prefix.outputs[0].dtype, name="entry")
    if below is None:
        last = network.backbone(preprocess(network.spec, entry))
    else:
        last = entry if above is None else above(entry)
    features = network.pooling(last)
    all_pooled = keras.Model(entry, pool_in_all_ways(last), name="all_pooled")
    suffix = keras.Model(entry, network.head(features), name="suffix")

    pixels = keras.Input(network.model.inputs[0].shape[1:], dtype="float32", name="pixels")
    activation = prefix(pixels)
    pooled_features = all_pooled(activation)
    return Cut(
        unfreeze_point=unfreeze_point,
        prefix=prefix,
        suffix=suffix,
        pooled=keras.Model(pixels, pooled_features, name="pooled"),
        both=keras.Model(pixels, [activation, pooled_features], name="both"),
    )


@dataclass(frozen=True, eq=False)
class Halves:
    """The parts of a backbone below and above a cut point, which share its layers; None for an empty part.

    Attributes:
        below: All inputs of the backbone, in their order -> the tensor at the point.
        above: That tensor, and after it the inputs that are carried -> last activation.
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
        return Halves(None, backbone)
    points = cut_points(backbone)
    if unfreeze_point not in points:
        raise UserError(
            f"Unknown unfreeze point '{unfreeze_point}' for backbone '{backbone.name}'."
            f"{nearest(unfreeze_point, points)} Expected a cut point, which every path passes: backbone, "
            f"{', '.join(reversed(points))}, input."
        )
    point = points[unfreeze_point]
    below = keras.Model(_alone(backbone.inputs), point.tensor, name="below")
    above = keras.Model(_alone([point.tensor, *point.carried]), backbone.outputs[0], name="above")
    return Halves(below, above, tuple(each.name for each in point.carried))


def _alone(tensors: list[keras.KerasTensor]) -> keras.KerasTensor | list[keras.KerasTensor]:
    """The only tensor by itself, so that a model takes it without a list; several as they are."""
    return tensors[0] if len(tensors) == 1 else tensors
