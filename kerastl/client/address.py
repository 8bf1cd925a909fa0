"""Addresses of models in TensorFlow Serving, read and written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from kerastl.errors import UserError

GRPC_PORT = 8500
"""TensorFlow Serving's default port for gRPC; REST has 8501."""

_REST_PATH = re.compile(
    r"(?P<prefix>.*)/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?/?(:predict)?"
)
_GRPC_PATH = re.compile(
    r"(?P<prefix>)/(?P<model>[^/:]+)(/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?/?"
)
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


@dataclass(frozen=True)
class Address:
    """A model behind a server.

    Attributes:
        scheme: `http`, `https`, `grpc`, or `grpcs` for gRPC over TLS.
        host: host, and port where one was given.
        model: name under which the server serves it.
        version: the version to ask, or None for the server's latest.
        label: the version label to ask in its place, which the server's configuration gives to a version; or empty.
        prefix: of the path, where a proxy stands before the server; such as `/vision`.
        credentials: `user:password`, or nothing; never shown.
    """

    scheme: str
    host: str
    model: str
    version: int | None = None
    prefix: str = ""
    credentials: str = ""
    label: str = ""

    @property
    def url(self) -> str:
        """The address without credentials, as it is shown; for REST, where the model's state can be read."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return self.model_url + (f"/labels/{quote(self.label)}" if self.label else version)

    @property
    def model_url(self) -> str:
        """The same of the model with all its versions."""
        place = "" if self.is_grpc else f"{self.prefix}/v1/models"
        return f"{self.scheme}://{self.host}{place}/{quote(self.model)}"

    @property
    def is_grpc(self) -> bool:
        """True for gRPC, False for REST."""
        return self.scheme.startswith("grpc")

    def __str__(self) -> str:
        return self.url


def is_address(text: object) -> bool:
    """True if a text means a server and not a folder; `parse_address` may still refuse it."""
    return isinstance(text, str) and ("://" in text or bool(_HOST_AND_PORT.fullmatch(text)))


def parse_address(text: str) -> Address:
    """The address that a text means.

    Args:
        text: `http://HOST:8501/v1/models/NAME`, with `/versions/N` after it for a certain version or
            `/labels/LABEL` for the one that bears a label, or `grpc://HOST:8500/NAME`, likewise. `https` and `grpcs`
            use TLS.

    Raises:
        UserError: it is none of these; the message says what it could have been.

    Example:
        >>> parse_address("http://localhost:8501/v1/models/flowers/versions/3").version
        3
    """
    parts = urlsplit(text if "://" in text else f"//{text}")
    host = parts.netloc.rpartition("@")[2]
    try:
        port = parts.port
    except ValueError:
        raise _not_an_address(text, "HOST", "its port is not a number below 65,536") from None
    if not parts.scheme:
        raise _not_an_address(text, host, "it does not say whether to use http:// or grpc://")
    if parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise _not_an_address(text, host, f"'{parts.scheme}' is none of http, https, grpc and grpcs")
    if not parts.hostname:
        raise _not_an_address(text, "HOST", "it names no host")
    is_grpc = parts.scheme.startswith("grpc")
    path = (_GRPC_PATH if is_grpc else _REST_PATH).fullmatch(parts.path)
    if not path or parts.query or parts.fragment:
        raise _not_an_address(text, host, "it names no model")
    return Address(
        scheme=parts.scheme,
        host=f"{host}:{GRPC_PORT}" if is_grpc and port is None else host,
        model=unquote(path["model"]),
        version=int(path["version"]) if path["version"] else None,
        prefix=path["prefix"],
        credentials=parts.netloc.rpartition("@")[0],
        label=unquote(path["label"] or ""),
    )


def _not_an_address(text: str, host: str, problem: str) -> UserError:
    name = host.rpartition(":")[0] or host or "HOST"
    shown = re.sub(r"//[^/@]*@", "//", text)  # what stands before the @ may be a password
    return UserError(
        f"'{shown}' is not the address of a served model: {problem}. Expected http://{name}:8501/v1/models/NAME "
        f"(REST) or grpc://{name}:{GRPC_PORT}/NAME; /versions/N after NAME asks for a certain version, /labels/LABEL for the "
        "one with that label."
    )
