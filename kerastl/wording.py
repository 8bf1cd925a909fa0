"""Formatting of figures and names: on the terminal, in reports and on model cards."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells

# What is read from its right end: figures, sizes, and the dash of what is not known.
_NUMBER = re.compile(r"-?[\d,.]+(e[-+]\d+)?( ([KMG]B|bytes|M))?|[–-]?")
# Where a column of a table is made narrower, a word of most languages still stands in one line of it.
NARROWEST_COLUMN = 12


def duration(seconds: float) -> str:
    """A length of time as people say it: `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def share(value: float | None) -> str:
    """A share 0..1, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def interval(low: float, high: float, groups: int | None = None) -> str:
    """A 95 % interval of a share, and how many groups of examples it stands on where there are any."""
    over = f", over {groups:,} groups" if groups else ""
    return f"95 % interval {low:.3f} to {high:.3f}{over}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 file`, `2,000 files`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def cut(text: str, width: int) -> str:
    """The text, shortened to a width in cells of a terminal: a Chinese character takes two."""
    return text if cell_len(text) <= width else chop_cells(text, width - 1)[0] + "…"


def visible(text: str) -> str:
    """The text in one line, without what moves a terminal's cursor: a file may have any name, a server any answer."""
    return "".join("�" if unicodedata.category(character) == "Cc" else character for character in text)


def escape(text: str) -> str:
    """The text, so that Markdown shows it as it is."""
    # between letters and digits an underscore emphasises nothing (CommonMark 0.31.2, 6.2)
    return re.sub(r"[\\`*|<>\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def wrapped(line: str, width: int, indent: int | None = None) -> list[str]:
    """The line in pieces of at most `width` cells of a terminal, broken at spaces where that is possible.

    Args:
        line: without line breaks; a Chinese character takes two cells.
        width: of the terminal, in cells.
        indent: of all pieces but the first; that of the line and two more without it.
    """
    if cell_len(line) <= width:
        return [line.rstrip()]
    first = " " * (len(line) - len(line.lstrip()))
    rest = first + "  " if indent is None else " " * indent
    pieces: list[str] = []
    piece = first
    for word in line.split(" ")[len(first) :]:
        start = rest if pieces else first
        joined = word if piece == start else f" {word}"
        if cell_len(piece + joined) > width and piece != start:
            pieces.append(piece.rstrip())
            piece, joined = rest, word
        if cell_len(piece + joined) <= width:
            piece += joined
        else:
            *full, last = chop_cells(joined, max(width - len(rest), 2))
            pieces += [(rest if pieces or i else piece) + each for i, each in enumerate(full)]
            piece = rest + last
    return [*pieces, piece.rstrip()]


def columns(header: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> str:
    """Aligned columns of at most `width` cells; numbers to the right, with separators between thousands.

    Where they are wider, long texts are wrapped within their columns. Where that is not enough, each row becomes a few
    lines: its first cell, and below it the others with their headings.

    Args:
        header: a heading for each column.
        rows: each with a cell for each heading; numbers, or what `str` makes text of.
        width: of the terminal, in cells.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else visible(str(cell)) for cell in row] for row in rows]
    numbers = [
        bool(rows) and i > 0 and all(_NUMBER.fullmatch(row[i]) for row in cells) for i in range(len(header))
    ]
    words = [max(map(cell_len, name.split(" "))) for name in header]
    filled = [max([least, *(cell_len(row[i]) for row in cells)]) for i, least in enumerate(words)]
    narrow = [
        each if right else min(each, max(NARROWEST_COLUMN, least))
        for each, right, least in zip(filled, numbers, words, strict=True)
    ]
    room = width - 2 * (len(header) - 1)
    if sum(narrow) > room:
        return "\n".join(line for row in cells for line in _stacked(header, row, width))
    widths = [max(each, cell_len(name)) for each, name in zip(filled, header, strict=True)]
    for floor in (filled, narrow):  # headings give way before cells do
        while sum(widths) > room and widths != floor:
            widths[max(range(len(widths)), key=lambda i: (widths[i] > floor[i], widths[i]))] -= 1
    lines = []
    for row in [list(header), *cells]:
        pieces = [wrapped(cell, each, 0) for cell, each in zip(row, widths, strict=True)]
        for number in range(max(map(len, pieces))):
            line = (
                _filled(piece[number] if number < len(piece) else "", each, right)
                for piece, each, right in zip(pieces, widths, numbers, strict=True)
            )
            lines.append("  ".join(line).rstrip())
    return "\n".join(lines)


def _stacked(header: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    lines = wrapped(row[0], width) if row[0] else []
    line = ""
    for name, cell in zip(header[1:], row[1:], strict=True):
        words = f"{name} {cell}".strip() if cell else ""
        if line and cell_len(f"  {line}, {words}") > width:
            lines += wrapped(f"  {line},", width)
            line = ""
        line = f"{line}, {words}" if line and words else line or words
    return [*lines, *(wrapped(f"  {line}", width) if line else [])]


def _filled(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# A folder's name may have 255 bytes, and a run's begins with a time.
LONGEST_NAME = 200
# Letters that Unicode does not take apart into an ASCII letter and a mark.
_APART = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
_LETTERS = str.maketrans({**_APART, **{k.upper(): v.upper() for k, v in _APART.items()}, "ß": "ss"})


def is_name(text: str) -> bool:
    """True if a run and a model can have this name: in paths, and in TensorFlow Serving's URLs and configuration."""
    return len(text) <= LONGEST_NAME and _NAME.fullmatch(text) is not None


def without_accents(text: str) -> str:
    """The text with ASCII letters where it has an accented one: `Blümchen` becomes `Blumchen`."""
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(c for c in apart if not unicodedata.combining(c))


def safe_name(text: str, otherwise: str = "run") -> str:
    """A name made from any text that can stand in a path and in a TensorFlow Serving URL.

    Example:
        >>> safe_name("Cats & dogs/2024")
        'Cats-dogs-2024'
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", without_accents(text))
    return plain.strip("-._")[:80].rstrip("-._") or otherwise
