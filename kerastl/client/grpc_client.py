"""TensorFlow Serving's gRPC API, which needs the extra `grpc`: `tensorflow-serving-api`, and TensorFlow with it.

The generated messages import all of TensorFlow (five seconds), so nothing here is imported before it is used.
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from kerastl.client.access import HAND_OVER, Access
from kerastl.client.address import Address
from kerastl.client.replies import (
    READ,
    SIGNATURE,
    UNKNOWN_LABEL,
    Answer,
    NotFound,
    NotServed,
    Refused,
    TimedOut,
    Unavailable,
    VersionState,
    read_answers,
)
from kerastl.errors import ServingError, UserError
from kerastl.modality import Modality

PACKAGE = "tensorflow_serving"


class GrpcConnection:
    """An open channel; with TLS where the address says `grpcs`.

    Args:
        address: of the model.
        timeout_seconds: for a request and its answer together.
        access: credentials.
        modality: of the examples.
    """

    def __init__(
        self, address: Address, timeout_seconds: float, access: Access, modality: type[Modality]
    ) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise UserError(
                f"{address} cannot be asked: tensorflow-serving-api is not installed. Install it with "
                '`pip install "kerastl[grpc]"`, or ask over REST: '
                f"http://{address.host.rpartition(':')[0]}:8501/v1/models/{address.model}"
            )
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self._address, self._access, self._modality = address, access, modality
        self._timeout_seconds = timeout_seconds
        # gRPC's own limit of 4 MiB is that of a message received: a thousand classes by hundreds of examples.
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if address.scheme == "grpcs":
            roots = access.ca_file.read_bytes() if access.ca_file else None
            trust = grpc.ssl_channel_credentials(root_certificates=roots)
            self._channel = grpc.secure_channel(address.host, trust, options=unlimited)
        else:
            self._channel = grpc.insecure_channel(address.host, options=unlimited)
        self._metadata = [(name.lower(), value) for name, value in access.headers]
        if address.credentials and not access.authorized:
            encoded = base64.b64encode(unquote(address.credentials).encode()).decode()
            self._metadata.append(("authorization", f"Basic {encoded}"))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def answers(self, raw: Sequence[bytes]) -> list[Answer]:
        """Ask once; see `Connection`."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = SIGNATURE
        tensor = tf.make_tensor_proto(list(raw), tf.string, [len(raw)])
        request.inputs[self._modality.request].CopyFrom(tensor)
        response = self._call(self._stub.Predict, request)
        # thousands of probabilities would be unpacked for nothing
        outputs = {
            name: _plain(tf.make_ndarray(tensor).tolist()) if name in READ else None
            for name, tensor in response.outputs.items()
        }
        return read_answers(outputs, len(raw), self._modality.noun)

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

    def states(self) -> list[VersionState] | None:
        """States of the model's versions; see `Connection`."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._address.model
        try:
            rows = self._call(self._models.GetModelStatus, request).model_version_status
        except Exception:  # servers need not tell
            return None
        name_of = get_model_status_pb2.ModelVersionStatus.State.Name
        return [
            VersionState(
                row.version, name_of(row.state), row.status.error_message if row.status.error_code else ""
            )
            for row in rows
        ]

    def close(self) -> None:
        """Let go of the server."""
        self._channel.close()

    def _fill(self, model_spec: Any) -> None:
        model_spec.name = self._address.model
        if self._address.label:
            model_spec.version_label = self._address.label
        elif self._address.version is not None:
            model_spec.version.value = self._address.version

    def _call(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code()
            message = self._access.hidden(error.details() or "", self._address.credentials)
            codes = grpc.StatusCode
            if message.startswith(UNKNOWN_LABEL):
                raise NotFound(message) from error
            if "CERTIFICATE_VERIFY_FAILED" in message or "Hostname Verification" in message:
                raise UserError(
                    f"{self._address} offers no certificate that can be trusted: {message}. --ca-file FILE names whom to trust."
                ) from error
            if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
                raise UserError(
                    f"{self._address} lets nobody in without the right credentials: {code.name} {message}. {HAND_OVER}"
                ) from error
            # the same classes as over REST, where the server turns these codes into 400, 429, 503 and 404
            if code in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION, codes.OUT_OF_RANGE):
                raise Refused(message) from error
            if code in (codes.UNAVAILABLE, codes.RESOURCE_EXHAUSTED):
                raise Unavailable(f"{code.name}: {message}") from error
            if code == codes.DEADLINE_EXCEEDED:
                raise TimedOut from error
            if code == codes.NOT_FOUND:
                raise NotServed(message) from error
            raise ServingError(f"{self._address} answered {code.name}: {message}.") from error


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values.decode("utf-8", "replace") if isinstance(values, bytes) else values
