"""Answers with a SavedModel as a stranger would: a script with TensorFlow and NumPy alone.

`parity` starts it in a process of its own. Imports of kerastl and Keras fail here on purpose, so a
SavedModel that needs their Python code cannot pass.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

for _package in ("kerastl", "keras"):
    if __name__ == "__main__":
        assert _package not in sys.modules
        sys.modules[_package] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

RANDOM = re.compile(
    "Random|Rng|Seed|Shuffle|Multinomial|TruncatedNormal|Stateful(Uniform|StandardNormal)|NonDeterministic|Stochastic"
    "|DistortedBoundingBox|CandidateSampler|SamplingDataset|Fractional(Avg|Max)Pool|KmeansPlusPlus|KMC2"
)
"""In names of operations that draw numbers. Stateless ones are among them: their seed may be drawn, and a served model has
no use for noise that is always the same. A test goes through all operations of TensorFlow that take a seed."""


def main(saved_model: str, request: str, answer: str) -> None:
    """Feed the images of `request` to each signature, in each batch size, twice, and write all answers.

    Args:
        saved_model: folder of the SavedModel.
        request: an .npz with `blob` (uint8, all encoded images), `lengths` (of each), `batch_sizes`, and
            `pixels` (float32).
        answer: the .npz to write: a JSON text `facts`, and for each pass all of its outputs.
    """
    with np.load(request) as given:
        arrays = {name: given[name] for name in given.files}
    ends = np.cumsum(arrays["lengths"])
    blob = arrays["blob"].tobytes()
    encoded = [blob[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]
    loaded = tf.saved_model.load(saved_model)
    signatures = dict(loaded.signatures)
    read: dict[str, Callable[[int, int], Any]] = {
        "image_bytes": lambda start, stop: tf.constant(encoded[start:stop]),
        "pixels": lambda start, stop: tf.constant(arrays["pixels"][start:stop]),
    }
    out: dict[str, np.ndarray] = {}
    passes: list[dict[str, Any]] = []
    for name, signature in sorted(signatures.items()):
        (argument,) = signature.structured_input_signature[1]
        for batch_size in arrays["batch_sizes"].tolist():
            for repeat in range(2):
                parts = [
                    signature(**{argument: read[argument](start, start + batch_size)})
                    for start in range(0, len(encoded), batch_size)
                ]
                for key in parts[0]:
                    values = np.concatenate([np.atleast_1d(given[key].numpy()) for given in parts])
                    if values.dtype == object:
                        values = np.char.decode(values.astype(np.bytes_), "utf-8")
                    out[f"pass{len(passes)}_{key}"] = values
                passes.append({"signature": name, "batch_size": batch_size, "repeat": repeat})
    facts = {
        "signatures": sorted(signatures),
        "passes": passes,
        "random_operations": sorted(set().union(*(random_operations(each) for each in signatures.values()))),
    }
    np.savez(answer, facts=np.array(json.dumps(facts)), **out)  # type: ignore[arg-type]


def random_operations(function: Any) -> set[str]:
    """Types of the random operations in a signature, in the functions that it calls too."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {node.op for node in nodes if RANDOM.search(node.op)}


if __name__ == "__main__":
    main(*sys.argv[1:])
