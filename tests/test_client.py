"""Clients of served models: `kerastl predict --url`, over REST and gRPC, from servers good and bad."""

from __future__ import annotations

import base64
import copy
import csv
import importlib.util
import io
import json
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from conftest import Kerastl
from PIL import Image
from served import PALETTE, StandIn, all_red, scripted, stand_in, write_colour_models

from kerastl import workflow
from kerastl.cli.predict import predict
from kerastl.client.address import is_address, parse_address
from kerastl.client.asking import BATCH_BYTES, BATCH_IMAGES, Patience, ask
from kerastl.errors import KerastlError, ServingError, UserError
from kerastl.prediction import Prediction
from kerastl.progress import Progress

HURRY = Patience(timeout_seconds=20, retries=2, first_wait_seconds=0.01)
HAS_GRPC = importlib.util.find_spec("tensorflow_serving") is not None
NEEDS_GRPC = pytest.mark.skipif(
    not HAS_GRPC, reason="tensorflow-serving-api is not installed: no gRPC client"
)
BOTH = ["rest", pytest.param("grpc", marks=NEEDS_GRPC)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of SavedModels; see `write_colour_models`."""
    return write_colour_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Iterator[StandIn]:
    """The stand-in with all models."""
    with stand_in(models) as running:
        yield running


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder with an image of each colour of the palette, named for it."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in PALETTE.items():
        Image.new("RGB", (12, 9), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """One red image."""
    Image.new("RGB", (8, 8), PALETTE["red"]).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


class Notes(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def many(folder: Path, count: int) -> list[str]:
    """`count` images whose colours are those of the palette in turn."""
    names = list(PALETTE)
    for number in range(count):
        Image.new("RGB", (8, 8), PALETTE[names[number % len(names)]]).save(folder / f"{number:04}.png")
    return [str(folder / f"{number:04}.png") for number in range(count)]


def labels(predictions: list[Prediction]) -> list[str]:
    return [each.label for each in predictions]


@pytest.mark.parametrize(
    ("text", "url", "version"),
    [
        ("http://localhost:8501/v1/models/flowers", "http://localhost:8501/v1/models/flowers", None),
        ("http://h/v1/models/flowers/", "http://h/v1/models/flowers", None),
        ("http://h:1/v1/models/flowers/versions/12:predict", "http://h:1/v1/models/flowers/versions/12", 12),
        ("https://h/vision/v1/models/f", "https://h/vision/v1/models/f", None),
        ("https://me:secret@h/v1/models/f", "https://h/v1/models/f", None),
        ("http://h/v1/models/rote%20rosen", "http://h/v1/models/rote%20rosen", None),
        ("http://[::1]:8501/v1/models/f", "http://[::1]:8501/v1/models/f", None),
        ("grpc://h:9000/flowers", "grpc://h:9000/flowers", None),
        ("grpc://h/flowers/versions/2", "grpc://h:8500/flowers/versions/2", 2),
    ],
)
def test_an_address_is_read_and_shown_without_passwords(text: str, url: str, version: int | None) -> None:
    address = parse_address(text)
    assert (address.url, str(address), address.version) == (url, url, version)
    assert is_address(text)
    assert parse_address(address.url).url == url


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("localhost:8501", ["does not say whether", "http://localhost:8501/v1/models/NAME", "grpc://localhost:8500"]),
        ("myhost:8501/v1/models/f", ["does not say whether", "http://myhost:8501/v1/models/NAME"]),
        ("http://myhost:8501", ["names no model", "http://myhost:8501/v1/models/NAME"]),
        ("http://h:8501/flowers", ["names no model"]),
        ("http://h/v1/models/", ["names no model"]),
        ("http://h/v1/models/f:classify", ["names no model"]),
        ("http://h/v1/models/f?x=1", ["names no model"]),
        ("http://h/v1/models/f/versions/last", ["names no model", "/versions/N"]),
        ("grpc://h:8500", ["names no model", "grpc://h:8500/NAME"]),
        ("ftp://h/v1/models/f", ["'ftp' is none of http, https and grpc"]),
        ("http:///v1/models/f", ["names no host"]),
        ("http://h:99999/v1/models/f", ["port"]),
        ("http://me:secret@h", ["'http://h'", "names no model"]),
        ("", ["does not say whether"]),
    ],
)  # fmt: skip
def test_what_is_no_address_says_what_is_expected(text: str, fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_address(text)
    for fragment in [*fragments, "Expected http://"]:
        assert fragment in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_is_no_address(tmp_path: Path) -> None:
    for folder in ("runs/x", "saved_models/flowers/1", str(tmp_path), "a:b", tmp_path):
        assert not is_address(folder)


@pytest.mark.parametrize("scheme", BOTH)
def test_a_folder_a_glob_and_files_are_answered_in_their_order(
    served: StandIn, colours: Path, scheme: str
) -> None:
    url = served.url("flowers", scheme)
    folder = workflow.predict(url, [str(colours)])
    assert [Path(each.path).stem for each in folder] == labels(folder) == sorted(PALETTE)
    assert labels(workflow.predict(url, [str(colours / "*e*.png")])) == [
        "blue",
        "green",
        "red",
        "white",
        "yellow",
    ]
    red = str(colours / "red.png")
    some = workflow.predict(url, [red, str(colours / "b*.png"), red], top=2)
    assert labels(some) == ["red", "black", "blue"]
    for each in folder:
        assert len(each.top) == 5
        assert each.top[0] == (each.label, each.probability)
        values = [probability for _, probability in each.top]
        assert values == sorted(values, reverse=True)
        assert each.accepted and not each.error
    assert {len(each.top) for each in some} == {2}


@NEEDS_GRPC
def test_rest_and_grpc_answer_alike(served: StandIn, colours: Path) -> None:
    rest, grpc = (
        workflow.predict(served.url("careful", scheme), [str(colours)]) for scheme in ("rest", "grpc")
    )
    for one, other in zip(rest, grpc, strict=True):
        assert (one.path, one.label, one.accepted) == (other.path, other.label, other.accepted)
        assert [score for _, score in one.top] == pytest.approx([score for _, score in other.top], abs=1e-7)


def test_more_images_than_a_batch_keep_their_order(served: StandIn, tmp_path: Path) -> None:
    count = 2 * BATCH_IMAGES + 5
    paths = many(tmp_path, count)
    predictions = workflow.predict(served.url("flowers"), [str(tmp_path)])
    assert [each.path for each in predictions] == paths
    assert labels(predictions) == [list(PALETTE)[number % len(PALETTE)] for number in range(count)]
    with scripted(all_red) as server:
        ask(server.url, [str(tmp_path)], top=1)
    assert [len(batch) for batch in server.batches] == [BATCH_IMAGES, BATCH_IMAGES, 5]
    sent = [base64.b64decode(data) for batch in server.batches for data in batch]
    assert sent == [Path(path).read_bytes() for path in paths]


def test_large_images_make_small_batches(tmp_path: Path) -> None:
    for number, share in enumerate((0.4, 0.4, 0.4, 1.2, 0.1)):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(int(share * BATCH_BYTES)))
    with scripted(all_red) as server:
        assert len(ask(server.url, [str(tmp_path)], top=1)) == 5
    assert [len(batch) for batch in server.batches] == [2, 1, 1, 1]


def test_a_version_may_be_asked_for(served: StandIn, picture: str) -> None:
    assert labels(workflow.predict(served.url("flowers/versions/3"), [picture])) == ["red"]


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_may_abstain(served: StandIn, picture: str, tmp_path: Path, scheme: str) -> None:
    between = tmp_path / "between.png"
    Image.new("RGB", (8, 8), (125, 125, 125)).save(between)
    sure, unsure = workflow.predict(served.url("careful", scheme), [picture, str(between)])
    assert sure.accepted and sure.label == "red"
    assert not unsure.accepted and unsure.label
    assert workflow.predict(served.url("flowers", scheme), [str(between)])[0].accepted


@pytest.mark.parametrize("scheme", BOTH)
def test_bad_images_are_named_and_the_others_answered(
    served: StandIn, colours: Path, tmp_path: Path, scheme: str
) -> None:
    good = many(tmp_path, 40)
    (tmp_path / "0017x.png").write_bytes(b"no image at all")
    (tmp_path / "0033x.png").write_bytes(b"")
    Image.new("RGB", (64, 64), PALETTE["red"]).save(tmp_path / "0034x.jpg")
    cut = (tmp_path / "0034x.jpg").read_bytes()
    (tmp_path / "0034x.jpg").write_bytes(cut[: len(cut) // 2])
    whole = [{"b64": base64.b64encode(path.read_bytes()).decode()} for path in sorted(tmp_path.glob("*.*"))]
    refused = requests.post(served.url("flowers") + ":predict", json={"instances": whole})
    assert refused.status_code == 400, "else this test proves nothing"

    predictions = workflow.predict(served.url("flowers", scheme), [str(tmp_path / "*.*")])
    assert {Path(each.path).name: each.error for each in predictions if each.error} == {
        "0017x.png": "not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)",
        "0033x.png": "empty file",
        "0034x.jpg": "truncated or damaged jpeg",
    }
    answered = [each for each in predictions if not each.error]
    assert [each.path for each in answered] == good
    assert labels(answered) == [list(PALETTE)[number % len(PALETTE)] for number in range(40)]


def test_one_bad_image_costs_few_requests(tmp_path: Path) -> None:
    many(tmp_path, BATCH_IMAGES)
    (tmp_path / "0013.png").write_bytes(b"bad")
    bad = base64.b64encode(b"bad").decode()

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return (400, {"error": "Unknown image file format."}) if bad in images else all_red(number, images)

    with scripted(answer) as server:
        predictions = ask(server.url, [str(tmp_path)], top=1, patience=HURRY)
    assert [Path(each.path).name for each in predictions if each.error] == ["0013.png"]
    assert server.requests == 11


def test_a_file_that_goes_away_while_others_are_asked_about_is_named(tmp_path: Path) -> None:
    paths = many(tmp_path, BATCH_IMAGES + 2)  # the first one after a batch is read with it

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        Path(paths[-1]).unlink(missing_ok=True)
        return all_red(number, images)

    with scripted(answer) as server:
        predictions = ask(server.url, [str(tmp_path)], top=1, patience=HURRY)
    assert [each.error for each in predictions] == [""] * (BATCH_IMAGES + 1) + ["No such file or directory"]
    assert [len(batch) for batch in server.batches] == [BATCH_IMAGES, 1]


@pytest.mark.parametrize("scheme", BOTH)
def test_a_server_that_is_down_is_asked_again_and_then_named(picture: str, scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/models/f" if scheme == "rest" else f"grpc://127.0.0.1:{port}/f"
    notes = Notes()
    with pytest.raises(ServingError) as caught:
        ask(url, [picture], top=1, patience=HURRY, progress=notes)
    assert f"{url} did not answer in 3 attempts" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "make serve" in str(caught.value)
    assert [line.rpartition("again in ")[2] for line in notes.lines] == ["0.01 s", "0.02 s"]


@pytest.mark.parametrize("status", [429, 502, 503, 0], ids=lambda status: str(status or "dropped"))
def test_what_passes_is_asked_again(picture: str, status: int) -> None:
    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return (status, {"error": "later"}) if number < 3 else all_red(number, images)

    with scripted(answer) as server:
        assert labels(ask(server.url, [picture], top=1, patience=HURRY)) == ["red"]
    assert server.requests == 3
    with (
        scripted(answer) as server,
        pytest.raises(ServingError, match=r"in 2 attempts, the last time: [\w :]+\. Check"),
    ):
        ask(server.url, [picture], top=1, patience=Patience(retries=1, first_wait_seconds=0.01))


@pytest.mark.parametrize(
    ("status", "body", "kind", "fragments"),
    [
        (500, {"error": "out of cheese"}, ServingError, ["HTTP 500", "out of cheese"]),
        (504, "", ServingError, ["HTTP 504"]),
        (401, "", UserError, ["credentials", "HTTP 401"]),
        (403, {"error": "who are you"}, UserError, ["credentials", "who are you"]),
        (307, "", UserError, ["https://elsewhere/", "pass that address"]),
        (404, "<html><h1>nginx</h1></html>", UserError, ["does not exist", "nginx"]),
        (404, {"error": "Servable not found"}, UserError, ["does not exist", "Servable not found"]),
    ],
)
def test_what_does_not_pass_is_asked_once(
    picture: str, status: int, body: Any, kind: type[KerastlError], fragments: list[str]
) -> None:
    with scripted(lambda number, images: (status, body)) as server, pytest.raises(kind) as caught:
        ask(server.url, [picture], top=1, patience=HURRY)
    assert server.requests == 1
    for fragment in [*fragments, server.url]:
        assert fragment in str(caught.value)


def test_a_bad_request_is_never_repeated(picture: str) -> None:
    with scripted(lambda number, images: (400, {"error": "no"})) as server:
        (prediction,) = ask(server.url, [picture], top=1, patience=HURRY)
    assert (server.requests, prediction.error, prediction.label) == (1, "no", "")


def test_an_error_that_is_no_json_is_understood(picture: str) -> None:
    old = '{ "error": "can\\\'t decode: Unknown image file format" }'  # as servers before 2.3 escape it
    with pytest.raises(json.JSONDecodeError):
        json.loads(old)
    with scripted(lambda number, images: (400, old)) as server:
        (prediction,) = ask(server.url, [picture], top=1, patience=HURRY)
    assert prediction.error.startswith("not an image TensorFlow decodes")


def test_a_proxy_that_takes_little_gets_smaller_batches(tmp_path: Path) -> None:
    many(tmp_path, 9)

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return all_red(number, images) if len(images) <= 3 else (413, "<h1>Request Entity Too Large</h1>")

    with scripted(answer) as server:
        assert labels(ask(server.url, [str(tmp_path)], top=1, patience=HURRY)) == ["red"] * 9
    assert max(map(len, server.batches[-1:])) <= 3


@pytest.mark.parametrize("tenths", [10])
def test_a_slow_server_is_given_up_in_time(picture: str, tenths: int) -> None:
    def slow(number: int, images: list[Any]) -> tuple[int, Any]:
        return -tenths, all_red(number, images)[1]

    start = time.monotonic()
    with scripted(slow) as server, pytest.raises(ServingError) as caught:
        ask(server.url, [picture], top=1, patience=Patience(timeout_seconds=0.2))
    assert time.monotonic() - start < 0.9
    assert server.requests == 1, "a server under load must not be asked again"
    for fragment in (server.url, "1 images in 0.2 seconds", "--timeout"):
        assert fragment in str(caught.value)
    with scripted(slow) as server:
        assert labels(ask(server.url, [picture], top=1, patience=Patience(timeout_seconds=10))) == ["red"]


@NEEDS_GRPC
def test_a_silent_grpc_server_is_given_up_in_time(picture: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never says a word
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}/f"
        with pytest.raises(ServingError, match=r"0\.3 seconds"):
            ask(url, [picture], top=1, patience=Patience(timeout_seconds=0.3))


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize("name", ["weeds", "flowers/versions/7"])
def test_an_unknown_model_is_named_with_its_address(
    served: StandIn, picture: str, scheme: str, name: str
) -> None:
    with pytest.raises(UserError) as caught:
        workflow.predict(served.url(name, scheme), [picture])
    assert f"{served.url(name, scheme)} does not exist: Servable not found" in str(caught.value)


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize(
    ("name", "found"),
    [("old", "it answered with 'label', 'score'"), ("alien", "it takes 'x' and answers with 'y'")],
)
def test_a_model_of_another_kind_is_told_apart(
    served: StandIn, colours: Path, scheme: str, name: str, found: str
) -> None:
    with pytest.raises(UserError) as caught:
        workflow.predict(served.url(name, scheme), [str(colours)])
    for fragment in (
        served.url(name, scheme),
        found,
        "'image_bytes'",
        "'classes', 'scores'",
        "kerastl export",
    ):
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ("<html>welcome</html>", "no JSON but '<html>welcome</html>'"),
        ("", "no JSON"),
        ([], "without 'outputs'"),
        ({"predictions": []}, "without 'outputs'"),
        ({"outputs": [[0.1, 0.9]]}, "one output"),
        ({"outputs": {"classes": [["a"]]}}, "answered with 'classes'"),
        ({"outputs": {"classes": [], "scores": []}}, "a row for each of 1 images"),
        ({"outputs": {"classes": [["a"]] * 2, "scores": [[1.0]] * 2}}, "a row for each of 1 images"),
        ({"outputs": {"classes": "a", "scores": [[1.0]]}}, "a row for each"),
        ({"outputs": {"classes": [["a"]], "scores": [[1.0]], "accepted": []}}, "a row for each"),
        ({"outputs": {"classes": [["a"]], "scores": [[1.0, 0.0]]}}, "as many names as numbers"),
        ({"outputs": {"classes": [[]], "scores": [[]]}}, "as many names as numbers"),
        ({"outputs": {"classes": [[1]], "scores": [[1.0]]}}, "as many names as numbers"),
        ({"outputs": {"classes": [["a"]], "scores": [["b"]]}}, "as many names as numbers"),
        ({"outputs": {"classes": ["a"], "scores": [1.0]}}, "as many names as numbers"),
    ],
)
def test_a_malformed_answer_is_an_error_and_no_result(picture: str, body: Any, fragment: str) -> None:
    with scripted(lambda number, images: (200, body)) as server, pytest.raises(UserError) as caught:
        ask(server.url, [picture], top=1, patience=HURRY)
    assert fragment in str(caught.value)
    assert server.requests == 1


def test_credentials_go_to_the_server_and_not_into_messages(picture: str) -> None:
    with scripted(lambda number, images: (403, "")) as server, pytest.raises(UserError) as caught:
        ask(server.url.replace("http://", "http://me:s%40cret@"), [picture], top=1, patience=HURRY)
    assert "cret" not in str(caught.value)
    assert server.authorizations == ["Basic " + base64.b64encode(b"me:s@cret").decode()]


def run(*words: str | Path) -> Any:
    # A copy, because click keeps in a command how its help was first asked for, and the pages are made from it.
    return CliRunner().invoke(copy.copy(predict), [*map(str, words)])


def test_the_command_line_prints_a_table(served: StandIn, colours: Path) -> None:
    done = run("--url", served.url("flowers"), colours / "b*.png", "--top", "2")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "label", "probability"]
    assert [line.split()[-2] for line in lines[1::2]] == ["black", "blue"]
    assert len(lines) == 5
    assert run(served.url("flowers"), colours / "b*.png", "--top", "2").stdout == done.stdout


def test_the_command_line_prints_json(served: StandIn, colours: Path) -> None:
    done = run("--url", served.url("flowers"), "--json", colours)
    answers = json.loads(done.stdout)
    assert (
        [Path(each["path"]).stem for each in answers]
        == [each["label"] for each in answers]
        == sorted(PALETTE)
    )
    assert answers[0]["accepted"] is True
    assert answers[0]["top"][0] == [answers[0]["label"], answers[0]["probability"]]


def test_the_command_line_prints_csv(served: StandIn, colours: Path) -> None:
    odd = colours / 'a, "b".png'
    odd.write_bytes(b"")
    done = run("--url", served.url("careful"), "--csv", "--top", "2", odd, colours / "red.png")
    assert done.exit_code == 1
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["image", "rank", "label", "probability", "accepted", "error"]
    assert rows[1] == [str(odd), "", "", "", "", "empty file"]
    assert [row[:3] for row in rows[2:]] == [
        [str(colours / "red.png"), "1", "red"],
        [str(colours / "red.png"), "2", rows[3][2]],
    ]
    assert {row[4] for row in rows[2:]} == {"yes"}
    assert float(rows[2][3]) > float(rows[3][3])


def test_the_table_says_where_the_model_abstains(served: StandIn, colours: Path) -> None:
    Image.new("RGB", (8, 8), (125, 125, 125)).save(colours / "between.png")
    lines = run("--url", served.url("careful"), colours / "b*.png", "--top", "2").stdout.splitlines()
    assert lines[0].split() == ["image", "label", "probability", "accepted"]
    assert [line.split()[0].rpartition("/")[2] for line in lines if line.endswith("no")] == ["between.png"]


def test_the_command_line_ends_with_1_after_a_bad_image(served: StandIn, colours: Path) -> None:
    (colours / "bad.png").write_bytes(b"bad")
    done = run("--url", served.url("flowers"), colours)
    assert done.exit_code == 1
    assert f"warning: {colours / 'bad.png'}: not an image" in done.stderr
    assert "bad.png" not in done.stdout
    assert len(done.stdout.splitlines()) == len(PALETTE) + 1


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--url", "localhost:8501", "x.png"], ["'localhost:8501'", "/v1/models/NAME"]),
        (["localhost:8501", "x.png"], ["'localhost:8501'", "/v1/models/NAME"]),
        (["--url", "runs/x", "x.png"], ["'runs/x' is not the address"]),
        (["--url", "http://h/v1/models/f"], ["Missing argument 'IMAGE...'"]),
        (["--url", "http://h/v1/models/f", "x.png"], ["No image 'x.png'"]),
        (["--url", "http://h/v1/models/f", "x.png", "--json", "--csv"], ["--json and --csv"]),
        (["--url", "http://h/v1/models/f", "x.png", "--timeout", "0"], ["--timeout"]),
        ([], ["Missing argument 'MODEL'"]),
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_what_the_user_can_mend_ends_with_2(kerastl: Kerastl, words: list[str], fragments: list[str]) -> None:
    done = kerastl("predict", *words)
    assert (done.returncode, done.stdout) == (2, "")
    for fragment in [*fragments, "error: "]:
        assert fragment in done.stderr


def test_a_rest_client_needs_no_tensorflow(served: StandIn, picture: str, tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('tensorflow', 'keras', 'grpc'): sys.modules[name] = None\n"
        "from kerastl.cli import main\nmain()"
    )
    words = ["predict", "--url", served.url("flowers"), picture, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["label"] == "red"


def test_grpc_without_its_extra_says_what_to_install(picture: str, tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['tensorflow_serving'] = None\n"
        "from kerastl.client.asking import ask\n"
        "try:\n    ask('grpc://h:8500/f', sys.argv[1:], top=1)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, picture], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("UserError grpc://h:8500/f cannot be asked")
    assert 'pip install "kerastl[grpc]"' in done.stdout
    assert "http://h:8501/v1/models/f" in done.stdout


@NEEDS_GRPC
def test_the_command_line_speaks_grpc(served: StandIn, picture: str, kerastl: Kerastl) -> None:
    done = kerastl("predict", "--url", served.url("flowers", "grpc"), picture, "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f"{picture},1,red,0.9")


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


def test_the_stand_in_ends_with_its_test(models: dict[str, Path]) -> None:
    with stand_in({"flowers": models["flowers"]}) as running:
        assert requests.get(running.url("flowers"), timeout=10).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(running.url("flowers"), timeout=10)
