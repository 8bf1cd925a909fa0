"""TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest.

Images travel in the column format, base64 as the API demands for bytes, and the answer's columns come back alike.
"""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kerastl.client.access import HAND_OVER, Access
from kerastl.client.address import Address
from kerastl.client.answers import (
    INPUT,
    SIGNATURE,
    UNKNOWN_LABEL,
    Answer,
    NotFound,
    NotOurs,
    NotServed,
    Refused,
    TimedOut,
    Unavailable,
    VersionState,
    read_answers,
)
from kerastl.errors import ServingError, UserError

CONNECT_SECONDS = 10.0
"""A server that takes no connection in this time is not there, however long its answers may take."""

# 413 comes from proxies, many of which take no more than a megabyte: fewer images may still pass.
REFUSALS = (400, 413)
PASSING = (429, 502, 503)


class _ConnectsSoon:
    """Connecting has `CONNECT_SECONDS` of a connection's timeout, sending has all of it.

    urllib3 knows two times, for connecting and for reading, and sends with the first: a large batch over a slow
    line would end after it, whatever the user allows.
    """

    timeout: float
    sock: socket.socket

    def connect(self) -> None:
        seconds = self.timeout
        self.timeout = min(CONNECT_SECONDS, seconds)
        try:
            super().connect()  # type: ignore[misc]
        except TimeoutError as error:  # while keys were exchanged, which urllib3 would count as reading
            raise urllib3.exceptions.ConnectTimeoutError("no connection in time") from error
        finally:
            self.timeout = seconds
        self.sock.settimeout(seconds)


class _Connection(_ConnectsSoon, HTTPConnection):  # type: ignore[misc]
    pass


