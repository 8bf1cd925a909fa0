"""Engines for the frozen part of a network: TensorFlow, with weights in constants or in variables, and OpenVINO.

All compute in float32 what the network says, and differ by its rounding, as they sum in different orders. Each gives the same
bits for the same example at every repetition, with any neighbours and at any place in a batch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.errors import TrainingError, UserError
from kerastl.modality import Batch, count_of
from kerastl.model.graph import alone
from kerastl.pipeline import usable_cores
from kerastl.progress import Progress

# Largest difference from TensorFlow's values, by `difference_of`: a fifth of what 16-bit storage rounds by.
BOUND = 1e-4
# Up to so many examples it takes longer to compile another engine than that saves: 4 to 6 s with ResNet50, of which a batch of
# 32 at 128² saves 0.2 s. A count and no time, so that a repeated run takes the same engine.
FEW_EXAMPLES = 1000
# TensorFlow holds constants about eight times, in graphs before and after optimisation and packed for its kernels: with
# ResNet50's 94 MB a process takes 0.7 GB more than with variables, and 1.2 GB while it traces.
LARGEST_CONSTANTS = 256_000_000
# How much faster than OpenVINO TensorFlow has to be for a batch, so that two runs do not differ in their last digits by chance.
CLEAR = 1.15
# About so many examples of a batch are given to TensorFlow, to compare OpenVINO with it and to time it.
COMPARED = 16
# Parts of a batch that OpenVINO computes side by side, one core or more each, at most: cores that share one part wait for each
# other after every layer (benchmarks/README.md).
MOST_STREAMS = 8
VARIABLES = "TensorFlow, weights in variables"
MEND = 'Set backbone.engine = "tensorflow"'
# (weights, inputs) -> whether OpenVINO was taken: one engine for all splits of a run and all trials of a search.
_TAKEN = dict[tuple[object, ...], bool]()

# Decoded examples of one batch size in, outputs by name out, float32: arrays, or tensors that a GPU may still compute.
Start = Callable[[Batch], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Engine:
    """A compiled part of a network.

    Attributes:
        name: with its version, for people.
        start: named inputs [b, ...] of the shapes and dtypes that it was compiled for -> outputs by name, float32 [b, ...].
    """

    name: str
    start: Start

    def run(self, inputs: Batch) -> dict[str, np.ndarray]:
        """The outputs of `start` as arrays, when they are computed."""
        return {name: np.asarray(each) for name, each in self.start(inputs).items()}


@dataclass(frozen=True, eq=False)
class Prefix:
    """A part of a network that an engine is wanted for.

    Attributes:
        asked: `auto`, `tensorflow` or `openvino`.
        model: inputs -> outputs by name, in inference mode; its weights may not change as long as the engine is used.
        weights: digest of the backbone's weights.
        precision: name of the dtype policy that it was built under.
        coming: how many examples are going to be computed, about.
        noun: of an example.
        progress: is told which engine was taken.
    """

    asked: str
    model: keras.Model
    weights: str
    precision: str
    coming: int
    noun: str = "example"
    progress: Progress = Progress()


def engine_for(prefix: Prefix, inputs: Batch) -> Engine:
    """The engine that is asked for, compiled; of `auto` the faster one.

    `auto` takes OpenVINO where it is installed and can compute this network in float32 on the processor, agrees with TensorFlow
    on the batch and is not clearly slower there, and more than `FEW_EXAMPLES` are coming; TensorFlow otherwise.

    Args:
        prefix: what for.
        inputs: the first batch, which OpenVINO is checked and timed on.

    Raises:
        UserError: OpenVINO is asked for, and is not installed or cannot compute this network.
        TrainingError: OpenVINO is asked for, and its outputs are not TensorFlow's.
    """
    specs = sorted(_specs(prefix.model, inputs, count_of(inputs)).items())
    # Without the sides that the model leaves open, such as the steps of texts.
    key = (prefix.weights, tuple((name, tuple(each.shape), each.dtype.name) for name, each in specs))
    taken = _TAKEN.get(key) if prefix.asked == "auto" else None
    if prefix.asked == "auto" and taken is None and prefix.coming <= FEW_EXAMPLES:
        return in_variables(prefix.model)
    problem = _hindrance(prefix.precision)
    if prefix.asked == "openvino" and problem:
        raise UserError(f'backbone.engine = "openvino": {problem}. {MEND}')
    if prefix.asked == "tensorflow" or taken is False or problem:
        return in_constants(prefix.model, inputs)
    spread = slice(None, None, max(1, count_of(inputs) // COMPARED))
    some = {name: values[spread] for name, values in inputs.items()}
    traced = _traced(prefix.model, inputs)
    reference = Engine(VARIABLES, traced)
    expected = reference.run(some)
    if not all(np.isfinite(each).all() for each in expected.values()):
        return in_variables(prefix.model)  # which shows it; OpenVINO's rectifiers make zeros of NaN
    try:
        engine = in_openvino(prefix.model, inputs, traced)
        found = {name: values[spread] for name, values in engine.run(inputs).items()}
        difference = _checked(found, expected)
    except (UserError, TrainingError) as error:
        if prefix.asked == "openvino":
            raise
        prefix.progress.note(f"Engine: TensorFlow. {error}")
        _TAKEN[key] = False
        return in_constants(prefix.model, inputs)
    if prefix.asked == "auto" and taken is None:
        # Beside variables, which it outruns by far or not at all. A close race would be decided by chance: OpenVINO.
        ours, theirs = _rate(engine, inputs), _rate(reference, some)
        taken = _TAKEN[key] = theirs <= CLEAR * ours
        sides = [(engine.name, ours), ("TensorFlow", theirs)]
        (first, rate), (second, other) = sides if taken else reversed(sides)
        prefix.progress.note(
            f"Engine: {first}, {rate:,.0f} {prefix.noun}s/s beside {other:,.0f} of {second}, difference {difference:.0e}"
        )
        if not taken:
            return in_constants(prefix.model, inputs)
    return engine


def in_variables(model: keras.Model) -> Engine:
    """TensorFlow with the weights where they are: quick to trace, and computes with what they are at each call."""
    return Engine(VARIABLES, _function(model, constants=False))


def in_constants(model: keras.Model, inputs: Batch) -> Engine:
    """TensorFlow with the weights that there are now as constants, which it folds into each other; else in variables.

    One to four tenths faster on processors. Weights beyond `LARGEST_CONSTANTS` stay in variables, and on a GPU all do: its
    memory is short, and nothing was measured there.

    Args:
        model: inputs -> outputs by name.
        inputs: a batch of the shapes and dtypes to trace for.
    """
    size = sum(int(np.prod(each.shape)) * 4 for each in model.variables)
    if size > LARGEST_CONSTANTS or tf.config.list_physical_devices("GPU"):
        return in_variables(model)
    function = _function(model, constants=True)
    try:
        function.get_concrete_function(_specs(model, inputs, count_of(inputs)))
    except Exception:  # a layer of somebody's own may do with a variable what a constant does not allow
        return in_variables(model)
    return Engine("TensorFlow, weights in constants", function)


def in_openvino(model: keras.Model, inputs: Batch, traced: Any = None) -> Engine:
    """OpenVINO on the processor, in float32, with the weights that there are now and as many threads as TensorFlow.

    A batch is computed in equal parts side by side, if it can be cut into as many as there are threads.

    Args:
        model: inputs -> outputs by name.
        inputs: a batch of the shapes and dtypes to compile for.
        traced: the model as `_traced` gives it, if it was traced before.

    Raises:
        UserError: it cannot convert or compile this network.
    """
    import openvino

    version = ".".join(openvino.get_version().split(".")[:2])
    count, threads = count_of(inputs), _threads()
    streams = min(threads, MOST_STREAMS)
    size = count // streams if count % streams == 0 else count
    traced = traced or _traced(model, inputs)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": count // size,
        "INFERENCE_NUM_THREADS": threads,
        # Processes that share a machine, such as the workers of a search, would all hold on to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.tensorflow.utils import create_tf_graph_iterator

        # What `openvino.convert_model` does, without its reports of each call to Google Analytics. Weights are copied, as shared
        # ones would follow the training.
        frontend = FrontEndManager().load_by_framework("tf")
        graph = create_tf_graph_iterator(traced, None, None, None, share_weights=False)
        converted = frontend.convert(frontend.load(graph))
        # So that kernels are chosen once, for parts of this size; an open one was as fast.
        converted.reshape({each: [size, *each.partial_shape[1:]] for each in converted.inputs})
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        names = {each.name: name for each, name in zip(traced.inputs, sorted(inputs), strict=False)}
        ports = {names[name]: port for port in compiled.inputs for name in port.names & names.keys()}
        given = {name: compiled.output(name) for name in model.output}
        requests = [compiled.create_infer_request() for _ in range(count // size)]
    except Exception as error:  # of kinds that OpenVINO documents nowhere
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise UserError(f"OpenVINO {version} cannot compute this network: {reason}. {MEND}") from error

    def run(batch: Batch) -> dict[str, np.ndarray]:
        for place, request in enumerate(requests):
            part = slice(place * size, (place + 1) * size)
            request.start_async({port: batch[name][part] for name, port in ports.items()})
        for request in requests:
            request.wait()
        return {
            name: np.concatenate([request.get_tensor(port).data for request in requests])
            for name, port in given.items()
        }

    return Engine(f"OpenVINO {version}", run)


def named_inputs(model: keras.Model, inputs: Mapping[str, tf.Tensor]) -> Any:
    """Arrays in the order and dtypes of a model's inputs, so that whole numbers stay whole."""
    return alone([tf.cast(inputs[each.name], each.dtype) for each in model.inputs])


