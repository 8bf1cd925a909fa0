"""Clients of served models, over REST and gRPC, with servers good and bad."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from served import BOTH, NEEDS_GRPC, PALETTE, StandIn, all_red, scripted

from kerastl.client.asking import BATCH_BYTES, BATCH_EXAMPLES, Patience, ask
from kerastl.client.grpc_client import GrpcConnection
from kerastl.client.replies import read_answers
from kerastl.client.rest import RestConnection
from kerastl.errors import KerastlError, ServingError, UserError
from kerastl.jobs.predict import predict
from kerastl.prediction import Prediction
from kerastl.progress import Progress

HURRY = Patience(timeout_seconds=20, retries=2, first_wait_seconds=0.01)


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


@pytest.mark.parametrize("scheme", BOTH)
def test_a_folder_a_glob_and_files_are_answered_in_their_order(
    served: StandIn, palette: Path, scheme: str
) -> None:
    url = served.url("flowers", scheme)
    folder = predict(url, [str(palette)])
    assert [Path(each.path).stem for each in folder] == labels(folder) == sorted(PALETTE)
    assert labels(predict(url, [str(palette / "*e*.png")])) == [
        "blue",
        "green",
        "red",
        "white",
        "yellow",
    ]
    red = str(palette / "red.png")
    some = predict(url, [red, str(palette / "b*.png"), red], top=2)
    assert labels(some) == ["red", "black", "blue"]
    for each in folder:
        assert len(each.top) == 5
        assert each.top[0] == (each.label, each.probability)
        values = [probability for _, probability in each.top]
        assert values == sorted(values, reverse=True)
        assert each.accepted and not each.error
    assert {len(each.top) for each in some} == {2}


@NEEDS_GRPC
def test_rest_and_grpc_answer_alike(served: StandIn, palette: Path) -> None:
    rest, grpc = (predict(served.url("careful", scheme), [str(palette)]) for scheme in ("rest", "grpc"))
    for one, other in zip(rest, grpc, strict=True):
        assert (one.path, one.label, one.accepted) == (other.path, other.label, other.accepted)
        assert [score for _, score in one.top] == pytest.approx([score for _, score in other.top], abs=1e-7)


def test_more_images_than_a_batch_keep_their_order(served: StandIn, tmp_path: Path) -> None:
    count = 2 * BATCH_EXAMPLES + 5
    paths = many(tmp_path, count)
    predictions = predict(served.url("flowers"), [str(tmp_path)])
    assert [each.path for each in predictions] == paths
    assert labels(predictions) == [list(PALETTE)[number % len(PALETTE)] for number in range(count)]
    with scripted(all_red) as server:
        ask(server.url, [str(tmp_path)], top=1)
    assert [len(batch) for batch in server.batches] == [BATCH_EXAMPLES, BATCH_EXAMPLES, 5]
    sent = [base64.b64decode(data) for batch in server.batches for data in batch]
    assert sent == [Path(path).read_bytes() for path in paths]


def test_large_images_make_small_batches(tmp_path: Path) -> None:
    for number, share in enumerate((0.4, 0.4, 0.4, 1.2, 0.1)):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(int(share * BATCH_BYTES)))
    with scripted(all_red) as server:
        assert len(ask(server.url, [str(tmp_path)], top=1)) == 5
    assert [len(batch) for batch in server.batches] == [2, 1, 1, 1]


def test_a_version_may_be_asked_for(served: StandIn, picture: str) -> None:
    assert labels(predict(served.url("flowers/versions/3"), [picture])) == ["red"]


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_may_abstain(served: StandIn, picture: str, tmp_path: Path, scheme: str) -> None:
    between = tmp_path / "between.png"
    Image.new("RGB", (8, 8), (125, 125, 125)).save(between)
    sure, unsure = predict(served.url("careful", scheme), [picture, str(between)])
    assert sure.accepted and sure.label == "red"
    assert not unsure.accepted and unsure.label
    assert predict(served.url("flowers", scheme), [str(between)])[0].accepted


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_may_give_several_labels_or_none(
    served: StandIn, picture: str, tmp_path: Path, scheme: str
) -> None:
    orange = tmp_path / "orange.png"
    Image.new("RGB", (8, 8), (225, 140, 35)).save(orange)
    found = predict(served.url("tags", scheme), [picture, str(orange)])
    assert [each.labels for each in found] == [("red",), ("red", "yellow")]
    assert predict(served.url("flowers", scheme), [picture])[0].labels is None
    answers = {"classes": [["a"]], "scores": [[0.2]], "labels": [""]}
    assert read_answers(answers, 1)[0].labels == (), "none is not the same as not told"


@pytest.mark.parametrize("scheme", BOTH)
def test_bad_images_are_named_and_the_others_answered(
    served: StandIn, palette: Path, tmp_path: Path, scheme: str
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

    predictions = predict(served.url("flowers", scheme), [str(tmp_path / "*.*")])
    assert {Path(each.path).name: each.error for each in predictions if each.error} == {
        "0017x.png": "not an image that TensorFlow or Pillow decodes",
        "0033x.png": "empty file",
        "0034x.jpg": "truncated or damaged jpeg",
    }
    answered = [each for each in predictions if not each.error]
    assert [each.path for each in answered] == good
    assert labels(answered) == [list(PALETTE)[number % len(PALETTE)] for number in range(40)]


def test_one_bad_image_costs_few_requests(tmp_path: Path) -> None:
    many(tmp_path, BATCH_EXAMPLES)
    (tmp_path / "0013.png").write_bytes(b"\xff\xd8\xff bad")  # what no server takes is not even sent
    bad = base64.b64encode(b"\xff\xd8\xff bad").decode()

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return (400, {"error": "Unknown image file format."}) if bad in images else all_red(number, images)

    with scripted(answer) as server:
        predictions = ask(server.url, [str(tmp_path)], top=1, patience=HURRY)
    assert [Path(each.path).name for each in predictions if each.error] == ["0013.png"]
    assert server.requests == 11


def test_a_file_that_goes_away_while_others_are_asked_about_is_named(tmp_path: Path) -> None:
    paths = many(tmp_path, BATCH_EXAMPLES + 2)  # the first one after a batch is read with it

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        Path(paths[-1]).unlink(missing_ok=True)
        return all_red(number, images)

    with scripted(answer) as server:
        predictions = ask(server.url, [str(tmp_path)], top=1, patience=HURRY)
    assert [each.error for each in predictions] == [""] * (BATCH_EXAMPLES + 1) + ["No such file or directory"]
    assert [len(batch) for batch in server.batches] == [BATCH_EXAMPLES, 1]


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


def test_a_server_that_cannot_be_trusted_is_not_asked_again(picture: str) -> None:
    with scripted(all_red) as server, pytest.raises(UserError) as caught:
        ask(
            server.url.replace("http://", "https://"),
            [picture],
            top=1,
            patience=HURRY,
            progress=(notes := Notes()),
        )
    assert "offers no certificate that can be trusted" in str(caught.value)
    assert "speaks no TLS: try http://" in str(caught.value)
    assert (server.requests, notes.lines) == (0, [])


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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, "<h1>Request Entity Too Large</h1>"),  # a proxy
        (400, {"error": "Batch size 9 exceeds maximum batch size 3"}),  # a server that makes batches itself
    ],
)
def test_who_takes_little_gets_smaller_batches(tmp_path: Path, status: int, body: Any) -> None:
    many(tmp_path, 9)

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return all_red(number, images) if len(images) <= 3 else (status, body)

    with scripted(answer) as server:
        assert labels(ask(server.url, [str(tmp_path)], top=1, patience=HURRY)) == ["red"] * 9
    assert max(map(len, server.batches[-1:])) <= 3


def test_a_slow_server_is_given_up_in_time(picture: str) -> None:
    def slow(number: int, images: list[Any]) -> tuple[int, Any]:
        return -10, all_red(number, images)[1]

    start = time.monotonic()
    with scripted(slow) as server, pytest.raises(ServingError) as caught:
        ask(server.url, [picture], top=1, patience=Patience(timeout_seconds=0.2))
    assert time.monotonic() - start < 0.9
    assert server.requests == 1, "a server under load must not be asked again"
    for fragment in (server.url, "about 1 image in 0.2 seconds", "--timeout"):
        assert fragment in str(caught.value)
    with scripted(slow) as server:
        assert labels(ask(server.url, [picture], top=1, patience=Patience(timeout_seconds=10))) == ["red"]


SCHEMES = ["http", "https"]
ALL_RED = json.dumps(all_red(1, [None])[1]).encode()


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that does with each connection what it is told; its address, and the connections it took."""
    taken: list[socket.socket] = []
    with socket.socket() as server:
        # small buffers: what a client may send without being read would otherwise hold a whole request
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        server.bind(("127.0.0.1", 0))
        server.listen()

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return
                threading.Thread(target=serve, args=(taken[-1],), daemon=True).start()

        threading.Thread(target=take, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/models/f", taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for each in taken:
                each.close()


@pytest.fixture
def large_file(tmp_path: Path) -> str:
    """As a request it is 12 MB of text, more than the buffers between two sockets hold."""
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(9 * 2**20))
    return str(tmp_path / "large.jpg")


