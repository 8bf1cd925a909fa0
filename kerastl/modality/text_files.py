"""Text files before they are decoded: which files count, and why one cannot be read. Needs neither TensorFlow nor NumPy."""

from __future__ import annotations

import codecs
from pathlib import Path

from kerastl.modality.image.files import suffix_of

TEXT_SUFFIXES = frozenset(["txt", "text"])
"""Files with these suffixes are texts, and so is what has no suffix and holds no zero byte."""

_BEGINNING_BYTES = 1024
# Marks of encodings at the beginning of a file; UTF-32's begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_text_file(path: Path | str) -> bool:
    """True if a file is meant to be a text: by its suffix, or where it has none by its first bytes."""
    name = Path(path).name
    if "." in name:
        return suffix_of(name) in TEXT_SUFFIXES
    try:
        with open(path, "rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
    except OSError:
        return False
    return bool(beginning) and b"\0" not in beginning


def utf8_of(raw: bytes) -> tuple[bytes, str]:
    r"""A text as UTF-8 without a mark at its beginning, and the encoding that it was converted from; '' where it was UTF-8.

    UTF-16 and UTF-32 are known by their mark alone (Unicode Standard, 2.13); 8-bit encodings have none and are refused.

    Raises:
        ValueError: it is empty or not valid; the text says why in a few words.

    Example:
        >>> utf8_of("\ufeffé".encode("utf-16-le"))
        (b'\xc3\xa9', 'utf-16')
    """
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(why_not_utf8(raw) or f"truncated or damaged {encoding}: {error.reason}") from error
    if not text.strip():
        raise ValueError("empty text")
    if encoding == "utf-8":
        return raw, ""
    return text.encode("utf-8"), "" if encoding == "utf-8-sig" else encoding


def why_not_utf8(raw: bytes) -> str:
    r"""The place at which bytes stop being UTF-8, and what they may be; '' where they are valid, or marked as another encoding.

    Example:
        >>> why_not_utf8("Zug\nFähre".encode("latin-1"))
        'line 2: byte 0xe4 is not UTF-8, but perhaps Latin-1 or Windows-1252'
    """
    mark = next((name for mark, name in _MARKS[1:] if raw.startswith(mark)), "")
    if mark:
        return ""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        guess = "" if b"\0" in raw[:_BEGINNING_BYTES] else ", but perhaps Latin-1 or Windows-1252"
        return f"line {line:,}: byte 0x{raw[error.start]:02x} is not UTF-8{guess}"
    return ""


def why_file_not_utf8(path: Path | str) -> str:
    """The place at which a file of lines stops being UTF-8, in few words, for messages; it is read line by line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and (
                mark := next((name for mark, name in _MARKS[1:] if line.startswith(mark)), "")
            ):
                return f"line 1: it begins as {mark.upper()}"
            if reason := why_not_utf8(line):
                return f"line {number:,}: {reason.partition(': ')[2]}"
    return "it changed while it was read"
