"""TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest.

Examples travel in the column format, base64 as the API demands for bytes, and the answer's columns come back alike.
"""

from __future__ import annotations

import base64
import contextlib
import netrc
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import httpx

from kerastl.client.access import HAND_OVER, Access
from kerastl.client.address import Address
from kerastl.client.replies import (
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
from kerastl.modality import Modality

CONNECT_SECONDS = 10.0
"""A server that takes no connection in this time is not there, however long its answers may take."""

# 413 comes from proxies, many of which take no more than a megabyte: fewer examples may still pass.
REFUSALS = (400, 413)
PASSING = (429, 502, 503)
_TLS = re.compile(r"\[(?:SSL|X509)[^]]*\] ([^(]+)")


class RestConnection:
    """A connection that is kept open from batch to batch.

    Args:
        address: of the model.
        timeout_seconds: for sending a batch, and again for each piece of its answer; connecting has no more than
            `CONNECT_SECONDS`.
        access: credentials.
        modality: of the examples.
    """

    def __init__(
        self, address: Address, timeout_seconds: float, access: Access, modality: type[Modality]
    ) -> None:
        self._address, self._access, self._modality = address, access, modality
        self._client = httpx.Client(
            headers=access.headers,
            auth=_auth(address, access),
            verify=_verify(access),
            timeout=httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
        )

    def answers(self, raw: Sequence[bytes]) -> list[Answer]:
        """Ask once; see `Connection`."""
        encoded = [{"b64": base64.b64encode(data).decode("ascii")} for data in raw]
        body = {"signature_name": SIGNATURE, "inputs": {self._modality.request: encoded}}
        response = self._send("POST", f"{self._address.url}:predict", body)
        try:
            reply = response.json()
        except (ValueError, RecursionError):
            raise NotOurs(f"it answered no JSON but {_short(self._hidden(response.text[:1000]))!r}") from None
        if not isinstance(reply, dict) or "outputs" not in reply:
            raise NotOurs("it answered JSON without 'outputs'")
        return read_answers(reply["outputs"], len(raw), self._modality.noun)

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
        """States of the model's versions; see `Connection`."""
        try:
            rows = self._send("GET", self._address.model_url).json()["model_version_status"]
            return [VersionState(int(row["version"]), row["state"], _problem(row)) for row in rows]
        except Exception:  # a proxy may let nothing but :predict through
            return None

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def _send(self, method: str, url: str, body: Any = None) -> httpx.Response:
        try:
            # Redirects are not followed: a redirected POST would arrive as a GET without its examples.
            response = self._client.request(method, url, json=body)
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable("no connection in time") from error
        except httpx.TimeoutException as error:
            raise TimedOut from error
        except (httpx.UnsupportedProtocol, httpx.DecodingError, httpx.InvalidURL) as error:
            raise UserError(f"{self._address} cannot be asked: {error}.") from error
        except httpx.TransportError as error:
            if secure := _TLS.search(str(error)):
                hint = ", so it speaks no TLS: try http://" if "WRONG_VERSION" in secure[0] else ""
                raise UserError(
                    f"{self._address} offers no certificate that can be trusted: {secure[1].strip()}{hint}. --ca-file FILE "
                    "names whom to trust, in PEM."
                ) from error
            raise Unavailable(_cause(error)) from error
        if response.status_code != 200:
            raise self._failure(response)
        return response

    def _failure(self, response: httpx.Response) -> Exception:
        status, message = response.status_code, self._hidden(_message(response))
        if message.startswith(UNKNOWN_LABEL):
            return NotFound(message)
        if status in REFUSALS:
            return Refused(message or f"HTTP {status}")
        if status == 404:
            return (NotServed if _is_servers_own(response) else NotFound)(message)
        error = f"HTTP {status} {response.reason_phrase}" + (f": {message}" if message else "")
        if status in PASSING:
            return Unavailable(error)
        if status == 504:
            return ServingError(
                f"{self._address} gave up in its own time ({error}). TensorFlow Serving gives a REST request 30 seconds, whatever "
                "--timeout says: start it with --rest_api_timeout_in_ms=300000 or so, ask over gRPC, or look at its load; a "
                "proxy before it has a limit of its own."
            )
        if status in (401, 403):
            return UserError(
                f"{self._address} lets nobody in without the right credentials: {error}. {HAND_OVER}"
            )
        if 300 <= status < 400:
            target = self._hidden(response.headers.get("Location", "nowhere"))
            return UserError(f"{self._address} sends on to {target} ({error}): pass that address.")
        return ServingError(f"{self._address} answered {error}.")

    def _hidden(self, text: str) -> str:
        return self._access.hidden(text, self._address.credentials)


def _auth(address: Address, access: Access) -> httpx.Auth | None:
    """Credentials where no header holds them: those of the address, else of ~/.netrc or the file that $NETRC names."""
    if access.authorized:
        return None
    if address.credentials:
        user, _, password = address.credentials.partition(":")
        return httpx.BasicAuth(unquote(user), unquote(password))
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return httpx.NetRCAuth(os.path.expanduser(os.environ.get("NETRC", "~/.netrc")))
    return None


def _verify(access: Access) -> ssl.SSLContext | bool:
    """Certificates to trust; httpx itself reads SSL_CERT_FILE, and curl and requests read the other two variables."""
    trusted = access.ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not trusted:
        return True
    kind = "capath" if os.path.isdir(trusted) else "cafile"
    try:
        return ssl.create_default_context(**{kind: str(trusted)})  # type: ignore[arg-type]
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"'{trusted}' cannot be read as certificates in PEM format: {error}.") from error


def _is_servers_own(response: httpx.Response) -> bool:
    """True if an error comes from TensorFlow Serving, which speaks JSON, and not from a proxy before it."""
    try:
        reply = response.json()
    except (ValueError, RecursionError):
        return False
    return isinstance(reply, dict) and isinstance(reply.get("error"), str)


def _problem(row: Mapping[str, Any]) -> str:
    status = row.get("status", {})
    return (
        ""
        if status.get("error_code", "OK") == "OK"
        else str(status.get("error_message") or status["error_code"])
    )


def _message(response: httpx.Response) -> str:
    """The server's error message: `{"error": …}`, which servers before 2.3 do not escape as JSON wants it."""
    try:
        reply = response.json()
    except (ValueError, RecursionError):
        text = re.sub(r"<[^>]*>", " ", response.text)
        return _short(text.removeprefix('{ "error": "').removesuffix('" }'))
    error = reply.get("error") if isinstance(reply, dict) else None
    return error if isinstance(error, str) else _short(response.text)


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def _cause(error: Exception) -> str:
    """The words of the system where it has some: `Connection refused`, else those of the library."""
    found = re.search(r"\[Errno -?\d+\] (.+)", str(error))
    return _short(found[1] if found else str(error)).rstrip(".") or "no connection"
