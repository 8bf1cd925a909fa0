"""Servers that ask who is there, that speak TLS, that know labels, and that are not ready yet."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Kerastl
from served import BOTH, StandIn, all_red, scripted, stand_in

from kerastl.client.access import TOKEN_VARIABLE, Access, read_access
from kerastl.client.asking import Patience, ask
from kerastl.errors import ServingError, UserError
from kerastl.progress import Progress

TOKEN = "a-secret"
HURRY = Patience(timeout_seconds=20, retries=2, first_wait_seconds=0.01)


class Notes(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that no authority signed, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate")
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", names, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.fixture(scope="module")
def guarded(served_models: dict[str, Path], certificate: Path) -> Iterator[StandIn]:
    options = ["--label", "flowers/canary=3", "--token", TOKEN]
    options += ["--tls", str(certificate), str(certificate.with_name("key.pem"))]
    with stand_in({"flowers": served_models["flowers"]}, *options) as running:
        yield running


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize("scheme", BOTH)
def test_who_asks_shows_a_token_over_tls_and_may_ask_for_a_label(
    guarded: StandIn, certificate: Path, picture: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = read_access([f"authorization:  Bearer {TOKEN}"], certificate)
    for name in ("flowers", "flowers/labels/canary", "flowers/versions/3"):
        (answer,) = ask(guarded.url(name, scheme), [picture], top=1, access=access, patience=HURRY)
        assert answer.label == "red"
    monkeypatch.setenv(TOKEN_VARIABLE, f"{TOKEN}\n")
    access = read_access([], certificate)
    assert (
        ask(guarded.url("flowers", scheme), [picture], top=1, access=access, patience=HURRY)[0].label == "red"
    )
    unknown = guarded.url("flowers/labels/nobody", scheme)
    with pytest.raises(UserError, match="labels/nobody does not exist: Unrecognized servable version label"):
        ask(unknown, [picture] * 3, top=1, access=access, patience=HURRY)


@pytest.mark.parametrize("scheme", BOTH)
def test_without_the_token_or_trust_nothing_is_answered_and_nothing_secret_is_shown(
    guarded: StandIn, certificate: Path, picture: str, scheme: str
) -> None:
    url = guarded.url("flowers", scheme)
    with pytest.raises(UserError, match="lets nobody in without the right credentials") as caught:
        ask(
            url,
            [picture],
            top=1,
            patience=HURRY,
            access=read_access(["Authorization: Bearer wrong"], certificate),
        )
    assert "wrong" not in str(caught.value)
    notes = Notes()
    with pytest.raises(UserError, match=r"offers no certificate that can be trusted.*--ca-file FILE"):
        ask(
            url,
            [picture],
            top=1,
            patience=HURRY,
            access=read_access([f"Authorization: Bearer {TOKEN}"]),
            progress=notes,
        )
    assert notes.lines == []


def test_the_command_line_takes_headers_and_a_certificate(
    guarded: StandIn, certificate: Path, picture: str, kerastl: Kerastl
) -> None:
    words = ["predict", "--url", guarded.url("flowers/labels/canary"), picture, "--ca-file", str(certificate)]
    done = kerastl(*words, "--header", f"Authorization: Bearer {TOKEN}")
    # Where an answer takes over a second, a line of progress stands there.
    assert done.returncode == 0 and "red" in done.stdout and "Traceback" not in done.stderr, done.stderr
    done = kerastl(*words, "--header", TOKEN)
    assert done.returncode == 2 and "Header 1 is not of the form 'NAME: VALUE'" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize(
    ("headers", "ca_file", "message"),
    [
        (["X-A: 1", "secret"], None, "Header 2 is not of the form"),
        (["X A: secret"], None, "Header 1 is not of the form"),
        (["X-A:"], None, r"Header 1 \('X-A'\) has no value"),
        (["X-A: secret\r\nX-B: 2"], None, "printable ASCII"),
        (["X-A: secrét"], None, "printable ASCII"),
        ([], "nowhere.pem", "no file 'nowhere.pem'"),
    ],
)
def test_what_is_no_header_or_certificate_is_said(
    headers: list[str], ca_file: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_access(headers, ca_file)
    assert "secr" not in str(caught.value)


def test_what_is_no_certificate_and_whom_the_environment_trusts(
    guarded: StandIn, certificate: Path, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    access = read_access([f"Authorization: Bearer {TOKEN}"], tmp_path / "no.pem")
    with pytest.raises(UserError, match=r"no\.pem' cannot be read as certificates in PEM format"):
        ask(guarded.url("flowers"), [picture], top=1, access=access)
    access = read_access([f"Authorization: Bearer {TOKEN}"])
    variables = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    for variable in variables:
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(certificate))
            assert ask(guarded.url("flowers"), [picture], top=1, access=access)[0].label == "red"
    with pytest.raises(UserError, match="offers no certificate"):  # else this proves nothing
        ask(guarded.url("flowers"), [picture], top=1, access=access)


def test_a_proxy_of_the_environment_is_asked(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(all_red) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.partition("/v1")[0])
        assert (
            ask("http://nowhere.invalid:8501/v1/models/f", [picture], top=1, patience=HURRY)[0].label == "red"
        )
        assert proxy.requests == 1
        monkeypatch.setenv("NO_PROXY", "nowhere.invalid")
        with pytest.raises(ServingError, match="did not answer in 3 attempts"):
            ask("http://nowhere.invalid:8501/v1/models/f", [picture], top=1, patience=HURRY)


def test_a_header_goes_before_the_environment_and_the_address(
    picture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with scripted(all_red) as server:
        ask(server.url, [picture], top=1, access=read_access(["Authorization: Basic abc"]))
        ask(server.url.replace("http://", "http://me:you@"), [picture], top=1)
        ask(server.url, [picture], top=1, access=Access())
    assert server.authorizations[:2] == ["Basic abc", "Bearer from-the-environment"]
    assert server.authorizations[2] == "Basic bWU6b3RoZXI="  # else this proves nothing
    assert "from-the-environment" not in repr(read_access())


@pytest.fixture(scope="module")
def slow(served_models: dict[str, Path]) -> Iterator[StandIn]:
    options = ["--loading", "careful=3600", "--loading", "flowers=4"]
    with stand_in({name: served_models[name] for name in ("flowers", "careful")}, *options) as running:
        yield running


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_that_is_still_loading_is_waited_for_and_not_for_ever(
    slow: StandIn, picture: str, scheme: str
) -> None:
    notes = Notes()
    quick = Patience(timeout_seconds=60, retries=0, first_wait_seconds=0.05)
    assert (
        ask(slow.url("flowers", scheme), [picture], top=1, patience=quick, progress=notes)[0].label == "red"
    )
    assert all("is still loading; asking again in" in line for line in notes.lines)
    with pytest.raises(ServingError, match=r"has been loading for 0\.3 seconds.*--timeout"):
        ask(
            slow.url("careful", scheme), [picture], top=1, progress=notes,
            patience=Patience(timeout_seconds=0.3, retries=0, first_wait_seconds=0.05),
        )  # fmt: skip
    assert len(notes.lines) > 2


@pytest.mark.parametrize(
    "reply", [{"error": "Servable not found for request: Latest(flowers)"}, "<h1>nginx</h1>"]
)
def test_a_model_that_the_server_does_not_know_is_asked_for_some_more_times(picture: str, reply: Any) -> None:
    """As it may be in the minute before the server reads its configuration; not so a proxy's page."""

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return (404, reply) if number < 3 else all_red(number, images)

    with scripted(answer) as server:
        if isinstance(reply, str):
            with pytest.raises(UserError, match="does not exist: nginx"):
                ask(server.url, [picture], top=1, patience=HURRY)
            assert server.requests == 1
        else:
            assert ask(server.url, [picture], top=1, patience=HURRY)[0].label == "red"
            assert server.requests == 3