def _function(model: keras.Model, constants: bool) -> Any:
    """A model as a `tf.function` of named inputs, with its variables, or their values when it is traced as constants."""

    def forward(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        values = []
        for variable in model.variables if constants else ():
            with tf.init_scope():
                value = variable.numpy()
            values.append((variable, tf.constant(value)))
        with keras.StatelessScope(state_mapping=values) if constants else contextlib.nullcontext():
            outputs = model(named_inputs(model, inputs), training=False)
        return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

    return tf.function(forward, autograph=False)


def _traced(model: keras.Model, inputs: Batch) -> Any:
    """A model with its variables as a function of named inputs, traced once for batches of any size."""
    return _function(model, constants=False).get_concrete_function(_specs(model, inputs, None))


def _specs(model: keras.Model, inputs: Batch, count: int | None) -> dict[str, tf.TensorSpec]:
    """Of inputs in batches of one size, or any (None); sides that the model leaves open stay so, as the next batch may have others."""
    left = {each.name: each.shape[1:] for each in model.inputs}
    return {
        name: tf.TensorSpec((count, *left.get(name, each.shape[1:])), each.dtype, name)
        for name, each in inputs.items()
    }


def _hindrance(precision: str) -> str:
    """The reason that OpenVINO cannot compute here, and how to mend it; empty where it can."""
    if importlib.util.find_spec("openvino") is None:
        return "it is not installed: pip install 'kerastl[openvino]'"
    if precision != "float32":
        return f'it computes in float32, and this run in {precision}: set precision = "float32"'
    if tf.config.list_physical_devices("GPU"):
        return "it computes on the processor, and there is a GPU: hide it with CUDA_VISIBLE_DEVICES=-1"
    return ""


def difference_of(found: np.ndarray, expected: np.ndarray) -> float:
    """The difference of two arrays over the second one, both as root mean squares.

    The largest difference over the largest value would be decided by single values, in which some networks are ill-conditioned:
    of MobileNetV2's features it is 8e-5 between any two engines, TensorFlow's own two included, and this one 5e-6.
    """
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - expected)) / (scale or 1.0)


def _checked(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any output.

    Raises:
        TrainingError: it is beyond `BOUND`.
    """
    largest = 0.0
    for name, values in expected.items():
        difference = difference_of(found[name], values)
        if not difference <= BOUND:
            raise TrainingError(
                f"OpenVINO gives other values than TensorFlow for {name}: they differ by {difference:.1e} (root mean square, over that of "
                f"TensorFlow's), and {BOUND:.0e} is allowed. {MEND}"
            )
        largest = max(largest, difference)
    return largest


def _rate(engine: Engine, inputs: Batch) -> float:
    """Examples a second of an engine, by a batch that it has computed before."""
    began = time.perf_counter()
    engine.run(inputs)
    return count_of(inputs) / (time.perf_counter() - began)


def _threads() -> int:
    """As many as TensorFlow takes: those it was given, or one for each core that this process may use."""
    asked = tf.config.threading.get_intra_op_parallelism_threads()
    asked = asked or int(os.environ.get("TF_NUM_INTRAOP_THREADS", "0"))
    return asked or usable_cores()
