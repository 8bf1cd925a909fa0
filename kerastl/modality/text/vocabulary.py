"""The pieces of a WordPiece model: `vocab.txt`, one piece a line, whose place is its id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kerastl.errors import UserError

UNKNOWN, START, SEPARATOR, PADDING = "[UNK]", "[CLS]", "[SEP]", "[PAD]"
SPECIAL = (UNKNOWN, START, SEPARATOR, PADDING)
# Before a piece that goes on within a word.
CONTINUES = "##"
# Characters of a word; longer ones are unknown, as they are to BERT's tokenizers.
MOST_IN_WORD = 100
_MEND = "Expected the vocab.txt of a BERT model as it was published: UTF-8, one piece a line, its id the line's place."


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by their ids, distinct and not empty, the special ones among them; equal to another of the same digest.

    Attributes:
        pieces: the piece with each id; `##` before those that go on within a word.

    Raises:
        UserError: a piece stands twice or is empty, or a special one is missing.
    """

    pieces: tuple[str, ...] = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if problem := _problem(self.pieces):
            raise UserError(f"A vocabulary of {len(self.pieces)} pieces: {problem} {_MEND}")
        digest = hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each piece."""
        return {piece: number for number, piece in enumerate(self.pieces)}


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a `vocab.txt`, its lines ended by LF or CRLF.

    Args:
        path: of the file.

    Raises:
        UserError: it cannot be read, is empty, no UTF-8 or not whole, has a line twice or an empty one, or lacks `[UNK]`, `[CLS]`,
            `[SEP]` or `[PAD]`; names file and line.

    Example:
        >>> read_vocabulary(Path("minilm/vocab.txt")).ids["[CLS]"]
        101
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"The vocabulary {path} cannot be read: {error.strerror}. {_MEND}") from error
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"The vocabulary {path}, line 1: it begins with a byte order mark, as editors write it. Save it as UTF-8 without one. {_MEND}"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"The vocabulary {path}, line {line}: byte 0x{raw[error.start]:02x} is no UTF-8. {_MEND}"
        ) from error
    # Not splitlines: a piece may be one of the rarer line ends of Unicode.
    pieces = tuple(line.rstrip() for line in text.removesuffix("\n").split("\n"))
    if problem := _problem(pieces):
        raise UserError(
            f"The vocabulary {path}{problem if problem.startswith(',') else f': {problem}'} {_MEND}"
        )
    return Vocabulary(pieces)


def _problem(pieces: tuple[str, ...]) -> str:
    """A sentence on what is wrong with pieces, or ''; it begins with `, line 7:` where there is a line to name."""
    if not any(pieces):
        return "it is empty."
    first: dict[str, int] = {}
    twice = [
        (line, before, piece)
        for line, piece in enumerate(pieces, 1)
        if (before := first.setdefault(piece, line)) != line and piece
    ]
    if "" in first:
        return f", line {first['']}: it is empty, and all after it would have other ids."
    if twice:
        line, before, piece = twice[0]
        more = f", and {len(twice) - 1} more stand twice" if len(twice) > 1 else ""
        return f", line {line}: '{piece}' already stands on line {before}{more}."
    if missing := [piece for piece in SPECIAL if piece not in first]:
        return f"it lacks {', '.join(missing)}."
    return ""
