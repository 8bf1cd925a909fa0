"""Stands in for TensorFlow Serving, which comes as a Docker image only: its REST and gRPC APIs around the TF 1 loader.

    python tests/serving_stand_in.py NAME=FOLDER ... [--label NAME/LABEL=VERSION] [--loading NAME=SECONDS]
        [--token TOKEN] [--tls CERTIFICATE KEY]

serves the largest version of each model's folder, prints `{"rest": PORT, "grpc": PORT or null}` and ends when its
stdin does. Until a model's seconds are over it says that it is loading. It asks for the token, as a proxy does, and speaks
TLS, as the server does over gRPC and a proxy over REST. It follows https://www.tensorflow.org/tfx/serving/api_rest and, where that leaves a message or a status
open, the sources of TensorFlow Serving (http_rest_api_util.cc, json_tensor.cc, predict_util.cc,
server_core.cc, get_model_status_impl.cc). kerastl and Keras
cannot be imported here, as they cannot in the real server. What it lacks: batching of requests, reloading, classify
and regress.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import re
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

for _package in ("kerastl", "keras"):
    if __name__ == "__main__":
        sys.modules[_package] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf import json_format  # noqa: E402

try:
    import grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError:
    grpc = None

PREDICT_PATH = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)"
)
STATUS_PATH = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?")
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
CODES = {
    getattr(tf.errors, name): name
    for name in [*HTTP_STATUS, "INTERNAL", "UNKNOWN"]
    if hasattr(tf.errors, name)
}
DEFAULT_SIGNATURE = "serving_default"


class Failure(Exception):
    """A status of TensorFlow: its code, and a message for the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Failure:
    return Failure("INVALID_ARGUMENT", message)


class Model:
    """One version of a model in a session of its own, loaded as the server loads it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.version = max(int(child.name) for child in folder.iterdir() if child.name.isdecimal())
        threads = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=2)
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=threads)
        path = str(folder / str(self.version))
        self.signatures = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path).signature_def

    def run(self, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        signature = self.signatures[signature_name]
        if set(inputs) != set(signature.inputs):
            raise invalid(
                f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} "
                f"len({{{','.join(inputs)}}}) != len({{{','.join(signature.inputs)}}}). Sent extra: "
                f"{{{','.join(set(inputs) - set(signature.inputs))}}}. Missing but required: "
                f"{{{','.join(set(signature.inputs) - set(inputs))}}}."
            )
        for name, value in inputs.items():
            expected = tf.as_dtype(signature.inputs[name].dtype)
            if (value.dtype == object) != (expected == tf.string):
                raise invalid(f"Expected {name} to be of type {expected.name}.")
        names = {name: output.name for name, output in signature.outputs.items()}
        feed = {signature.inputs[name].name: value for name, value in inputs.items()}
        try:
            return self._session.run(names, feed)
        except tf.errors.OpError as error:
            raise Failure(CODES.get(error.error_code, "UNKNOWN"), error.message) from error
        except (
            ValueError,
            TypeError,
        ) as error:  # what Python's feed checks and the server's Session::Run reports
            raise invalid(str(error)) from error


class Models:
    """All models that are served."""

    def __init__(self, folders: dict[str, Path], labels: dict[str, int], loading: dict[str, float]) -> None:
        self._models = {name: Model(name, folder) for name, folder in folders.items()}
        self._labels = labels
        self._loaded = {name: time.monotonic() + seconds for name, seconds in loading.items()}

    def find(self, name: str, version: int | None = None, label: str = "") -> Model:
        if label:
            version = self._labels.get(f"{name}/{label}")
            if version is None:
                raise invalid(f"Unrecognized servable version label: {label}")
        model = self._models.get(name)
        if model is None or version not in (None, model.version) or self.is_loading(name):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failure("NOT_FOUND", f"Servable not found for request: {wanted}")
        return model

    def is_loading(self, name: str) -> bool:
        return time.monotonic() < self._loaded.get(name, 0)

    def state(self, name: str, version: int | None = None) -> tuple[int, str]:
        """Version and state, of models that cannot be asked yet, too."""
        model = self._models.get(name)
        if model is None:
            raise Failure("NOT_FOUND", f"Could not find any versions of model {name}")
        if version not in (None, model.version):
            raise Failure("NOT_FOUND", f"Could not find version {version} of model {name}")
        return model.version, "LOADING" if self.is_loading(name) else "AVAILABLE"


def predict_json(models: Models, name: str, version: int | None, label: str, body: bytes) -> dict[str, Any]:
    """`:predict` in either format."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise invalid("JSON Value: Is not object")
    signature_name = request.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' key must be a string value.")
    model = models.find(name, version, label)
    if signature_name not in model.signatures:
        raise invalid(f'Serving signature name: "{signature_name}" not found in signature def')
    infos = model.signatures[signature_name].inputs
    if ("instances" in request) == ("inputs" in request):
        raise invalid(
            "Missing 'inputs' or 'instances' key" if "inputs" not in request else "expecting only one"
        )
    if "instances" in request:
        outputs = model.run(signature_name, _rows(request["instances"], infos))
        if len({len(value) for value in outputs.values()}) != 1:
            raise invalid("Tensors have inconsistent batch size")
        values = {key: _json_values(key, value) for key, value in outputs.items()}
        if len(values) == 1:
            return {"predictions": next(iter(values.values()))}
        return {
            "predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        }
    outputs = model.run(signature_name, _columns(request["inputs"], infos))
    values = {key: _json_values(key, value) for key, value in outputs.items()}
    return {"outputs": next(iter(values.values())) if len(values) == 1 else values}


def _rows(instances: Any, infos: Any) -> dict[str, np.ndarray]:
    if not isinstance(instances, list):
        raise invalid("Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("No values in 'instances' array")
    if all(isinstance(item, dict) and not _is_base64(item) for item in instances):
        for number, item in enumerate(instances):
            if set(item) != set(infos):
                raise invalid(
                    f"Failed to process element: {number} of 'instances' list. JSON object: {json.dumps(item)} keys must "
                    f"be equal to: {','.join(infos)}"
                )
        return {name: _tensor([item[name] for item in instances], infos[name]) for name in infos}
    if len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required"
        )
    name = next(iter(infos))
    return {name: _tensor(instances, infos[name])}


def _columns(inputs: Any, infos: Any) -> dict[str, np.ndarray]:
    if isinstance(inputs, dict) and not _is_base64(inputs):
        for name in infos:
            if name not in inputs:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(inputs[name], infos[name]) for name in infos}
    if len(infos) > 1:
        raise invalid("inputs is a plain value/list, but expecting an object")
    name = next(iter(infos))
    return {name: _tensor(inputs, infos[name])}


