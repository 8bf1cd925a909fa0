"""Script of a process that cannot import kerastl: answers with a model of any format, or converts one.

Each format answers by its own runtime, with NumPy and nothing else: Keras cannot be imported beside TensorFlow, nor
TensorFlow beside LiteRT and ONNX Runtime, so a model that needs their Python code cannot pass. Converters write to stderr at
will, and one that aborts takes only this process with it. `kerastl.export.process` starts it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "convert": ("tensorflow", "keras"),
    "keras": ("tensorflow", "keras"),
    "saved_model": ("tensorflow",),
    "litert": (),
    "onnx": (),
}
if __name__ == "__main__":
    for _package in {"kerastl", "tensorflow", "keras"} - set(_MAY_IMPORT[sys.argv[1]]):
        assert _package not in sys.modules
        sys.modules[_package] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402

RANDOM = re.compile(
    "Random|Rng|Seed|Shuffle|Multinomial|TruncatedNormal|Stateful(Uniform|StandardNormal)|NonDeterministic|Stochastic"
    "|DistortedBoundingBox|CandidateSampler|SamplingDataset|Fractional(Avg|Max)Pool|KmeansPlusPlus|KMC2"
)
"""In names of operations that draw numbers. Stateless ones are among them: their seed may be drawn, and a served model has
no use for noise that is always the same. A test goes through all operations of TensorFlow that take a seed."""

ONNX_OPSET = 18
"""The first with the operators of all supported networks as one node each, and read by every runtime since 2023."""


class Signature(NamedTuple):
    """One way to ask a model: the names of its inputs, and the function from a batch of each to its outputs by name."""

    inputs: Sequence[str]
    call: Callable[..., dict[str, np.ndarray]]


class Model(NamedTuple):
    """A loaded model: its signatures by name, and what else is known of it as plain values."""

    signatures: dict[str, Signature]
    facts: dict[str, Any]


def answer(runtime: str, path: str, request: str, threads: str) -> None:
    """Answer the passes of a request, and then measure times of the first signature, which takes decoded examples, until stdin ends.

    Args:
        runtime: `litert`, `onnx`, `saved_model` or `keras`.
        path: the model's file or folder.
        request: a folder with `NAME.npy` ([n, …], decoded examples) for each input, `NAME/*.bytes` (the same examples, raw, in
            their order) where a signature takes them, and `request.json`: `passes`, pairs of a batch size and the number of
            examples, the first ones, to ask about; and `signatures`, those to ask, null for all. `answers.npz` is written beside them: a
            JSON text `facts`, and for each pass all of its outputs.
        threads: that the runtime may use; 0 for all.
    """
    folder = Path(request)
    wanted = json.loads((folder / "request.json").read_text())
    examples: dict[str, Any] = {each.stem: np.load(each, mmap_mode="r") for each in folder.glob("*.npy")}
    for each in sorted(folder.glob("*/*.bytes")):
        examples.setdefault(each.parent.name, []).append(each.read_bytes())
    model = OPENERS[runtime](path, int(threads))
    asked = {name: model.signatures[name] for name in wanted["signatures"] or sorted(model.signatures)}
    out: dict[str, np.ndarray] = {}
    passes: list[dict[str, Any]] = []
    for name, signature in asked.items():
        rows = [examples[key] for key in signature.inputs]
        for batch_size, count in wanted["passes"]:
            parts = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
            for key, values in _joined([signature.call(*(each[part] for each in rows)) for part in parts]):
                out[f"pass{len(passes)}_{key}"] = values
            passes.append({"signature": name, "batch_size": batch_size, "count": count})
    facts = {"signatures": sorted(model.signatures), "passes": passes, **model.facts}
    np.savez(folder / "answers.npz", facts=np.array(json.dumps(facts)), **out)  # type: ignore[arg-type]
    signature = next(iter(asked.values()))
    for line in sys.stdin:
        given = json.loads(line)
        rows = [examples[key] for key in signature.inputs]
        batch = [each[np.arange(given["batch_size"]) % len(each)] for each in rows]
        sys.stdout.write(json.dumps(times(signature, batch, given["calls"])) + "\n")
        sys.stdout.flush()


def times(signature: Signature, batch: Sequence[np.ndarray], calls: int) -> list[float]:
    """Seconds of each of some calls, after one that is not counted."""
    found = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        signature.call(*batch)
        found.append(time.perf_counter() - start)
    return found[1:]


def _joined(answers: Sequence[dict[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    for key in answers[0]:
        values = np.concatenate(_filled([np.atleast_1d(each[key]) for each in answers]))
        # an .npz holds no objects, and TensorFlow's texts are such
        yield key, np.char.decode(values.astype(np.bytes_), "utf-8") if values.dtype == object else values


def _filled(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays with rows of one shape: those of each batch are as long as its longest example."""
    shape = np.max([each.shape[1:] for each in parts], axis=0, initial=0)
    filler = b"" if parts[0].dtype == object else 0
    more = [[(0, 0), *((0, int(gap)) for gap in shape - each.shape[1:])] for each in parts]
    return [np.pad(each, gaps, constant_values=filler) for each, gaps in zip(parts, more, strict=True)]


