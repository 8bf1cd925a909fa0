"""The graph of a network: its operations in order, and the tensors at which it can be cut in two.

Cut points are found on the graph itself, in one linear pass. Layer counts and name prefixes are not used: most layers
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
from typing import Any

import keras
from keras import layers

NORMALIZATIONS = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
GLOBAL_POOLINGS = (
    *(layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D),
    *(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
)


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
    """The operations between a network's inputs and its first output, each after those it takes from.

    Args:
        backbone: A functional model with one input or several.
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


@dataclass(frozen=True, eq=False)
class CutPoint:
    """A tensor between whose two sides a network can be cut.

    Attributes:
        tensor: In the network's own graph.
        carried: Inputs that the part above takes as well, since they reach it without weights on the way: a padding
            mask that every block of a transformer takes, a length.
    """

    tensor: keras.KerasTensor
    carried: tuple[keras.KerasTensor, ...]


def cut_points(backbone: keras.Model) -> dict[str, CutPoint]:
    """All tensors that everything with weights below reaches the output through, by name, from input to output.

    In a topological order an edge that jumps over a tensor is a path around it, and every path around it
    has such an edge. So a tensor is a cut point exactly when nothing before it is used after it: one pass with
    the furthest use so far. An operation that is used twice (shared weights) is a use of its first place
    by its last, since cutting between them would put its weights on both sides. With several inputs none of them, nor
    what is computed from them without weights, is a cut point; one input alone is the first.

    What is computed from inputs without weights is no path around: the part above computes it again, to the same bits,
    from the inputs that it carries. An operation with weights on nothing but that (an embedding) stays below every cut
    point. Between layers that hand a mask on beside their output (Embedding with `mask_zero`, Masking) there is none:
    it would be lost in a cut.
    """
    steps = trace(backbone)
    return {
        steps[index].name: CutPoint(steps[index].tensor, _carried(steps, index))
        for index in _cut_positions(steps)
    }


def unfreeze_points(backbone: keras.Model) -> tuple[str, ...]:
    """The cut points worth unfreezing from: `backbone`, those from the output down, `input`.

    Chosen are ends of blocks: merges (sums, concatenations), tensors that branch, poolings, layers of others than Keras that are
    made of layers themselves, and linear bottlenecks (normalised but not activated, MobileNetV2 and its descendants). Squeeze-and-excitation
    gates are no blocks. In a chain without any of these (MobileNet) the activations after each
    convolution that mixes channels are taken. Of cut points with the same weights above them, BatchNorm's
    left out since they may be frozen, only the one nearest the output stays: less is computed above it.

    Args:
        backbone: A functional model with one input or several.
    """
    steps = trace(backbone)
    uses = _uses(steps)
    inside = [index for index in _cut_positions(steps) if steps[index].sources]
    chosen = [index for index in inside if _ends_block(steps, uses, index)]
    if not chosen:
        chosen = [index for index in inside if _activates_mixing(steps, index)]
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
    """Number of weights, BatchNorm's left out, that train when a network is unfrozen from each of the points."""
    steps = trace(backbone)
    index_of = {step.name: index for index, step in enumerate(steps)}
    ends = {"backbone": len(steps) - 1, "input": 0}
    return tuple(
        _parameters_after(steps, ends[point] if point in ends else index_of[point]) for point in points
    )


def inputs_like(tensors: Sequence[keras.KerasTensor], name: str | None = None) -> list[keras.KerasTensor]:
    """New inputs of the shapes, dtypes and names of other ones, or of one name."""
    return [keras.Input(each.shape[1:], dtype=each.dtype, name=name or each.name) for each in tensors]


def alone(tensors: Sequence[Any]) -> Any:
    """The only tensor by itself, as Keras calls a model of one input; several as a list."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


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


def _weightless(steps: tuple[Step, ...]) -> list[bool]:
    """Of each step, whether it is an input or computed from inputs without weights (or random state) on the way."""
    found: list[bool] = []
    for step in steps:
        own = isinstance(step.operation, keras.Layer) and bool(step.operation.variables)
        found.append(not own and all(found[source] for source in step.sources))
    return found


def _masked(steps: tuple[Step, ...]) -> list[bool]:
    """Of each step, whether Keras hands a mask on beside its output."""
    found: list[bool] = []
    for step in steps:
        layer = step.operation
        makes = isinstance(layer, layers.Masking) or getattr(layer, "mask_zero", False)
        hands_on = getattr(layer, "supports_masking", False) and any(found[source] for source in step.sources)
        found.append(bool(makes or hands_on))
    return found


def _cut_positions(steps: tuple[Step, ...]) -> list[int]:
    uses, weightless, masked = _uses(steps), _weightless(steps), _masked(steps)
    several = sum(not step.sources for step in steps) > 1
    last_place: dict[int, int] = {id(step.operation): index for index, step in enumerate(steps)}
    # Where weights first meet what is computed from the inputs alone.
    furthest = max(
        (
            index
            for index, step in enumerate(steps)
            if not weightless[index] and all(weightless[source] for source in step.sources)
        ),
        default=0,
    )
    found, furthest_of_all = [], 0
    for index, step in enumerate(steps):
        place, last = last_place[id(step.operation)], max(uses[index], default=0)
        furthest, furthest_of_all = max(furthest, place), max(furthest_of_all, place)
        passed = furthest_of_all <= index and not several if weightless[index] else furthest <= index
        if passed and not masked[index]:
            found.append(index)
        furthest_of_all = max(furthest_of_all, last)
        if not weightless[index]:
            furthest = max(furthest, last)
    return found


def _carried(steps: tuple[Step, ...], index: int) -> tuple[keras.KerasTensor, ...]:
    """The inputs that the output depends on by other ways than through a step."""
    seen, pending = {index}, [len(steps) - 1]
    while pending:
        at = pending.pop()
        if at not in seen:
            seen.add(at)
            pending.extend(steps[at].sources)
    return tuple(
        step.tensor for at, step in enumerate(steps) if at in seen and at != index and not step.sources
    )


def _ends_block(steps: tuple[Step, ...], uses: dict[int, list[int]], index: int) -> bool:
    step = steps[index]
    users = [steps[use].operation for use in uses[index]]
    sources = [steps[source] for source in step.sources]
    if any(isinstance(user, GLOBAL_POOLINGS) for user in users):
        return False
    # By what it takes, since ConvNeXt adds with an operator and InceptionResNetV2 with a layer of its own.
    merges = len(sources) > 1 and not isinstance(step.operation, layers.Multiply)
    if merges or len(users) > 1 or _holds_a_block(step.operation):
        return True
    if _parameters(step) == 0 and sources and step.area < sources[0].area:
        return True
    linear = isinstance(step.operation, layers.BatchNormalization)
    return linear and not any(isinstance(user, NORMALIZATIONS + ACTIVATIONS) for user in users)


def _holds_a_block(operation: keras.Operation) -> bool:
    """True for a layer that is not Keras' own and is made of others with weights: a chain of such has no merge in its graph."""
    if not isinstance(operation, keras.Layer) or type(operation).__module__.startswith("keras."):
        return False
    return any(each.weights for each in operation._flatten_layers(include_self=False, recursive=False))


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
