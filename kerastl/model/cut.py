"""A network in two at an unfreeze point: what runs once over all images, and what is trained.

The parts share layers and weights with the whole. Training the suffix trains the whole model; nothing
is copied back.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from kerastl.errors import UserError, nearest
from kerastl.model.build import Network, preprocess
from kerastl.model.heads import pool_in_all_ways
from kerastl.model.joins import join_tensors


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
    """Split a network at a join.

    Args:
        network: From `build_model`.
        unfreeze_point: One of `network.spec.unfreeze_points`, or any other join of the backbone.

    Raises:
        UserError: There is no such point, or some path leads around it.
    """
    below, above = split_backbone(network.backbone, unfreeze_point)
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


def split_backbone(
    backbone: keras.Model, unfreeze_point: str
) -> tuple[keras.Model | None, keras.Model | None]:
    """The parts of a backbone below and above a join, sharing its layers; None for an empty part.

    Raises:
        UserError: The point is no join of this network.
    """
    if unfreeze_point == "backbone":
        return backbone, None
    if unfreeze_point == "input":
        return None, backbone
    tensors = join_tensors(backbone)
    if unfreeze_point not in tensors:
        raise UserError(
            f"Unknown unfreeze point '{unfreeze_point}' for backbone '{backbone.name}'."
            f"{nearest(unfreeze_point, tensors)} Expected a join that every path passes: backbone, "
            f"{', '.join(reversed(tensors))}, input."
        )
    tensor = tensors[unfreeze_point]
    below = keras.Model(backbone.inputs[0], tensor, name="below")
    above = keras.Model(tensor, backbone.outputs[0], name="above")
    return below, above
