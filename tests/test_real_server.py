"""The real TensorFlow Serving answers for a model of kerastl's: Docker's tensorflow/serving, as `make serve` starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import heed_ctrl_c
from malformed import asker, problem_of, requests_of
from served import StandIn, export_flowers

from kerastl.jobs.predict import predict

ROOT = Path(__file__).parents[1]
PORTS = (8500, 8501)  # as tools/serve.sh has them
SERVER = StandIn("http://127.0.0.1:8501", "grpc://127.0.0.1:8500")
WAYS = ["rest"] + ["grpc"] * (importlib.util.find_spec("tensorflow_serving") is not None)
IMAGE = "tensorflow/serving:2.21.0"  # as tools/serve.sh has it
FETCH_SECONDS = 900  # a few hundred megabytes
START_SECONDS = 120


def succeeds(*words: str, seconds: float = 30) -> bool:
    """Whether a command ends well, and in time."""
    try:
        return subprocess.run(words, capture_output=True, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def why_not() -> str:
    """Why the server cannot be started here; empty where it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if not succeeds("docker", "info"):
        return "docker is installed but does not answer: `docker info` fails"
    if not (
        succeeds("docker", "image", "inspect", IMAGE)
        or succeeds("docker", "pull", IMAGE, seconds=FETCH_SECONDS)
    ):
        return f"the image {IMAGE} is not here and cannot be fetched: `docker pull` fails"
    for port in PORTS:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                return f"port {port}, which tools/serve.sh needs, is taken"
    return ""


def containers() -> list[str]:
    """That publish the server's port: ours alone, as the port was free before."""
    command = ["docker", "ps", "--quiet", "--filter", f"publish={PORTS[-1]}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`tools/serve.sh flowers` in a folder, once the model is available."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(folder / "tools" / "serve.sh"), "flowers"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_ctrl_c,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not is_available():
            said = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"the server ended:\n{said}"
            assert time.monotonic() < end, f"the model did not become available:\n{said}"
            time.sleep(0.5)
        yield process
    finally:
        if left := containers():
            subprocess.run(["docker", "kill", *left], capture_output=True, timeout=60)
        process.kill()
        process.wait()


def is_available() -> bool:
    try:
        reply = requests.get(SERVER.url("flowers"), timeout=5).json()
    except requests.RequestException:
        return False
    return [each["state"] for each in reply.get("model_version_status", [])] == ["AVAILABLE"]


@pytest.mark.docker
def test_the_real_server_answers_refuses_and_ends_with_ctrl_c(tmp_path: Path, palette: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(f"{reason}; this test runs Docker's tensorflow/serving")
    from kerastl.export.warmup import write_warmup

    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    version, good = export_flowers(tmp_path / "saved_models")
    assert write_warmup(version, "flowers", [good], "image_bytes") > 0
    with serving(tmp_path) as process:
        for way in WAYS:
            compare_with_the_file(version, palette, way)
            refuses(good, way)
            compare_with_the_file(version, palette, way)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert containers() == []
        assert not is_available()


def compare_with_the_file(version: Path, images: Path, way: str) -> None:
    from kerastl.export.reader import load_exported

    reader = load_exported(version)
    predictions = predict(SERVER.url("flowers", way), [str(images)], top=5)
    assert len(predictions) == len(list(images.iterdir()))
    probabilities, _ = reader.predict_bytes([Path(each.path).read_bytes() for each in predictions])
    for each, row in zip(predictions, probabilities, strict=True):
        best = (-row).argsort(kind="stable")[:5]
        assert [label for label, _ in each.top] == [reader.class_names[index] for index in best]
        assert [score for _, score in each.top] == pytest.approx(row[best].tolist(), abs=1e-5)


def refuses(good: bytes, way: str) -> None:
    """A fifth of the malformed requests, and a sound one before and after."""
    bad, sound = requests_of(way, good)
    # what is no message is answered by gRPC itself, and in C++, as the server is, with other words than in Python
    bad = [each for each in bad[::5] if each.what != "cut message"]
    with asker(SERVER, way) as ask:
        assert ask(sound.request)[2], "what is well-formed is answered"
        assert [problem for each in bad if (problem := problem_of(each, *ask(each.request)[:2]))] == []
        assert ask(sound.request)[2]
