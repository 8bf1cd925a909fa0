"""Answers with a model of any format by that format's own runtime, in a process of its own.

A script with NumPy and one runtime alone: LiteRT and ONNX Runtime answer here where TensorFlow and Keras cannot
be imported. `kerastl.export.runtimes` starts it, once for the answers of an export's check, or to be asked for
times over stdin and stdout, a line of JSON each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH_SIZE = 32
SINGLES = 4

if __name__ == "__main__":
    _own = {"litert": (), "onnx": (), "saved_model": ("tensorflow",), "keras": ("tensorflow", "keras")}
    for _package in {"kerastl", "tensorflow", "keras"} - set(_own[sys.argv[1]]):
        sys.modules[_package] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402

Answer = Callable[[np.ndarray], np.ndarray]


def main(runtime: str, model: str, threads: str, pixels: str, answer: str) -> None:
    """Answer all images, in batches and some alone, and then measure times until stdin ends.

    Args:
        runtime: `litert`, `onnx`, `saved_model` or `keras`.
        model: the model's file or folder.
        threads: that the runtime may use.
        pixels: an .npy, uint8 [n, s, s, 3], RGB 0..255.
        answer: the .npz to write: `probabilities` float32 [n, k], `singles` (the first few, asked alone), `again`
            (the first batch, asked once more), and a JSON text `facts` on the model's input and output.
    """
    images = np.load(pixels, mmap_mode="r")
    ask, facts = OPENERS[runtime](model, int(threads))
    parts = [ask(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)]
    singles = [ask(images[i : i + 1]) for i in range(min(SINGLES, len(images)))]
    np.savez(
        answer,
        probabilities=np.concatenate(parts),
        singles=np.concatenate(singles),
        again=ask(images[:BATCH_SIZE]),
        facts=np.array(json.dumps(facts)),
    )
    for line in sys.stdin:
        asked = json.loads(line)
        positions = np.arange(asked["batch_size"]) % len(images)
        sys.stdout.write(json.dumps(times(ask, images[positions], asked["calls"])) + "\n")
        sys.stdout.flush()


def times(ask: Answer, images: np.ndarray, calls: int) -> list[float]:
    """Seconds of each of some calls, after one that is not counted."""
    found = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        ask(images)
        found.append(time.perf_counter() - start)
    return found[1:]


def open_litert(model: str, threads: int) -> tuple[Answer, dict[str, Any]]:
    """By LiteRT's interpreter; integers are turned into probabilities as the file says."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=threads)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    (names,) = interpreter.get_signature_list().values()
    scale, zero_point = made["quantization"]
    batch_size = -1

    def ask(images: np.ndarray) -> np.ndarray:
        nonlocal batch_size
        if len(images) != batch_size:
            batch_size = len(images)
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images.astype(given["dtype"]))
        interpreter.invoke()
        answer = interpreter.get_tensor(made["index"])
        return (answer.astype(np.float32) - zero_point) * scale if scale else answer

    facts = {}
    for side, details, name in (("input", given, names["inputs"][0]), ("output", made, names["outputs"][0])):
        facts[side] = {
            "name": name,
            "dtype": np.dtype(details["dtype"]).name,
            "shape": details["shape_signature"].tolist(),
            "quantization": [float(details["quantization"][0]), int(details["quantization"][1])],
        }
    return ask, facts


def open_onnx(model: str, threads: int) -> tuple[Answer, dict[str, Any]]:
    """By ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    dtypes = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    facts = {
        side: {
            "name": one.name,
            "dtype": dtypes.get(one.type, one.type),
            "shape": [size if isinstance(size, int) else -1 for size in one.shape],
        }
        for side, one in (("input", given), ("output", made))
    }
    return lambda images: session.run([made.name], {given.name: images.astype(np.float32)})[0], facts


def open_saved_model(model: str, threads: int) -> tuple[Answer, dict[str, Any]]:
    """By TensorFlow, through the signature that takes pixels."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(model)
    signature = loaded.signatures["serving_pixels"]

    def ask(images: np.ndarray, _loaded: Any = loaded) -> np.ndarray:
        return signature(pixels=tf.constant(images, tf.float32))["probabilities"].numpy()

    return ask, {}


def open_keras(model: str, threads: int) -> tuple[Answer, dict[str, Any]]:
    """By Keras' own `predict_on_batch`; it answers with logits."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    network = keras.saving.load_model(model, compile=False)
    return lambda images: network.predict_on_batch(images.astype(np.float32)), {}


OPENERS: dict[str, Callable[[str, int], tuple[Answer, dict[str, Any]]]] = {
    "litert": open_litert,
    "onnx": open_onnx,
    "saved_model": open_saved_model,
    "keras": open_keras,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