def _tensor(value: Any, info: Any) -> np.ndarray:
    dtype = tf.as_dtype(info.dtype)
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    leaves: list[Any] = []
    _fill(value, 0, shape, dtype, leaves)
    array = np.empty(len(leaves), dtype=object if dtype == tf.string else dtype.as_numpy_dtype)
    array[:] = leaves
    return array.reshape(shape)


def _fill(value: Any, level: int, shape: list[int], dtype: tf.DType, leaves: list[Any]) -> None:
    if isinstance(value, list):
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for item in value:
            _fill(item, level + 1, shape, dtype, leaves)
        return
    if level != len(shape):
        raise invalid(f"JSON Value: {value!r} found at incorrect level: {level + 1} in the JSON DOM.")
    leaves.append(_leaf(value, dtype))


def _leaf(value: Any, dtype: tf.DType) -> Any:
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            if not _is_base64(value):
                raise invalid(f"JSON Value: {value!r} not formatted correctly for base64 data")
            try:
                return base64.b64decode(value["b64"], validate=True)
            except (binascii.Error, ValueError) as error:
                raise invalid("Unable to base64 decode") from error
    elif isinstance(value, (int, float)) and isinstance(value, bool) == (dtype == tf.bool):
        return value
    raise invalid(f"JSON Value: {value!r} Type: {type(value).__name__} is not of expected type: {dtype.name}")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _json_values(name: str, value: np.ndarray) -> Any:
    if value.dtype == object:
        if name.endswith("_bytes"):
            return _each(value.tolist(), lambda data: {"b64": base64.b64encode(data).decode()})
        return _each(value.tolist(), lambda data: data.decode("utf-8", "replace"))
    # the shortest digits that give the same float32, as the server writes them
    return _each(value.tolist(), lambda x: float(str(np.float32(x))) if value.dtype == np.float32 else x)


def _each(value: Any, change: Any) -> Any:
    return [_each(item, change) for item in value] if isinstance(value, list) else change(value)


def status_json(version: int, state: str) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": str(version), "state": state, "status": status}]}


