"""What TensorFlow would remember of every training for as long as the process lives.

A search trains hundreds of models in one process, and each leaves its traced graphs behind: Keras' optimizers sum
gradients with `ReplicaContext.all_reduce`, which is a `tf.custom_gradient`, and inside a traced function TensorFlow
registers the gradient of each such call under a new name and never forgets it. The registered function holds tensors
of the graph, the tensors hold the graph, and the graph holds all functions that were traced for the training: about fifty
graphs a trial (`benchmarks/search_memory.py --remember`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

PREFIX = "CustomGradient-"


@contextlib.contextmanager
def traces_forgotten() -> Iterator[None]:
    """Let go of the graphs that are traced inside, once nobody needs them.

    What is traced inside may still be called afterwards, but not be differentiated any more: gradients that are
    part of a traced function stay, the recipe for new ones goes.
    """
    before = _custom_gradients()
    try:
        yield
    finally:
        traced = _custom_gradients() - before
        for name in traced:
            del _registry()[name]
        if traced:
            gc.collect()  # a network refers to itself


def _custom_gradients() -> set[str]:
    return {name for name in _registry() if name.startswith(PREFIX)}


def _registry() -> dict[str, Any]:
    """TensorFlow's table of gradients, which has no public name: where it moved, a search only takes more memory."""
    try:
        from tensorflow.python.framework import ops

        return ops.gradient_registry._registry
    except (ImportError, AttributeError):
        return {}
