"""The stand-in for TensorFlow Serving holds out, and docs/serving.md says what it does."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from malformed import asker, problem_of, requests_of
from PIL import Image
from served import BOTH, PALETTE, StandIn, export_flowers, stand_in

from kerastl.export.signature import SERVING_EMBEDDING, SERVING_RAW
from kerastl.jobs.predict import predict

SIGNATURES = (SERVING_RAW, "serving_pixels", SERVING_EMBEDDING)


@dataclass(frozen=True)
class Exported:
    """A small model that kerastl exported, served as `flowers`, and an image to ask it about."""

    version: Path
    running: StandIn
    good: bytes


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    version, good = export_flowers(tmp_path_factory.mktemp("exported"))
    with stand_in({"flowers": version.parent}) as running:
        yield Exported(version, running, good)


@pytest.mark.parametrize("way", BOTH)
def test_200_malformed_requests_are_refused_and_the_server_goes_on(exported: Exported, way: str) -> None:
    bad, sound = requests_of(way, exported.good)
    assert len(bad) == 200
    assert sum(each.position is not None for each in bad) > 40
    with asker(exported.running, way) as ask:
        before = ask(sound.request)
        assert before[2], "what is well-formed is answered"
        problems = [problem for each in bad if (problem := problem_of(each, *ask(each.request)[:2]))]
        assert problems == []
        assert ask(sound.request) == before


@pytest.mark.parametrize("way", BOTH)
def test_a_sound_request_among_the_malformed_is_noticed(exported: Exported, way: str) -> None:
    bad, sound = requests_of(way, exported.good)
    with asker(exported.running, way) as ask:
        found = [problem_of(each, *ask(each.request)[:2]) for each in [*bad[:5], sound, *bad[5:10]]]
    assert [index for index, problem in enumerate(found) if problem] == [5]


@pytest.mark.parametrize("way", BOTH)
def test_a_server_that_names_no_position_is_noticed(exported: Exported, served: StandIn, way: str) -> None:
    """The model that is served as `flowers` there decodes without `check_formats`."""
    bad, _ = requests_of(way, exported.good)
    with asker(served, way) as ask:
        found = [(each, problem_of(each, *ask(each.request)[:2])) for each in bad[:130]]
    assert all("is not named" in problem for each, problem in found if each.position is not None)
    assert not any(problem for each, problem in found if each.position is None)


ROOT = Path(__file__).parents[1]
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def snippets(language: str) -> list[str]:
    """The code blocks of docs/serving.md in a language."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def run_snippet(code: str, command: list[str], served: StandIn, folder: Path) -> str:
    """What a snippet prints beside a picture.jpg as cameras make them, with the stand-in where the page has localhost."""
    write_large_red_picture(folder / "picture.jpg")
    assert "http://localhost:8501" in code, "else the snippet asks nobody"
    words = [*command, code.replace("http://localhost:8501", served.rest)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_large_red_picture(path: Path) -> None:
    """More than the 128 KiB that Linux takes as one argument of a command."""
    noise = np.random.default_rng(0).integers(-30, 31, (400, 400, 3))
    pixels = np.clip(np.array(PALETTE["red"]) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=100)
    assert path.stat().st_size > 200_000


@NEEDS_CURL
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


@NEEDS_CURL
def test_the_curl_snippet_beside_the_models_works(served: StandIn, tmp_path: Path) -> None:
    page = (ROOT / "saved_models" / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"(?:^    .*\n)+", page, flags=re.MULTILINE) if "curl" in block]
    said = run_snippet(code.replace("<name>", "flowers"), ["bash", "-c"], served, tmp_path)
    status, end = json.JSONDecoder().raw_decode(said)
    assert [each["state"] for each in status["model_version_status"]] == ["AVAILABLE"]
    (prediction,) = json.loads(said[end:])["predictions"]
    assert prediction["label"] == "red"


@pytest.mark.parametrize("code", snippets("python"), ids=["kerastl", "requests"])
def test_the_python_snippets_of_the_page_work(served: StandIn, tmp_path: Path, code: str) -> None:
    printed = run_snippet(code, [sys.executable, "-c"], served, tmp_path)
    assert "red 0.9" in printed.splitlines()[0]


def signatures_of(url: str) -> dict[str, Any]:
    """By the metadata of a served model."""
    reply = requests.get(url + "/metadata", timeout=20).json()
    return reply["metadata"]["signature_def"]["signature_def"]


def test_the_page_names_what_is_served(exported: Exported, served: StandIn) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    signatures = signatures_of(exported.running.url("flowers"))
    assert set(SIGNATURES) <= set(signatures)
    for name in SIGNATURES:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        ((key, given),) = signatures[name]["inputs"].items()
        dtype = {"DT_STRING": "string", "DT_FLOAT": "float32"}[given["dtype"]]
        sizes = [dimension["size"] for dimension in given["tensor_shape"]["dim"]]
        shape = ", ".join({"-1": "n", "8": "s"}.get(size, size) for size in sizes)
        assert f"| `{key}`: {dtype} [{shape}]" in row
        outputs = signatures[name]["outputs"]
        assert ("`embedding`" in row) == (list(outputs) == ["embedding"])
        for output in outputs:
            assert f"`{output}`" in page
    for output in signatures_of(served.url("careful"))["serving_default"]["outputs"]:
        assert f"`{output}`" in page


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


def test_an_exported_model_answers_behind_a_server_as_it_does_here(exported: Exported, palette: Path) -> None:
    from kerastl.export.reader import load_exported

    reader = load_exported(exported.version)
    predictions = predict(exported.running.url("flowers"), [str(palette)], top=3)
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