def metadata_json(model: Model) -> dict[str, Any]:
    signatures = {
        name: json_format.MessageToDict(signature, preserving_proto_field_name=True)
        for name, signature in model.signatures.items()
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def rest_handler(models: Models, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body in one packet: else each answer waits 40 ms for an ACK

        def do_GET(self) -> None:
            self._reply(self._get)

        def do_POST(self) -> None:
            self._reply(self._post)

        def _get(self) -> dict[str, Any]:
            found = STATUS_PATH.fullmatch(self.path)
            if not found:
                raise invalid(f"Malformed request: GET {self.path}")
            if not found[1]:
                raise invalid("Missing model name in request.")
            version = int(found[2]) if found[2] else None
            if found[4]:
                return metadata_json(models.find(found[1], version, found[3] or ""))
            return status_json(*models.state(found[1], version))

        def _post(self) -> dict[str, Any]:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = PREDICT_PATH.fullmatch(self.path)
            if not found:
                raise invalid(f"Malformed request: POST {self.path}")
            if found[4].lower() != "predict":
                raise Failure("UNIMPLEMENTED", "The stand-in only predicts")
            return predict_json(models, found[1], int(found[2]) if found[2] else None, found[3] or "", body)

        def _reply(self, answer: Any) -> None:
            if not self.path.lower().startswith("/v1/"):
                self.send_error(404)
                return
            if token and self.headers["Authorization"] != f"Bearer {token}":
                self.send_error(401)
                return
            try:
                status, reply = 200, answer()
            except Failure as failure:
                status, reply = HTTP_STATUS.get(failure.code, 500), {"error": str(failure)}
            data = json.dumps(reply, indent=4).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def grpc_server(models: Models, token: str, tls: list[str] | None) -> tuple[Any, int]:
    def let_in(context: Any) -> None:
        if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            let_in(context)
            try:
                model = self._model(request)
                signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
                if signature_name not in model.signatures:
                    raise Failure(
                        "FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.'
                    )
                try:
                    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
                except (TypeError, ValueError) as error:
                    raise invalid(f"tensor parsing error: {error}") from error
                outputs = model.run(signature_name, inputs)
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))
            response = predict_pb2.PredictResponse()
            self._fill(response.model_spec, model)
            for name, value in outputs.items():
                if not request.output_filter or name in request.output_filter:
                    response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

        def GetModelMetadata(self, request: Any, context: Any) -> Any:
            let_in(context)
            try:
                model = self._model(request)
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            self._fill(response.model_spec, model)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in model.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.metadata["signature_def"].Pack(signatures)
            return response

        def _model(self, request: Any) -> Model:
            given = request.model_spec
            version = given.version.value if given.HasField("version") else None
            return models.find(given.name, version, given.version_label)

        def _fill(self, model_spec: Any, model: Model) -> None:
            model_spec.name, model_spec.version.value = model.name, model.version

    class Status(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request: Any, context: Any) -> Any:
            let_in(context)
            try:
                version, state = models.state(request.model_spec.name)
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))
            response = get_model_status_pb2.GetModelStatusResponse()
            response.model_version_status.add(version=version, state=state)
            return response

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(), server)
    if tls:
        certificate, key = (Path(path).read_bytes() for path in tls)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--loading", action="append", default=[])
    parser.add_argument("--token", default="")
    parser.add_argument("--tls", nargs=2)
    given = parser.parse_args(arguments)
    pairs = {
        kind: dict(word.split("=", 1) for word in getattr(given, kind))
        for kind in ("models", "label", "loading")
    }
    models = Models(
        {name: Path(folder) for name, folder in pairs["models"].items()},
        {name: int(version) for name, version in pairs["label"].items()},
        {name: float(seconds) for name, seconds in pairs["loading"].items()},
    )
    rest = ThreadingHTTPServer(("127.0.0.1", 0), rest_handler(models, given.token))
    if given.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*given.tls)
        rest.socket = context.wrap_socket(rest.socket, server_side=True)
    Thread(target=rest.serve_forever, daemon=True).start()
    ports: dict[str, int | None] = {"rest": rest.server_address[1], "grpc": None}
    if grpc is not None:
        running, ports["grpc"] = grpc_server(models, given.token, given.tls)
        assert running
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    os._exit(0)  # no test waits for TensorFlow's and gRPC's own farewells


if __name__ == "__main__":
    main(sys.argv[1:])
