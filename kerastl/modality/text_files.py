"""Text files before they are decoded: which files count, and why one cannot be read. Needs neither TensorFlow nor NumPy."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kerastl.errors import UserError, nearest
from kerastl.modality import RawExample
from kerastl.modality.image.files import is_hidden, suffix_of
from kerastl.progress import Progress
from kerastl.wording import counted

TEXT_SUFFIXES = frozenset(["txt", "text"])
"""Files with these suffixes are texts, and so is what has no suffix and holds no zero byte."""

STDIN = "-"

_BEGINNING_BYTES = 1024
_NAME_CHARACTERS = 60
# Marks of encodings at the beginning of a file; UTF-32's begins with that of UTF-16. That of UTF-8 is none: see `utf8_of`.
_MARKS = (
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
    r"""A text as UTF-8, and the encoding that it was converted from; '' where it was UTF-8 and is returned as it is.

    UTF-16 and UTF-32 are known by their mark alone (Unicode Standard, 2.13); 8-bit encodings have none and are refused. A U+FEFF at
    the beginning of UTF-8 is a character of the text and counts in offsets: that of a file is gone (see `bytes_of`).

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
    if not text.removeprefix("\ufeff").strip():
        raise ValueError("empty text")
    if encoding == "utf-8":
        return raw, ""
    return text.encode("utf-8"), encoding


def why_not_utf8(raw: bytes) -> str:
    r"""The place at which bytes stop being UTF-8, and what they may be; '' where they are valid, or marked as another encoding.

    Example:
        >>> why_not_utf8("Zug\nFähre".encode("latin-1"))
        'line 2: byte 0xe4 is not UTF-8, but perhaps Latin-1 or Windows-1252'
    """
    mark = next((name for mark, name in _MARKS if raw.startswith(mark)), "")
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
            if number == 1 and (mark := next((name for mark, name in _MARKS if line.startswith(mark)), "")):
                return f"line 1: it begins as {mark.upper()}"
            if reason := why_not_utf8(line):
                return f"line {number:,}: {reason.partition(': ')[2]}"
    return "it changed while it was read"


def find_texts(words: Sequence[str], progress: Progress = Progress()) -> list[tuple[str, RawExample]]:
    """Texts by their names: files, those of folders and glob patterns, lines of the standard input, and texts themselves.

    Args:
        words: names of files, folders and patterns; `-` for the standard input, a text a line; anything else is a text, unless it
            looks like a path: no space in it, and a separator or the suffix of a text file.
        progress: told how many files of a folder are no texts, and how many lines are empty.

    Returns:
        Name and raw example of each, without repeats of files. A text is named by its beginning.

    Raises:
        UserError: a path or pattern matches nothing, or the standard input is empty, or damaged UTF-16 or UTF-32.
    """
    found: list[tuple[str, RawExample]] = []
    seen: set[str] = set()
    for word in words:
        if word == STDIN:
            found += _lines(sys.stdin.buffer.read(), progress)
            continue
        paths = _paths(word, progress)
        if paths is None:
            found.append((_name_of(word), word.encode("utf-8", "surrogateescape")))
        else:
            found += [(path, Path(path)) for path in paths if path not in seen]
            seen |= {*paths}
    return found


def _lines(raw: bytes, progress: Progress) -> list[tuple[str, RawExample]]:
    """The lines of the standard input that hold a text, by their numbers in it."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if any(raw.startswith(mark) for mark, _ in _MARKS):  # else each line is judged by itself
        try:
            raw, _ = utf8_of(raw)
        except ValueError as error:
            raise UserError(f"The standard input: {error}. Expected a text a line, best in UTF-8") from error
    lines = raw.splitlines()
    found: list[tuple[str, RawExample]] = [
        (f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise UserError("The standard input holds no text. Expected one a line")
    if len(found) < len(lines):
        progress.warn(
            f"The standard input: {counted(len(lines) - len(found), 'empty line')} left out; others keep their numbers"
        )
    return found


def _paths(word: str, progress: Progress) -> list[str] | None:
    """Files that a word means; None where it is a text itself."""
    if not word.strip():
        return None
    try:
        path = Path(os.path.expanduser(word))  # as it is where ~ names no user
        if path.is_dir():
            return _texts_below(path, progress)
        if path.exists():
            return [str(path)]
        matches = sorted(each for each in glob.glob(str(path), recursive=True) if Path(each).is_file())
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return None
    if matches:
        return matches
    if any(each.isspace() for each in word) or not (os.sep in word or suffix_of(word) in TEXT_SUFFIXES):
        return None
    siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(
        f"No text '{word}'.{nearest(path.name, siblings)} Expected a text in quotes, a file, a folder, a pattern such as "
        "'reviews/*.txt', or - for the standard input"
    )


def _texts_below(folder: Path, progress: Progress) -> list[str]:
    files = sorted(
        str(Path(below, name))
        for below, _, names in os.walk(folder, followlinks=False)
        for name in names
        if not is_hidden(name)
    )
    texts = [each for each in files if is_text_file(each)]
    if not texts:
        raise UserError(f"No text in '{folder}'. Expected files such as .txt")
    if len(texts) < len(files):
        progress.warn(f"{folder}: {len(files) - len(texts):,} files are no texts and left out")
    return texts


def _name_of(text: str) -> str:
    """A text's beginning on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _NAME_CHARACTERS else f"{line[: _NAME_CHARACTERS - 1]}…"
