"""Credentials of a client: headers, and the certificates to trust for TLS."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from kerastl.errors import UserError

TOKEN_VARIABLE = "KERASTL_TOKEN"
HAND_OVER = (
    f"The environment variable {TOKEN_VARIABLE} hands over a token, --header 'NAME: VALUE' any other header."
)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEMES = ("bearer", "basic", "token")


@dataclass(frozen=True)
class Access:
    """Sent with every request; never shown in a message.

    Attributes:
        headers: names and values: HTTP headers over REST, metadata over gRPC.
        ca_file: certificates (PEM) of whom to trust for `https` and `grpcs`; None for the usual authorities.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: Path | None = None

    @property
    def authorized(self) -> bool:
        """True if one of the headers is an authorization."""
        return any(name.lower() == "authorization" for name, _ in self.headers)

    def hidden(self, text: str, credentials: str = "") -> str:
        """A server's words without what may be secret, because some repeat what they were sent.

        Args:
            text: a server's message.
            credentials: of its address, `user:password`, or nothing.
        """
        password = credentials.partition(":")[2]
        basic = base64.b64encode(unquote(credentials).encode()).decode()
        words = [word for _, value in self.headers for word in value.split()]
        # The longest first: one may be a part of another. Words as short as "key" would blacken half a sentence.
        for word in sorted({*words, password, unquote(password), basic}, key=len, reverse=True):
            text = text.replace(word, "***") if len(word) > 3 and word.lower() not in _SCHEMES else text
        return text


def read_access(headers: Sequence[str] = (), ca_file: Path | str | None = None) -> Access:
    """Headers and certificates that a user passed, and the token that the environment holds.

    Args:
        headers: texts such as `Authorization: Bearer …`.
        ca_file: a PEM file.

    Raises:
        UserError: a header is not of that form, or there is no such file; values are not shown, they may be secret.
    """
    found = [_header(text, f"Header {number}") for number, text in enumerate(headers, start=1)]
    access = Access(tuple(found), Path(ca_file) if ca_file is not None else None)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and not access.authorized:
        bearer = _header(f"Authorization: Bearer {token}", f"The environment variable {TOKEN_VARIABLE}")
        access = Access((*access.headers, bearer), access.ca_file)
    if access.ca_file and not access.ca_file.is_file():
        raise UserError(f"There is no file '{access.ca_file}'. Expected certificates in PEM format.")
    return access


def _header(text: str, what: str) -> tuple[str, str]:
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not _NAME.fullmatch(name):
        raise UserError(f"{what} is not of the form 'NAME: VALUE', such as 'Authorization: Bearer TOKEN'.")
    if not value or not (value.isascii() and value.isprintable()):
        raise UserError(f"{what} ('{name}') has no value, or one with other than printable ASCII characters.")
    return name, value
