"""Warm-up requests, which TensorFlow Serving sends to itself when it loads a version, so that no user waits for the first.

They are TFRecords of `PredictionLog` in `assets.extra/tf_serving_warmup_requests`, at most 1,000
(https://www.tensorflow.org/tfx/serving/saved_model_warmup). The messages are described here with the field numbers of
`tensorflow_serving/apis/{model,predict,prediction_log}.proto`, because `tensorflow-serving-api` is not needed for
anything else; a test reads them with it. A request that fails keeps the server from loading the version, so
`check_warmup` compares each with the signature that it asks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

from kerastl.errors import ExportError
from kerastl.export.signature import SERVING_RAW
from kerastl.export.versions import EXTRA_FOLDER

WARMUP_FILE = "tf_serving_warmup_requests"
BATCH_SIZES = (1, 8)
"""The sizes that clients send most: a single example, and a handful. The first run of a batch size allocates memory and, on a GPU,
chooses algorithms."""

_MOST_RECORDS = 1000
_MESSAGES = """
name: "kerastl/warmup.proto" package: "tensorflow.serving" syntax: "proto3"
dependency: "tensorflow/core/framework/tensor.proto"
message_type { name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "signature_name" number: 3 type: TYPE_STRING } }
message_type { name: "PredictRequest"
  field { name: "model_spec" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.serving.ModelSpec" }
  field { name: "inputs" number: 2 type: TYPE_MESSAGE label: LABEL_REPEATED
          type_name: ".tensorflow.serving.PredictRequest.InputsEntry" }
  nested_type { name: "InputsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".tensorflow.TensorProto" } } }
message_type { name: "PredictLog"
  field { name: "request" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.serving.PredictRequest" } }
message_type { name: "PredictionLog"
  field { name: "predict_log" number: 6 type: TYPE_MESSAGE type_name: ".tensorflow.serving.PredictLog" } }
"""


def write_warmup(saved_model: Path | str, name: str, raw: Sequence[bytes], request: str) -> int:
    """Put warm-up requests beside a SavedModel.

    Args:
        saved_model: its folder.
        name: under which it is served.
        raw: bytes of examples that the model can read. The smallest are taken, as they travel with every version,
            and again from the first where they are fewer than a batch.
        request: name of the input that takes them; see `Modality.request`.

    Returns:
        The number of requests; 0 without examples.

    Raises:
        ExportError: if the SavedModel would not answer a request.
    """
    ordered = sorted(raw, key=len)
    if not ordered:
        return 0
    path = Path(saved_model) / EXTRA_FOLDER / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch_size in BATCH_SIZES:
            batch = [ordered[i % len(ordered)] for i in range(batch_size)]
            writer.write(_request(name, batch, request).SerializeToString())
    check_warmup(saved_model)
    return len(BATCH_SIZES)


def check_warmup(saved_model: Path | str) -> None:
    """Compare the warm-up requests of a SavedModel with its signatures, as a server does before it runs them.

    Raises:
        ExportError: if one would be refused; the message says why.
    """
    folder = Path(saved_model)
    records = list(tf.data.TFRecordDataset(str(folder / EXTRA_FOLDER / WARMUP_FILE)).as_numpy_iterator())
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graphs = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    signatures = {name: graph.signature_def[name] for graph in graphs for name in graph.signature_def}
    problem = (
        "" if len(records) <= _MOST_RECORDS else f"there are {len(records)}, at most {_MOST_RECORDS} may be"
    )
    for number, record in enumerate(records):
        problem = problem or _problem(_prediction_log().FromString(record), signatures, number)
    if problem:
        raise ExportError(f"TensorFlow Serving would not load {folder}: of its warm-up requests, {problem}.")


def _problem(log: Any, signatures: dict[str, Any], number: int) -> str:
    request = log.predict_log.request
    name = request.model_spec.signature_name
    if name not in signatures:
        return f"number {number} asks the signature {name!r}; there are {', '.join(signatures)}"
    wanted = {key: tensor.dtype for key, tensor in signatures[name].inputs.items()}
    given = {key: tensor.dtype for key, tensor in request.inputs.items()}
    return "" if given == wanted else f"number {number} has the inputs {given}; {name!r} takes {wanted}"


def _request(name: str, raw: Sequence[bytes], request: str) -> Any:
    log = _prediction_log()()
    message = log.predict_log.request
    message.model_spec.name = name
    message.model_spec.signature_name = SERVING_RAW
    tensor = tf.make_tensor_proto(list(raw), dtype=tf.string, shape=[len(raw)])
    message.inputs[request].MergeFromString(tensor.SerializeToString())
    return log


@functools.cache
def _prediction_log() -> type[Any]:
    """The message class, in a pool of its own: the real package may be imported in the same process."""
    pool = descriptor_pool.DescriptorPool()
    _add_with_dependencies(pool, tensor_pb2.DESCRIPTOR)
    pool.Add(text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PredictionLog"))


def _add_with_dependencies(pool: Any, file: Any) -> None:
    for dependency in file.dependencies:
        _add_with_dependencies(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)
