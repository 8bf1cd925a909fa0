"""Where a network can be cut in two: the tensors that every path from its input to its output passes.

Found on the graph itself, in one linear pass. Layer counts and name prefixes are not used: most layers
of InceptionV3, Xception, NASNet and ConvNeXt are named by a counter of the process, and differ from one
build to the next. Such layers get the name here that they would have in a network built alone, `add_3`
for the fourth unnamed `Add`; the network itself is not renamed.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
from keras import layers

NORMALIZATIONS = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
GLOBAL_POOLINGS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a network's graph with the tensor it makes.

    Attributes:
        name: The operation's name; for unnamed layers the one it has in every build of this network.
        operation: The Keras layer or operation.
        tensor: Its output, with the batch dimension.
        sources: Positions of the steps whose outputs it takes.
    """

    name: str
    operation: keras.Operation
    tensor: keras.KerasTensor
    sources: tuple[int, ...]

    @property
    def area(self) -> int:
        """Positions of the output: height x width, or 1 for a vector."""
        return int(self.tensor.shape[1]) * int(self.tensor.shape[2]) if len(self.tensor.shape) == 4 else 1


def walk_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """`layer` and all layers in it, however deeply nested, each once."""
    yield from layer._flatten_layers(include_self=True, recursive=True)


def trace(backbone: keras.Model) -> tuple[Step, ...]:
    """The operations of a network with one input and one output, each after those it takes from.

    Args:
        backbone: A functional model. Operations with several outputs are not expected in it.
    """
    order: list[keras.KerasTensor] = []
    position: dict[int, int] = {}
    pending: list[tuple[keras.KerasTensor, bool]] = [(backbone.outputs[0], False)]
    while pending:
        tensor, ready = pending.pop()
        if id(tensor) in position:
            continue
        if ready:
            position[id(tensor)] = len(order)
            order.append(tensor)
        else:
            pending.append((tensor, True))
            pending.extend((source, False) for source in reversed(_sources(tensor)))
    names = _stable_names(backbone)
    return tuple(
        Step(
            names[id(tensor._keras_history.operation)],
            tensor._keras_history.operation,
            tensor,
            tuple(position[id(source)] for source in _sources(tensor)),
        )
        for tensor in order
    )


def find_joins(backbone: keras.Model) -> tuple[str, ...]:
    """Names of all tensors that every path through the network passes, from input to output.

    In a topological order an edge that jumps over a tensor is a path around it, and every path around it
    has such an edge. So a tensor is a join exactly when nothing before it is used after it: one pass with
    the furthest use so far. An operation that is used twice (shared weights) is a use of its first place
    by its last, since cutting between them would put its weights on both sides.
    """
    steps = trace(backbone)
    return tuple(steps[index].name for index in _join_positions(steps))


def join_tensors(backbone: keras.Model) -> dict[str, keras.KerasTensor]:
    """The tensor of each join in the network's own graph, by the names of `find_joins`."""
    steps = trace(backbone)
    return {steps[index].name: steps[index].tensor for index in _join_positions(steps)}


def unfreeze_points(backbone: keras.Model) -> tuple[str, ...]:
    """The joins worth unfreezing from: `backbone`, those from the output down, `input`.

    Chosen are ends of blocks: merges (sums, concatenations), tensors that branch, poolings, and linear
    bottlenecks (normalised but not activated, MobileNetV2 and its descendants). Squeeze-and-excitation
    gates are no blocks. In a chain without any of these (MobileNet) the activations after each
    convolution that mixes channels are taken. Of joins with the same weights above them, BatchNorm's
    left out since they may be frozen, only the one nearest the output stays: less is computed above it.
    """
    steps = trace(backbone)
    uses = _uses(steps)
    joins = _join_positions(steps)[1:]
    chosen = [index for index in joins if _ends_block(steps, uses, index)]
    if not chosen:
        chosen = [index for index in joins if _activates_mixing(steps, index)]
    points = ["backbone"]
    total = _parameters_after(steps, 0)
    last = 0
    for index in reversed(chosen):
        above = _parameters_after(steps, index)
        if last < above < total:
            points.append(steps[index].name)
            last = above
    return (*points, "input")


