"""What tests of serving share: small models of colours, the stand-in server around them, and servers that misbehave."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).with_name("serving_stand_in.py")
PALETTE = {
    "black": (0, 0, 0), "blue": (30, 60, 220), "green": (40, 200, 60),
    "red": (220, 50, 40), "white": (255, 255, 255), "yellow": (230, 220, 30),
}  # fmt: skip

NEEDS_GRPC = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None,
    reason="tensorflow-serving-api is not installed: no gRPC client",
)
BOTH = ["rest", pytest.param("grpc", marks=NEEDS_GRPC)]


def write_colour_models(folder: Path) -> dict[str, Path]:
    """SavedModels that name the colour of an image, written without kerastl's exporter.

    `flowers` answers as an exported model does, `careful` abstains as well, `tags` gives several labels, `old` has no `classes`, `alien` takes
    no images at all, and `renamed` answers under another signature than `serving_default`.
    """
    import tensorflow as tf

    from kerastl.modality.image.decode import decode

    names, colours = tf.constant(list(PALETTE)), tf.constant(list(PALETTE.values()), tf.float32)

    def scores_of(image_bytes: tf.Tensor) -> tf.Tensor:
        spec = tf.TensorSpec([8, 8, 3], tf.uint8)
        pixels = tf.map_fn(lambda data: decode(data, 8, "stretch"), image_bytes, fn_output_signature=spec)
        mean = tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2])
        return tf.nn.softmax(-tf.reduce_sum((mean[:, None] - colours) ** 2, -1) / 5000.0)

    def flowers(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = scores_of(image_bytes)
        scores, indices = tf.math.top_k(probabilities, 5)
        return {
            "probabilities": probabilities,
            "classes": tf.gather(names, indices),
            "scores": scores,
            "label": tf.gather(names, indices[:, 0]),
            "label_index": tf.cast(indices[:, 0], tf.int64),
        }

    def careful(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = flowers(image_bytes)
        return answers | {"accepted": answers["scores"][:, 0] >= 0.9}

    def tags(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = flowers(image_bytes)
        lines = tf.where(answers["probabilities"] > 0.01, names + "\n", "")
        return answers | {
            "labels": tf.strings.regex_replace(tf.strings.reduce_join(lines, axis=1), "\n$", "")
        }

    def old(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answers = flowers(image_bytes)
        return {"label": answers["label"], "score": answers["scores"][:, 0]}

    def alien(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 1.0}

    def renamed(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return flowers(image_bytes)

    images, numbers = tf.TensorSpec([None], tf.string, "image_bytes"), tf.TensorSpec([None], tf.float32, "x")
    specs = {flowers: images, careful: images, tags: images, old: images, alien: numbers, renamed: images}
    for function, spec in specs.items():
        served = tf.function(function, input_signature=[spec], autograph=False)
        path = folder / function.__name__ / "3"
        signature = "classify" if function is renamed else "serving_default"
        tf.saved_model.save(tf.Module(), str(path), signatures={signature: served})
    return {function.__name__: folder / function.__name__ for function in specs}


def export_flowers(models: Path) -> tuple[Path, bytes]:
    """Export a small model as version 1 of `flowers`.

    Args:
        models: folder of models, written to.

    Returns:
        The version's folder, and an image to ask about.
    """
    import keras
    from PIL import Image

    from kerastl.export.saved_model import write_saved_model
    from kerastl.export.signature import Serving
    from kerastl.modality.image import Image as Images

    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(6)]
    )
    version = models / "flowers" / "1"
    write_saved_model(model, Serving(tuple(PALETTE), Images(8)), version)
    encoded = io.BytesIO()
    Image.frombytes("RGB", (24, 24), random.Random(4).randbytes(24 * 24 * 3)).save(encoded, "JPEG")
    return version, encoded.getvalue()


@dataclass(frozen=True)
class StandIn:
    """A running stand-in; `grpc` is None where tensorflow-serving-api is not installed."""

    rest: str
    grpc: str | None

    def url(self, name: str, scheme: str = "rest") -> str:
        return f"{self.rest}/v1/models/{name}" if scheme == "rest" else f"{self.grpc}/{name}"


@contextlib.contextmanager
def stand_in(models: dict[str, Path], *options: str) -> Iterator[StandIn]:
    """The stand-in in a process of its own, which ends with its stdin."""
    command = [
        sys.executable, str(STAND_IN), *(f"{name}={folder}" for name, folder in models.items()), *options
    ]  # fmt: skip
    s = "s" if "--tls" in options else ""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            ports = json.loads(process.stdout.readline())
            grpc = f"grpc{s}://127.0.0.1:{ports['grpc']}" if ports["grpc"] else None
            yield StandIn(f"http{s}://127.0.0.1:{ports['rest']}", grpc)
        finally:
            process.stdin.close()


@dataclass
class Scripted:
    """A server that answers as it is told, and remembers what it was asked."""

    answer: Callable[[int, list[Any]], tuple[int, Any]]
    batches: list[list[Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""

    @property
    def requests(self) -> int:
        return len(self.batches)


@contextlib.contextmanager
def scripted(
    answer: Callable[[int, list[Any]], tuple[int, Any]], status_reply: Any = None
) -> Iterator[Scripted]:
    """A server whose `answer` gets the number of the request, 1 for the first, and the images it holds.

    It returns a status and a body: text as it is, all else as JSON. A status of 0 drops the connection; a negative
    one answers with 200 after so many tenths of a second. It has no metadata to tell, and a status where one is given.
    """
    script = Scripted(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if status_reply is not None and not self.path.endswith("/metadata"):
                self.reply(200, status_reply)
            else:
                self.reply(404, {"error": "no metadata"})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.batches.append([image["b64"] for image in request["inputs"]["image_bytes"]])
            script.authorizations.append(self.headers["Authorization"])
            status, body = script.answer(script.requests, script.batches[-1])
            if status == 0:
                self.close_connection = True
                return
            if status < 0:
                time.sleep(-status / 10)
            self.reply(max(status, 200), body)

        def reply(self, status: int, body: Any) -> None:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            with contextlib.suppress(OSError):  # who waits no longer does not read
                self.send_response(status)
                self.send_header("Location", "https://elsewhere/")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1/models/flowers"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


def all_red(number: int, images: list[Any]) -> tuple[int, Any]:
    """An answer as a served model gives it, whatever the images."""
    count = len(images)
    return 200, {"outputs": {"classes": [["red", "blue"]] * count, "scores": [[0.75, 0.25]] * count}}
