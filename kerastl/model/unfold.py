"""The operations of a model called on other tensors, one by one, so that what lies within a layer becomes part of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kerastl.model.graph import trace

# An operation of a model, and the arguments that it is called with there -> what it gives.
Call = Callable[[keras.Operation, Sequence[Any], Mapping[str, Any]], Any]


def plainly(operation: keras.Operation, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The operation as it is."""
    return operation(*arguments, **keywords)


def called(
    model: keras.Model, inputs: Sequence[keras.KerasTensor], call: Call = plainly
) -> keras.KerasTensor:
    """The first output of a model of which each operation is called on other tensors, those of models within it one by one.

    Args:
        model: functional; its weights are shared.
        inputs: in place of its own, in their order.
        call: calls an operation that is no model.
    """
    functional = keras.Model(model.inputs, model.outputs)
    made: dict[int, Any] = {id(own): given for own, given in zip(functional.inputs, inputs, strict=True)}
    for step in trace(functional):
        operation, node, index = step.tensor._keras_history
        if id(step.tensor) in made:
            continue
        arguments, keywords = operation._inbound_nodes[node].arguments.fill_in(made)
        given = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments[:1]
        # Of models of several inputs those alone that take the network's own: layers that are models stay whole.
        entered = len(given) == 1 or all(any(each is own for own in inputs) for each in given)
        if isinstance(operation, keras.Model) and len(arguments) == 1 and entered:
            made[id(step.tensor)] = called(operation, [*given], call)
        else:
            # flat, as Keras numbers outputs
            made[id(step.tensor)] = keras.tree.flatten(call(operation, arguments, keywords))[index]
    return made[id(functional.outputs[0])]
