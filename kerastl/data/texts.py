"""Texts as bytes in UTF-8: what can be written so, and texts that are handed over in Python."""

from __future__ import annotations

from typing import Any

from kerastl.errors import DataError

_EXPECTED = "Expected a list of str"


def is_unicode(text: str) -> bool:
    """True if no half of a character (U+D800 to U+DFFF) is in it, which UTF-8 cannot write."""
    return text.isascii() or text.encode("utf-8", "replace").decode("utf-8") == text


def utf8_texts(texts: Any, name: str, *, allow_empty: bool = False) -> list[bytes]:
    """Texts as bytes in UTF-8, unchanged otherwise; bytes are taken for UTF-8, as TensorFlow and TFDS give texts.

    Args:
        texts: a list, an array or a column of str.
        name: of the argument, for messages.
        allow_empty: take texts without a word as well.

    Raises:
        DataError: one is none, empty where that is not allowed, or no valid Unicode.
    """
    if isinstance(texts, (str, bytes)) or not (hasattr(texts, "__iter__") and hasattr(texts, "__len__")):
        raise DataError(f"{name} is a {type(texts).__name__}. {_EXPECTED}, one for each text")
    if getattr(texts, "ndim", 1) != 1:
        raise DataError(f"{name} has the shape {tuple(texts.shape)}. {_EXPECTED}, [n]")
    values = texts.numpy() if hasattr(texts, "numpy") else texts
    return [_utf8(each, f"{name}[{row}]", allow_empty) for row, each in enumerate(values)]


def _utf8(text: Any, name: str, allow_empty: bool) -> bytes:
    if not isinstance(text, (str, bytes)):
        raise DataError(f"{name} is a {type(text).__name__}. {_EXPECTED}")
    try:
        raw = text if isinstance(text, bytes) else text.encode()
        words = raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: byte {error.start} is not UTF-8. {_EXPECTED}, or of bytes in UTF-8"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} holds half of a character at {error.start} (\\ud800 to \\udfff). Expected valid Unicode: "
            "read the file with its encoding, and without errors='surrogateescape'"
        ) from error
    if not (allow_empty or words.strip()):
        raise DataError(f"{name} is empty. Take out texts without a word, and their labels")
    return raw