@pytest.mark.parametrize(
    ("name", "rows", "kind", "message", "asked"),
    [
        ("flowers/versions/7", [("3", "AVAILABLE", "")], UserError, "versions/7 does not exist", 1),
        ("flowers/versions/7", [("3", "AVAILABLE", ""), ("7", "START", "")], None, "", 3),
        ("flowers", [("3", "LOADING", "")], None, "", 3),
        ("flowers", [("3", "AVAILABLE", "")], None, "", 3),
        ("flowers", [("3", "END", "no more memory")], ServingError, "could not be loaded .*: no more memory", 1),
        ("flowers", [("3", "END", "")], UserError, "does not exist", 1),
    ],
)  # fmt: skip
def test_what_a_server_says_of_the_versions_decides_whether_to_wait(
    picture: str,
    name: str,
    rows: list[tuple[str, str, str]],
    kind: type[Exception] | None,
    message: str,
    asked: int,
) -> None:
    status = [
        {"version": version, "state": state, "status": {"error_code": "UNKNOWN" if text else "OK", "error_message": text}}
        for version, state, text in rows
    ]  # fmt: skip

    def answer(number: int, images: list[Any]) -> tuple[int, Any]:
        return (404, {"error": "Servable not found"}) if number < 3 else all_red(number, images)

    with scripted(answer, {"model_version_status": status}) as server:
        url = server.url.replace("flowers", name)
        if kind is None:
            assert ask(url, [picture], top=1, patience=HURRY)[0].label == "red"
        else:
            with pytest.raises(kind, match=message):
                ask(url, [picture], top=1, patience=HURRY)
        assert server.requests == asked


def test_a_server_that_gives_up_in_its_own_time_gets_advice(picture: str) -> None:
    with (
        scripted(lambda number, images: (504, {"error": "Timed out"})) as server,
        pytest.raises(ServingError) as caught,
    ):
        ask(server.url, [picture], top=1, patience=HURRY)
    assert server.requests == 1
    for fragment in ("HTTP 504", "Timed out", "--rest_api_timeout_in_ms", "--timeout"):
        assert fragment in str(caught.value)


@pytest.mark.parametrize("status", [400, 403, 404, 500, 302, 200])
def test_a_server_that_repeats_what_it_was_sent_makes_no_secret_public(picture: str, status: int) -> None:
    said = f"Bearer {TOKEN}, key-1234 and s@cret are not known"
    with scripted(lambda number, images: (status, f"<html>{said}</html>")) as server:
        access = Access((("Authorization", f"Bearer {TOKEN}"), ("X-Key", "key-1234")))
        url = server.url.replace("http://", "http://me:s%40cret@")
        try:
            shown = ask(url, [picture], top=1, patience=HURRY, access=access)[0].error
        except (ServingError, UserError) as error:
            shown = str(error)
    assert "Bearer ***, *** and *** are not known" in shown
    assert not any(secret in shown for secret in (TOKEN, "key-1234", "s@cret"))