def open_litert(path: str, threads: int) -> Model:
    """By LiteRT's interpreter; integers are turned into probabilities as the file says."""
    import os

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads or os.cpu_count() or 1)
    runner = interpreter.get_signature_runner()
    given = runner.get_input_details()
    ((output, made),) = runner.get_output_details().items()
    scale, zero_point = made["quantization"]
    batch_size = -1

    def call(*batch: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal batch_size
        if len(batch[0]) != batch_size:
            batch_size = len(batch[0])
            for each, rows in zip(given.values(), batch, strict=True):
                interpreter.resize_tensor_input(each["index"], rows.shape)
            interpreter.allocate_tensors()
        for each, rows in zip(given.values(), batch, strict=True):
            interpreter.set_tensor(each["index"], rows.astype(each["dtype"]))
        interpreter.invoke()
        answer = interpreter.get_tensor(made["index"])
        return {"probabilities": (answer.astype(np.float32) - zero_point) * scale if scale else answer}

    def facts_of(name: str, details: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "dtype": np.dtype(details["dtype"]).name,
            "shape": details["shape_signature"].tolist(),
            "quantization": [float(details["quantization"][0]), int(details["quantization"][1])],
        }

    inputs = [facts_of(name, details) for name, details in given.items()]
    return Model({"litert": Signature([*given], call)}, {"inputs": inputs, "output": facts_of(output, made)})


def open_onnx(path: str, threads: int) -> Model:
    """By ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}
    inputs, output = (
        [
            {
                "name": each.name,
                "dtype": dtypes.get(each.type, each.type),
                "shape": [size if isinstance(size, int) else -1 for size in each.shape],
            }
            for each in side
        ]
        for side in (session.get_inputs(), session.get_outputs())
    )
    (made,) = output

    def call(*batch: np.ndarray) -> dict[str, np.ndarray]:
        given = zip(inputs, batch, strict=True)
        rows_of = {each["name"]: rows.astype(each["dtype"]) for each, rows in given}
        (answer,) = session.run([made["name"]], rows_of)
        return {"probabilities": answer}

    return Model(
        {"onnx": Signature([each["name"] for each in inputs], call)}, {"inputs": inputs, "output": made}
    )


def open_saved_model(path: str, threads: int) -> Model:
    """By TensorFlow, through each signature."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(path)

    def signature_of(
        function: Any, _loaded: Any = loaded
    ) -> Signature:  # it holds only weak references to the model
        specs = function.structured_input_signature[1]

        def call(*batch: Any) -> dict[str, np.ndarray]:
            given = zip(specs.items(), batch, strict=True)
            answers = function(**{name: tf.constant(rows, spec.dtype) for (name, spec), rows in given})
            return {key: value.numpy() for key, value in answers.items()}

        return Signature(list(specs), call)

    functions = dict(loaded.signatures)
    random = sorted(set().union(*(random_operations(each) for each in functions.values())))
    return Model(
        {name: signature_of(each) for name, each in functions.items()}, {"random_operations": random}
    )


def open_keras(path: str, threads: int) -> Model:
    """By Keras' own `predict_on_batch`; it answers with logits."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    network = keras.saving.load_model(path, compile=False)

    def call(*batch: np.ndarray) -> dict[str, np.ndarray]:
        given = [rows.astype(each.dtype) for rows, each in zip(batch, network.inputs, strict=True)]
        return {"logits": network.predict_on_batch(given if len(given) > 1 else given[0])}

    return Model({"keras": Signature([each.name for each in network.inputs], call)}, {})


OPENERS: dict[str, Callable[[str, int], Model]] = {
    "litert": open_litert,
    "onnx": open_onnx,
    "saved_model": open_saved_model,
    "keras": open_keras,
}


def random_operations(function: Any) -> set[str]:
    """Types of the random operations in a signature, in the functions that it calls too."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {node.op for node in nodes if RANDOM.search(node.op)}


def convert(format: str, saved_model: str, target: str, representative: str) -> None:
    """Write `target` from a SavedModel.

    Args:
        format: `litert`, `litert-int8` or `onnx`.
        saved_model: folder with one signature `serving_default`, decoded inputs -> `probabilities`.
        target: the file to write.
        representative: an .npy of decoded examples, [n, …], for `litert-int8`, which has one input.
    """
    if format == "onnx":
        write_onnx(saved_model, target)
    else:
        examples = np.load(representative, mmap_mode="r") if format == "litert-int8" else None
        Path(target).write_bytes(litert(saved_model, examples))


def litert(saved_model: str, examples: np.ndarray | None) -> bytes:
    """A LiteRT model; with examples, one whose every number is an integer of eight bits."""
    import tensorflow as tf

    # From a SavedModel: from concrete functions (TensorFlow 2.21) variables stay resource variables, and the
    # calibration ends in "read_variable.cc:67 variable != nullptr was not true".
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if examples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([each[None].astype(np.float32)] for each in examples)
        # Without it an operation that has no integer kernel would silently stay in float.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()


def as_erf(context: Any, node: Any, name: str, _: Any) -> None:
    """Write `erfc`, of which TensorFlow makes the exact GELU and which tf2onnx (1.17) does not know, as 1 - erf."""
    given, output = {"shapes": node.output_shapes, "dtypes": node.output_dtypes}, node.output
    context.remove_node(name)
    one = context.make_const(f"{name}_one", np.array(1, np.float32))
    erf = context.make_node("Erf", node.input, name=f"{name}_erf", **given)
    context.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=output, **given)


def write_onnx(saved_model: str, target: str) -> None:
    """An ONNX model; its inputs and its output keep their names."""
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model)  # its signatures hold only weak references to it
    signature = loaded.signatures["serving_default"]
    # Frozen here: tf2onnx (1.17) makes inputs of the variables of a loaded signature.
    frozen = convert_variables_to_constants_v2(signature)
    # Tensors of a function stand in the order of the sorted names of its arguments.
    given, made = sorted(signature.structured_input_signature[1]), sorted(signature.structured_outputs)
    names = {
        tensor.name: name
        for tensors, called in ((frozen.inputs, given), (frozen.outputs, made))
        for tensor, name in zip(tensors, called, strict=True)
    }
    tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[each.name for each in frozen.inputs],
        output_names=[each.name for each in frozen.outputs],
        tensors_to_rename=names,
        opset=ONNX_OPSET,
        custom_op_handlers={"Erfc": (as_erf, [])},
        output_path=target,
    )


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(*sys.argv[2:])
    else:
        answer(*sys.argv[1:])
