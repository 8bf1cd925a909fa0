"""Requests that no server should answer, over REST and gRPC, and what is wrong with an answer to one.

`malformed_images` are what both have in common. What is sent follows from the seed alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests
from served import StandIn

from kerastl.modality.image.decode import MAGIC

COUNT = 200
MOST_BESIDE = 3
CUT_MESSAGES = 20


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims to be so large and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def malformed_images(good: bytes, seed: int = 5) -> list[bytes]:
    """130 files: cut off, random, of huge dimensions, text, or empty."""
    generator = random.Random(seed)
    images = [good[: generator.randrange(len(good) * 9 // 10)] for _ in range(60)]
    images += [generator.randbytes(generator.randrange(200)) for _ in range(40)]
    images += [png_of(2 ** generator.randrange(14, 31), 2 ** generator.randrange(14, 31)) for _ in range(20)]
    images += ["gänseblümchen ".encode() * n for n in range(10)]
    return images


def is_no_image(data: bytes) -> bool:
    """Whether the first bytes tell it already, so that its position can be named."""
    return not data.startswith(MAGIC)


@dataclass(frozen=True)
class Malformed:
    """One request.

    Attributes:
        what: is wrong with it.
        request: a path and a body for REST; for gRPC a message, or the bytes in its place.
        codes: HTTP statuses, or names of gRPC codes, that are right.
        position: of the image that is no image, which the answer has to name; None where it cannot.
    """

    what: str
    request: Any
    codes: tuple[int | str, ...]
    position: int | None = None


def _batches(good: bytes, seed: int) -> Iterator[tuple[list[bytes], int | None]]:
    """Each malformed image somewhere among good ones, and its position where it can be told."""
    generator = random.Random(seed + 1)
    for bad in malformed_images(good, seed):
        images = [good] * generator.randrange(MOST_BESIDE + 1)
        place = generator.randrange(len(images) + 1)
        yield [*images[:place], bad, *images[place:]], place if is_no_image(bad) else None


def malformed_rest(good: bytes, seed: int = 5) -> list[Malformed]:
    """200 requests to a model `flowers` over REST."""
    generator = random.Random(seed)
    path = "/v1/models/flowers:predict"

    def base(data: bytes) -> dict[str, str]:
        return {"b64": base64.b64encode(data).decode()}

    found = [
        Malformed(
            "image",
            (path, json.dumps({"inputs": {"image_bytes": [base(each) for each in images]}})),
            (400,),
            position,
        )
        for images, position in _batches(good, seed)
    ]
    encoded = base(good)
    wrong: list[Any] = [
        {}, [], 1, None, "x", {"instances": []}, {"instances": {}}, {"instances": [1]}, {"instances": [[encoded]]},
        {"instances": [{"image": encoded}]}, {"instances": [encoded, 1]}, {"instances": [{"b64": "%%%"}]},
        {"instances": [{"b64": 3}]}, {"inputs": {"image": [encoded]}}, {"inputs": 7}, {"inputs": {"image_bytes": 1}},
        {"inputs": [encoded], "instances": [encoded]}, {"inputs": encoded}, {"inputs": [[encoded], []]},
        {"signature_name": "nope", "instances": [encoded]}, {"signature_name": 4, "instances": [encoded]},
        {"inputs": {"image_bytes": [{"b64": encoded["b64"][:-1]}]}}, {"instances": [None]}, {"instances": [True]},
    ]  # fmt: skip
    found += [Malformed("keys", (path, json.dumps(body)), (400,)) for body in wrong]
    names = ["weeds:predict", "flowers/versions/9:predict", "flowers", "flowers:sing", ":predict"]
    found += [Malformed("name", (f"/v1/models/{name}", "{}"), (400, 404)) for name in names]
    text = json.dumps({"instances": [encoded]})
    while len(found) < COUNT:
        cut = text[: generator.randrange(len(text))].encode() + generator.randbytes(1)
        found.append(Malformed("cut JSON", (path, cut), (400,)))
    return found


def malformed_grpc(good: bytes, seed: int = 5) -> list[Malformed]:
    """200 messages to a model `flowers` over gRPC, which needs tensorflow-serving-api."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow_serving.apis import predict_pb2

    generator = random.Random(seed)

    def message(*, model: str = "flowers", signature: str = "", version: int = 0, **inputs: Any) -> Any:
        made = predict_pb2.PredictRequest()
        made.model_spec.name, made.model_spec.signature_name = model, signature
        if version:
            made.model_spec.version.value = version
        for name, value in inputs.items():
            is_tensor = isinstance(value, TensorProto)
            made.inputs[name].CopyFrom(value if is_tensor else tf.make_tensor_proto(value))
        return made

    refused = ("INVALID_ARGUMENT",)
    found = [
        Malformed("image", message(image_bytes=images), refused, position)
        for images, position in _batches(good, seed)
    ]
    images = tf.make_tensor_proto([good])
    cut_floats = tf.make_tensor_proto(np.ones(4, np.float32))
    cut_floats.tensor_content = cut_floats.tensor_content[:-1]
    wrong: list[dict[str, Any]] = [
        {}, {"image": images}, {"images": images, "image_bytes": images}, {"pixels": images},
        {"image_bytes": TensorProto()}, {"image_bytes": cut_floats}, {"image_bytes": good},
        {"image_bytes": [[good]]}, {"image_bytes": [[good], [good]]}, {"image_bytes": 1}, {"image_bytes": [1.5]},
        {"image_bytes": [True]}, {"image_bytes": np.frombuffer(good, np.uint8)},
        {"image_bytes": np.zeros((1, 8, 8, 3), np.float32)},
        {"signature": "serving_pixels", "image_bytes": images}, {"signature": "serving_pixels", "pixels": [good]},
        {"signature": "serving_pixels", "pixels": np.zeros((1, 7, 8, 3), np.float32)},
        {"signature": "serving_pixels", "pixels": np.zeros((8, 8, 3), np.float32)},
        {"signature": "serving_pixels", "pixels": np.zeros((1, 8, 8, 4), np.float32)},
        {"signature": "serving_pixels", "pixels": np.zeros((1, 2**15), np.float32)},
    ]  # fmt: skip
    found += [Malformed("keys", message(**inputs), refused) for inputs in wrong]
    found += [
        Malformed("name", message(model=model, image_bytes=[good]), ("NOT_FOUND",)) for model in ("", "weeds")
    ]
    found.append(Malformed("name", message(version=9, image_bytes=[good]), ("NOT_FOUND",)))
    either = ("FAILED_PRECONDITION", "INVALID_ARGUMENT")  # differs between versions of the server
    found.append(Malformed("name", message(signature="nope", image_bytes=[good]), either))
    while len(found) < COUNT - CUT_MESSAGES:
        if generator.random() < 0.5:
            name = "".join(generator.choices("abcdefgh_", k=generator.randrange(1, 12)))
            found.append(Malformed("keys", message(**{name: images}), refused))
        else:
            shape = [generator.randrange(1, 5) for _ in range(generator.randrange(5))]
            kind = generator.choice([np.float32, np.float64, np.int64, np.uint8, np.bool_])
            found.append(Malformed("kind", message(image_bytes=np.ones(shape, kind)), refused))
    whole, start = message(image_bytes=[good]).SerializeToString(), len(message().SerializeToString())
    while len(found) < COUNT:
        # gRPC itself answers what is no message: the server's code never sees it
        cut = whole[: generator.randrange(start + 1, len(whole))]
        found.append(Malformed("cut message", cut, ("INTERNAL",)))
    return found