def trained_parameters(backbone: keras.Model, points: Sequence[str]) -> tuple[int, ...]:
    """How many weights, BatchNorm's left out, train when a network is thawed from each of the points."""
    steps = trace(backbone)
    index_of = {step.name: index for index, step in enumerate(steps)}
    ends = {"backbone": len(steps) - 1, "input": 0}
    return tuple(
        _parameters_after(steps, ends[point] if point in ends else index_of[point]) for point in points
    )


def _sources(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    operation, node_index, _ = tensor._keras_history
    return list(operation._inbound_nodes[node_index].input_tensors)


def _stable_names(backbone: keras.Model) -> dict[int, str]:
    counts: Counter[str] = Counter()
    names = {}
    for operation in backbone.operations:
        kind = re.sub(r"_\d+$", "", operation.name)
        if kind.replace("_", "") == type(operation).__name__.lower():
            names[id(operation)] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        else:
            names[id(operation)] = operation.name
    return names


def _uses(steps: tuple[Step, ...]) -> dict[int, list[int]]:
    uses: dict[int, list[int]] = defaultdict(list)
    for index, step in enumerate(steps):
        for source in step.sources:
            uses[source].append(index)
    return uses


def _join_positions(steps: tuple[Step, ...]) -> list[int]:
    uses = _uses(steps)
    last_place: dict[int, int] = {id(step.operation): index for index, step in enumerate(steps)}
    joins = []
    furthest = 0
    for index, step in enumerate(steps):
        furthest = max(furthest, last_place[id(step.operation)])
        if furthest <= index:
            joins.append(index)
        furthest = max(furthest, *uses[index], 0)
    return joins


def _ends_block(steps: tuple[Step, ...], uses: dict[int, list[int]], index: int) -> bool:
    step = steps[index]
    users = [steps[use].operation for use in uses[index]]
    sources = [steps[source] for source in step.sources]
    if any(isinstance(user, GLOBAL_POOLINGS) for user in users):
        return False
    # By what it takes, since ConvNeXt adds with an operator and InceptionResNetV2 with a layer of its own.
    merges = len(sources) > 1 and not isinstance(step.operation, layers.Multiply)
    if merges or len(users) > 1:
        return True
    if _parameters(step) == 0 and sources and step.area < sources[0].area:
        return True
    linear = isinstance(step.operation, layers.BatchNormalization)
    return linear and not any(isinstance(user, NORMALIZATIONS + ACTIVATIONS) for user in users)


def _activates_mixing(steps: tuple[Step, ...], index: int) -> bool:
    if not isinstance(steps[index].operation, ACTIVATIONS):
        return False
    while steps[index].sources and not isinstance(steps[index].operation, layers.Conv2D):
        if isinstance(steps[index].operation, layers.DepthwiseConv2D):
            return False
        index = steps[index].sources[0]
    return bool(steps[index].sources)


def _parameters(step: Step) -> int:
    return step.operation.count_params() if isinstance(step.operation, keras.Layer) else 0


def _parameters_after(steps: tuple[Step, ...], index: int) -> int:
    operations = {id(step.operation): step for step in steps[index + 1 :]}
    return sum(_trainable_parameters(step) for step in operations.values())


def _trainable_parameters(step: Step) -> int:
    # What trains under every BatchNorm policy, whatever is frozen at the moment.
    if not isinstance(step.operation, keras.Layer):
        return 0
    return sum(
        math.prod(variable.shape)
        for layer in walk_layers(step.operation)
        if not isinstance(layer, layers.BatchNormalization)
        for variable in layer._trainable_variables
    )
