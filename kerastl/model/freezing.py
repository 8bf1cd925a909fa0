"""Freezing and unfreezing: the only writer of `.trainable`.

Keras freezes by layer, and a model has to be compiled again after any call here for it to take effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from kerastl.model.build import Network
from kerastl.model.cut import split_backbone
from kerastl.model.graph import trace, walk_layers

BATCHNORM_POLICIES = ("frozen", "affine", "train")


@dataclass(frozen=True, eq=False)
class Block:
    """The layers between two neighbouring unfreeze points, or the head.

    Attributes:
        name: `head`, or the unfreeze point at its lower end: thawing from there thaws this block and
            all before it in the list.
        variables: Its weights, trained or not.
    """

    name: str
    variables: tuple[keras.Variable, ...]

    @property
    def parameters(self) -> int:
        """Number of values in the variables."""
        return sum(_size(variable) for variable in self.variables)

    @property
    def trainable_parameters(self) -> int:
        """Number of those that train as things are frozen now."""
        return sum(_size(variable) for variable in self.variables if variable.trainable)


def freeze_backbone(network: Network) -> None:
    """Train the head alone: everything in the backbone is frozen, BatchNorm runs in inference mode.

    The head's standardisation is never trained, it holds what was measured.
    """
    network.model.trainable = True
    network.head.trainable = True
    network.backbone.trainable = False
    network.normalization.trainable = False


def thaw(network: Network, unfreeze_point: str, batchnorm: str = "frozen") -> None:
    """Train the head and all layers above a cut point; all below stays frozen.

    Args:
        network: From `build_model`.
        unfreeze_point: `backbone` for the head alone, a cut point, or `input` for everything.
        batchnorm: What becomes of BatchNorm above the point. `frozen`: it normalises with its moving
            statistics, and gamma and beta stay. `affine`: the same, but gamma and beta are trained.
            `train`: it normalises with the batch and everything moves. A BatchNorm that is merely called
            with `training=False` does not stay in inference mode (keras#20285), so the flag of the layer
            itself is set, and for `affine` then those of the two variables.

    Raises:
        UserError: The point is no cut point of this backbone.
    """
    if batchnorm not in BATCHNORM_POLICIES:
        raise ValueError(f"unknown BatchNorm policy {batchnorm!r}, expected one of {BATCHNORM_POLICIES}")
    above = split_backbone(network.backbone, unfreeze_point).above
    freeze_backbone(network)
    if above is None:
        return
    thawed = {id(operation) for operation in above.operations}
    network.backbone.trainable = True
    for layer in network.backbone.layers:
        if id(layer) not in thawed:
            layer.trainable = False
            continue
        layer.trainable = True
        for inner in walk_layers(layer):
            if isinstance(inner, keras.layers.BatchNormalization) and batchnorm != "train":
                _freeze_batchnorm(inner, affine=batchnorm == "affine")


def _freeze_batchnorm(layer: keras.layers.BatchNormalization, affine: bool) -> None:
    layer.trainable = False
    for variable in (layer.gamma, layer.beta):
        if affine and variable is not None:
            variable.trainable = True


def blocks(network: Network, unfreeze_point: str) -> tuple[Block, ...]:
    """The head and the segments between unfreeze points above a cut, nearest the output first.

    The place in the list is the depth: 0 for the head, 1 for the top of the backbone, and so on down to
    the cut. With `backbone` it is the head alone.

    Raises:
        UserError: The point is no cut point of this backbone.
    """
    split_backbone(network.backbone, unfreeze_point)
    head = Block("head", tuple(network.head.weights))
    points = network.spec.unfreeze_points
    segments = _segments(network.backbone, (*points[1:-1], "input"), unfreeze_point)
    return (head, *segments)


def _segments(backbone: keras.Model, points: tuple[str, ...], unfreeze_point: str) -> list[Block]:
    if unfreeze_point == "backbone":
        return []
    steps = trace(backbone)
    ends = set(points) | {unfreeze_point}
    segments: list[Block] = []
    gathered: dict[int, keras.Variable] = {}
    for step in reversed(steps):
        if step.name in ends or step is steps[0]:
            if gathered:
                name = "input" if step is steps[0] else step.name
                segments.append(Block(name, tuple(gathered.values())))
            gathered = {}
            if step.name == unfreeze_point:
                break
        if isinstance(step.operation, keras.Layer):
            gathered.update({id(variable): variable for variable in step.operation.weights})
    return segments


def depth_of(variable: object, network_blocks: tuple[Block, ...]) -> int:
    """Which block a variable belongs to, by identity: 0 for the head, 1 for the top block, ...

    Args:
        variable: A Keras variable, or the backend variable inside one, as an optimizer may hand over.
        network_blocks: From `blocks`.

    Raises:
        KeyError: It belongs to none of the blocks.
    """
    for depth, block in enumerate(network_blocks):
        for member in block.variables:
            if variable is member or variable is member.value:
                return depth
    raise KeyError(getattr(variable, "path", repr(variable)))


def _size(variable: keras.Variable) -> int:
    size = 1
    for side in variable.shape:
        size *= int(side)
    return size
