"""The stand-in for TensorFlow Serving holds out, and docs/serving.md says what it does."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from served import PALETTE, StandIn, stand_in

from kerastl import workflow


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims to be so large and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def malformed_requests(good: bytes) -> list[tuple[str, str | bytes]]:
    """200 requests that no server should answer, as path and body."""
    generator = random.Random(5)
    images = [good[: generator.randrange(len(good) * 9 // 10)] for _ in range(60)]
    images += [generator.randbytes(generator.randrange(200)) for _ in range(40)]
    images += [png_of(2 ** generator.randrange(14, 31), 2 ** generator.randrange(14, 31)) for _ in range(20)]
    images += ["gänseblümchen ".encode() * n for n in range(10)]
    columns = [{"inputs": {"image_bytes": [{"b64": base64.b64encode(data).decode()}]}} for data in images]
    encoded = {"b64": base64.b64encode(good).decode()}
    wrong: list[Any] = [
        {}, [], 1, None, "x", {"instances": []}, {"instances": {}}, {"instances": [1]}, {"instances": [[encoded]]},
        {"instances": [{"image": encoded}]}, {"instances": [encoded, 1]}, {"instances": [{"b64": "%%%"}]},
        {"instances": [{"b64": 3}]}, {"inputs": {"image": [encoded]}}, {"inputs": 7}, {"inputs": {"image_bytes": 1}},
        {"inputs": [encoded], "instances": [encoded]}, {"inputs": encoded}, {"inputs": [[encoded], []]},
        {"signature_name": "nope", "instances": [encoded]}, {"signature_name": 4, "instances": [encoded]},
        {"inputs": {"image_bytes": [{"b64": encoded["b64"][:-1]}]}}, {"instances": [None]}, {"instances": [True]},
    ]  # fmt: skip
    path = "/v1/models/flowers:predict"
    found: list[tuple[str, str | bytes]] = [(path, json.dumps(body)) for body in columns + wrong]
    found += [("/v1/models/weeds:predict", "{}"), ("/v1/models/flowers/versions/9:predict", "{}")]
    found += [("/v1/models/flowers", "{}"), ("/v1/models/flowers:sing", "{}"), ("/v1/models/:predict", "{}")]
    text = json.dumps({"instances": [encoded]})
    while len(found) < 200:
        found.append((path, text[: generator.randrange(len(text))].encode() + generator.randbytes(1)))
    return found


def test_200_malformed_requests_are_refused_and_the_server_goes_on(served: StandIn, tmp_path: Path) -> None:
    noise = random.Random(4).randbytes(24 * 24 * 3)
    Image.frombytes("RGB", (24, 24), noise).save(tmp_path / "good.jpg")
    good = (tmp_path / "good.jpg").read_bytes()
    body = {"instances": [{"b64": base64.b64encode(good).decode()}]}
    bad = malformed_requests(good)
    assert len(bad) == 200
    with requests.Session() as session:
        before = session.post(served.url("flowers") + ":predict", json=body).json()
        assert before["predictions"][0]["classes"], "what is well-formed is answered"
        for path, data in bad:
            reply = session.post(served.rest + path, data=data, timeout=20)
            assert reply.status_code in (400, 404), (path, data[:200], reply.text[:500])
            message = reply.json()["error"]
            assert message and "Traceback" not in message
        assert session.post(served.url("flowers") + ":predict", json=body).json() == before


def snippets(language: str) -> list[str]:
    """The code blocks of docs/serving.md in a language."""
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def run_snippet(code: str, command: list[str], served: StandIn, folder: Path) -> str:
    """What a snippet prints beside a red picture.jpg, with the stand-in where the page has localhost."""
    Image.new("RGB", (20, 20), PALETTE["red"]).save(folder / "picture.jpg")
    assert "http://localhost:8501" in code, "else the snippet asks nobody"
    words = [*command, code.replace("http://localhost:8501", served.rest)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_snippet_of_the_page_works(served: StandIn, tmp_path: Path) -> None:
    (code,) = [snippet for snippet in snippets("sh") if "curl" in snippet]
    (prediction,) = json.loads(run_snippet(code, ["bash", "-c"], served, tmp_path))["predictions"]
    assert (prediction["label"], prediction["classes"][0]) == ("red", "red")
    (tmp_path / "picture.jpg").write_bytes(b"no image")
    refused = code.replace("curl -s", "curl -s -w '%{http_code}'").replace(
        "http://localhost:8501", served.rest
    )
    said = subprocess.run(["bash", "-c", refused], capture_output=True, text=True, cwd=tmp_path).stdout
    assert said.endswith("400")
    assert "Unknown image file format" in json.loads(said.removesuffix("400"))["error"]


@pytest.mark.parametrize("code", snippets("python"), ids=["kerastl", "requests"])
def test_the_python_snippets_of_the_page_work(served: StandIn, tmp_path: Path, code: str) -> None:
    printed = run_snippet(code, [sys.executable, "-c"], served, tmp_path)
    assert "red 0.9" in printed.splitlines()[0]


def test_the_page_names_the_outputs_that_are_served(served: StandIn) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    reply = requests.get(served.url("careful") + "/metadata", timeout=20).json()
    signature = reply["metadata"]["signature_def"]["signature_def"]["serving_default"]
    for name in signature["outputs"]:
        assert f"`{name}`" in page
    assert [*signature["inputs"]] == ["image_bytes"]


def test_the_stand_in_speaks_both_formats_alike(served: StandIn, picture: str) -> None:
    encoded = {"b64": base64.b64encode(Path(picture).read_bytes()).decode()}
    url = served.url("flowers") + ":predict"
    rows = requests.post(url, json={"instances": [encoded]}).json()["predictions"]
    named_rows = requests.post(url, json={"instances": [{"image_bytes": encoded}]}).json()["predictions"]
    columns = requests.post(url, json={"inputs": [encoded]}).json()["outputs"]
    assert rows == named_rows == [{name: values[0] for name, values in columns.items()}]
    one = requests.post(served.url("alien") + ":predict", json={"instances": [1.0, 2.0]}).json()
    assert one == {"predictions": [2.0, 3.0]}
    status = requests.get(served.url("flowers")).json()["model_version_status"]
    assert [(each["version"], each["state"]) for each in status] == [("3", "AVAILABLE")]


def test_an_exported_model_answers_behind_a_server_as_it_does_here(palette: Path, tmp_path: Path) -> None:
    import keras

    from kerastl.export.reader import load_exported
    from kerastl.export.serving import Serving
    from kerastl.export.signatures import write_saved_model

    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(6)]
    )
    version = tmp_path / "m" / "1"
    write_saved_model(model, Serving(tuple(PALETTE), 8), version)
    reader = load_exported(version)
    with stand_in({"m": version.parent}) as running:
        predictions = workflow.predict(running.url("m"), [str(palette)], top=3)
    probabilities, _ = reader.predict_bytes([Path(each.path).read_bytes() for each in predictions])
    for each, row in zip(predictions, probabilities, strict=True):
        best = (-row).argsort(kind="stable")[:3]
        assert [label for label, _ in each.top] == [list(PALETTE)[index] for index in best]
        assert [score for _, score in each.top] == pytest.approx(row[best].tolist(), abs=1e-6)


def test_the_stand_in_ends_with_its_test(served_models: dict[str, Path]) -> None:
    with stand_in({"flowers": served_models["flowers"]}) as running:
        assert requests.get(running.url("flowers"), timeout=10).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(running.url("flowers"), timeout=10)