def problem_of(request: Malformed, code: int | str, message: str) -> str:
    """What is wrong with an answer; empty where it is a clean refusal."""
    if code not in request.codes:
        return f"{request.what}: {code} in place of {request.codes}: {message[:300]}"
    if not message or "Traceback" in message:
        return f"{request.what}: {code} says {message[:300]!r}"
    if request.position is not None and not re.search(rf"\bimage {request.position} is\b", message):
        return f"{request.what}: position {request.position} is not named: {message[:300]}"
    return ""


# What a client is told: a code, a message of the error, and the answer where there is one.
Told = tuple[int | str, str, Any]


@contextlib.contextmanager
def asker(running: StandIn, way: str) -> Iterator[Callable[[Any], Told]]:
    """Sends a `Malformed.request`, without kerastl's client: that would never send such a thing."""
    if way == "rest":
        with requests.Session() as session:

            def ask_rest(request: Any) -> Told:
                path, body = request
                reply = session.post(running.rest + path, data=body, timeout=20)
                answer = reply.json()
                return reply.status_code, answer.get("error", ""), answer.get("outputs")

            yield ask_rest
        return
    import grpc
    from tensorflow_serving.apis import predict_pb2

    assert running.grpc
    with grpc.insecure_channel(running.grpc.removeprefix("grpc://")) as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=lambda each: each if isinstance(each, bytes) else each.SerializeToString(),
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )

        def ask_grpc(request: Any) -> Told:
            try:
                response = call(request, timeout=20)
            except grpc.RpcError as error:
                return error.code().name, error.details() or "", None
            return "OK", "", str(response)

        yield ask_grpc


def requests_of(way: str, good: bytes, seed: int = 5) -> tuple[list[Malformed], Malformed]:
    """200 malformed requests, and one that only pretends to be."""
    bad = malformed_rest(good, seed) if way == "rest" else malformed_grpc(good, seed)
    first = bad[0]
    if way == "rest":
        image = {"b64": base64.b64encode(good).decode()}
        sound: Any = (first.request[0], json.dumps({"inputs": {"image_bytes": [image]}}))
    else:
        sound = type(first.request)()
        sound.CopyFrom(first.request)
        del sound.inputs["image_bytes"].string_val[:]
        sound.inputs["image_bytes"].string_val.append(good)
        sound.inputs["image_bytes"].tensor_shape.dim[0].size = 1
    return bad, Malformed("sound", sound, first.codes)