class _SecureConnection(_ConnectsSoon, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection  # type: ignore[assignment]


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # type: ignore[assignment]


class _Adapter(HTTPAdapter):
    """Makes such connections, also to a proxy of HTTP; those through SOCKS are urllib3's own."""

    def init_poolmanager(self, *words: Any, **options: Any) -> None:
        super().init_poolmanager(*words, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager


class RestConnection:
    """A connection that is kept open from batch to batch.

    Args:
        address: of the model.
        timeout_seconds: for sending a batch, and again for each piece of its answer; connecting has no more than
            `CONNECT_SECONDS`.
        access: what lets a client in.
    """

    def __init__(self, address: Address, timeout_seconds: float, access: Access) -> None:
        self._address, self._access = address, access
        self._timeout_seconds = timeout_seconds
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())
        self._session.headers.update(access.headers)
        # Passed with each request, because requests prefers what its environment says to the session's own.
        self._verify = str(access.ca_file) if access.ca_file else None
        if access.authorized:
            self._session.auth = lambda request: request  # else requests puts what .netrc says in its place
        elif address.credentials:
            user, _, password = address.credentials.partition(":")
            self._session.auth = (requests.compat.unquote(user), requests.compat.unquote(password))

    def answers(self, images: Sequence[bytes]) -> list[Answer]:
        """Ask once; see `Connection`."""
        encoded = [{"b64": base64.b64encode(data).decode("ascii")} for data in images]
        body = {"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}
        response = self._send("POST", f"{self._address.url}:predict", body)
        try:
            reply = response.json()
        except (requests.exceptions.JSONDecodeError, RecursionError):
            raise NotOurs(f"it answered no JSON but {_short(self._hidden(response.text[:1000]))!r}") from None
        if not isinstance(reply, dict) or "outputs" not in reply:
            raise NotOurs("it answered JSON without 'outputs'")
        return read_answers(reply["outputs"], len(images))

    def signature(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """Inputs and outputs by the server's metadata; see `Connection`."""
        try:
            reply = self._send("GET", f"{self._address.url}/metadata").json()
            # a model without it tells that, too: it has neither inputs nor outputs of that name
            signature = reply["metadata"]["signature_def"]["signature_def"].get(SIGNATURE, {})
            return frozenset(signature.get("inputs", ())), frozenset(signature.get("outputs", ()))
        except Exception:  # a proxy may let nothing but :predict through; then the answers have to tell
            return None

    def states(self) -> list[VersionState] | None:
        """What became of the model's versions; see `Connection`."""
        try:
            rows = self._send("GET", self._address.model_url).json()["model_version_status"]
            return [VersionState(int(row["version"]), row["state"], _problem(row)) for row in rows]
        except Exception:  # a proxy may let nothing but :predict through
            return None

    def close(self) -> None:
        """Let go of the server."""
        self._session.close()

    def _send(self, method: str, url: str, body: Any = None) -> requests.Response:
        try:
            # A redirected POST would arrive as a GET without its images.
            response = self._session.request(
                method,
                url,
                json=body,
                timeout=self._timeout_seconds,
                allow_redirects=False,
                verify=self._verify,
            )
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"{self._address} offers no certificate that can be trusted: {_cause(error)}. --ca-file FILE names whom to "
                "trust, in PEM."
            ) from error
        except requests.exceptions.ConnectTimeout as error:
            raise Unavailable("no connection in time") from error
        except requests.exceptions.ReadTimeout as error:
            raise TimedOut from error
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if _took_too_long(error):
                raise TimedOut from error
            raise Unavailable(_cause(error)) from error
        except requests.exceptions.RequestException as error:
            raise UserError(f"{self._address} cannot be asked: {error}.") from error
        if response.status_code != 200:
            raise self._failure(response)
        return response

    def _failure(self, response: requests.Response) -> Exception:
        status, message = response.status_code, self._hidden(_message(response))
        if message.startswith(UNKNOWN_LABEL):
            return NotFound(message)
        if status in REFUSALS:
            return Refused(message or f"HTTP {status}")
        if status == 404:
            return (NotServed if _is_servers_own(response) else NotFound)(message)
        said = f"HTTP {status} {response.reason}" + (f": {message}" if message else "")
        if status in PASSING:
            return Unavailable(said)
        if status == 504:
            return ServingError(
                f"{self._address} gave up in its own time ({said}). TensorFlow Serving gives a REST request 30 seconds, whatever "
                "--timeout says: start it with --rest_api_timeout_in_ms=300000 or so, ask over gRPC, or look at its load; a "
                "proxy before it has a limit of its own."
            )
        if status in (401, 403):
            return UserError(
                f"{self._address} lets nobody in without the right credentials: {said}. {HAND_OVER}"
            )
        if 300 <= status < 400:
            target = self._hidden(response.headers.get("Location", "nowhere"))
            return UserError(f"{self._address} sends on to {target} ({said}): pass that address.")
        return ServingError(f"{self._address} answered {said}.")

    def _hidden(self, text: str) -> str:
        return self._access.hidden(text, self._address.credentials)


def _took_too_long(error: requests.exceptions.RequestException) -> bool:
    """Whether the server took the connection, and then not the whole request, or began to answer and did not end."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return any(isinstance(each, TimeoutError) for each in cause.args)
    return isinstance(cause, urllib3.exceptions.ReadTimeoutError)


def _is_servers_own(response: requests.Response) -> bool:
    """Whether an error comes from TensorFlow Serving, which speaks JSON, and not from a proxy before it."""
    try:
        reply = response.json()
    except (requests.exceptions.JSONDecodeError, RecursionError):
        return False
    return isinstance(reply, dict) and isinstance(reply.get("error"), str)


def _problem(row: Mapping[str, Any]) -> str:
    status = row.get("status", {})
    return (
        ""
        if status.get("error_code", "OK") == "OK"
        else str(status.get("error_message") or status["error_code"])
    )


def _message(response: requests.Response) -> str:
    """What the server says went wrong: `{"error": …}`, which servers before 2.3 do not escape as JSON wants it."""
    try:
        reply = response.json()
    except (requests.exceptions.JSONDecodeError, RecursionError):
        text = re.sub(r"<[^>]*>", " ", response.text)
        return _short(text.removeprefix('{ "error": "').removesuffix('" }'))
    error = reply.get("error") if isinstance(reply, dict) else None
    return error if isinstance(error, str) else _short(response.text)


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def _cause(error: Exception) -> str:
    """The innermost words of requests' nested message: `Connection refused`, `Remote end closed connection …`."""
    message = str(error)
    if secure := re.search(r"\[(?:SSL|X509)[^]]*\] ([^(\"']+)", message):
        return secure[1].strip() + (
            ", so it speaks no TLS: try http://" if "WRONG_VERSION" in message else ""
        )
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", message) or re.search(r"\w\('([^']+)'\)+$", message)
    return found[1] if found else _short(message.rpartition(": ")[2].strip("')\" ")) or "no connection"
