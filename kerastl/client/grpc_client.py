"""TensorFlow Serving's gRPC API, which needs the extra `grpc`: `tensorflow-serving-api`, and TensorFlow with it.

The generated messages import all of TensorFlow (five seconds), so nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from kerastl.client.address import Address
from kerastl.client.answers import (
    ACCEPTED,
    INPUT,
    LABELS,
    OUTPUTS,
    SIGNATURE,
    Answer,
    NotFound,
    Refused,
    TimedOut,
    Unavailable,
    read_answers,
)
from kerastl.errors import ServingError, UserError

PACKAGE = "tensorflow_serving"


class GrpcConnection:
    """An open channel, without encryption."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise UserError(
                f"{address} cannot be asked: tensorflow-serving-api is not installed. Install it with "
                '`pip install "kerastl[grpc]"`, or ask over REST: '
                f"http://{address.host.rpartition(':')[0]}:8501/v1/models/{address.model}"
            )
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._address, self._timeout_seconds = address, timeout_seconds
        # gRPC's own limit of 4 MiB is that of a message received: a thousand classes by hundreds of images.
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address.host, options=unlimited)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def answers(self, images: Sequence[bytes]) -> list[Answer]:
        """Ask once; see `Connection`."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = SIGNATURE
        request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(images), tf.string, [len(images)]))
        response = self._call(self._stub.Predict, request)
        # thousands of probabilities would be unpacked for nothing
        outputs = {
            name: _plain(tf.make_ndarray(tensor).tolist()) if name in (*OUTPUTS, ACCEPTED, LABELS) else None
            for name, tensor in response.outputs.items()
        }
        return read_answers(outputs, len(images))

    def signature(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """Inputs and outputs by the server's metadata; see `Connection`."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill(request.model_spec)
        try:
            response = self._call(self._stub.GetModelMetadata, request)
        except Exception:  # servers need not tell; then the answers have to
            return None
        signatures = get_model_metadata_pb2.SignatureDefMap()
        if not response.metadata["signature_def"].Unpack(signatures):
            return None
        signature = signatures.signature_def[SIGNATURE]  # an empty one where the model has none of that name
        return frozenset(signature.inputs), frozenset(signature.outputs)

    def close(self) -> None:
        """Let go of the server."""
        self._channel.close()

    def _fill(self, model_spec: Any) -> None:
        model_spec.name = self._address.model
        if self._address.version is not None:
            model_spec.version.value = self._address.version

    def _call(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            code, message = error.code(), error.details() or ""
            codes = grpc.StatusCode
            # the same classes as over REST, where the server turns these codes into 400, 429, 503 and 404
            if code in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION, codes.OUT_OF_RANGE):
                raise Refused(message) from error
            if code in (codes.UNAVAILABLE, codes.RESOURCE_EXHAUSTED):
                raise Unavailable(f"{code.name}: {message}") from error
            if code == codes.DEADLINE_EXCEEDED:
                raise TimedOut from error
            if code == codes.NOT_FOUND:
                raise NotFound(message) from error
            raise ServingError(f"{self._address} answered {code.name}: {message}.") from error


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values.decode("utf-8", "replace") if isinstance(values, bytes) else values