def test_a_server_that_does_not_read_is_given_up_in_time_and_not_asked_again(large_file: str) -> None:
    start = time.monotonic()
    with listening(lambda connection: None) as (url, taken), pytest.raises(ServingError) as caught:
        ask(
            url,
            [large_file],
            top=1,
            modality="image",
            patience=Patience(timeout_seconds=0.5, first_wait_seconds=0.01),
        )
    assert time.monotonic() - start < 5
    assert len(taken) == 1, "a server under load must not be asked again"
    assert f"{url} has not answered about 1 image in 0.5 seconds" in str(caught.value)


def test_sending_may_take_longer_than_connecting(large_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerastl.client.rest.CONNECT_SECONDS", 0.2)
    lengths = []

    def read_slowly(connection: socket.socket) -> None:
        time.sleep(0.8)
        with connection.makefile("rb") as stream:
            while (line := stream.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    lengths.append(int(line.split()[1]))
            for _ in range(lengths[-1] // 2**16):
                stream.read(2**16)
            stream.read(lengths[-1] % 2**16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ALL_RED), ALL_RED))

    with listening(read_slowly) as (url, taken):
        assert labels(ask(url, [large_file], top=1, modality="image", patience=HURRY)) == ["red"]
    assert len(taken) == 1 and lengths[0] > 12e6


@pytest.mark.parametrize("scheme", SCHEMES)
def test_connecting_has_its_own_time(picture: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerastl.client.rest.CONNECT_SECONDS", 0.2)
    patience = Patience(timeout_seconds=30, retries=1, first_wait_seconds=0.01)
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        if scheme == "http":  # nobody accepts, and no connection more than these may wait for it
            full.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
        else:  # takes the connection and exchanges no keys
            full.listen()
        url = f"{scheme}://127.0.0.1:{full.getsockname()[1]}/v1/models/f"
        with pytest.raises(ServingError, match="in 2 attempts, the last time: no connection in time"):
            ask(url, [picture], top=1, patience=patience)
    assert time.monotonic() - start < 10


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
        predict(served.url(name, scheme), [picture], patience=HURRY)
    assert f"{served.url(name, scheme)} does not exist: Servable not found" in str(caught.value)


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize(
    ("name", "found"),
    [("old", "it answered with 'label', 'score'"), ("alien", "it takes 'x' and answers with 'y'")],
)
def test_a_model_of_another_kind_is_told_apart(
    served: StandIn, palette: Path, scheme: str, name: str, found: str
) -> None:
    with pytest.raises(UserError) as caught:
        predict(served.url(name, scheme), [str(palette)])
    for fragment in (
        served.url(name, scheme),
        found,
        "'image_bytes'",
        "'classes', 'scores'",
        "kerastl export",
    ):
        assert fragment in str(caught.value)


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_without_the_signature_is_told_apart_at_once(
    served: StandIn, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path, BATCH_EXAMPLES)
    asked = []
    kind = RestConnection if scheme == "rest" else GrpcConnection
    answers = kind.answers
    monkeypatch.setattr(
        kind, "answers", lambda self, images: asked.append(len(images)) or answers(self, images)
    )
    with pytest.raises(UserError) as caught:
        ask(served.url("renamed", scheme), [str(tmp_path)], top=1, patience=HURRY)
    assert "kerastl exported: it has no signature 'serving_default'. Expected the input" in str(caught.value)
    assert asked == [BATCH_EXAMPLES], "no image is to blame"


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
        ({"outputs": {"classes": [["a"]], "scores": [[float("inf")]]}}, "no numbers between 0 and 1"),
        ({"outputs": {"classes": [["a"]], "scores": [[float("nan")]]}}, "no numbers between 0 and 1"),
        ("[" * 100_000, "no JSON but '[[["),
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
