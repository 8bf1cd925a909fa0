"""Texts with entities in them: the value that every source of entities gives."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerastl.task.tags import WordSpan

# What BERT takes for ideographs, which stand for themselves (`BasicTokenizer._is_chinese_char`, google-research/bert).
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Span:
    """An entity in a text.

    Attributes:
        start: of its first character, in Unicode code points.
        end: behind its last character.
        label: its type, such as `PER`.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Annotated:
    """A sentence or document with its entities.

    Attributes:
        text: as it is written; of columns of words these with a blank between them.
        spans: entities in the order of the text; none overlaps another, and each begins and ends with a word (see `word_places`).
        place: number of its line, row or task in its source.
        document: number of the document that a sentence belongs to, where the source says so; None elsewhere.
    """

    text: str
    spans: tuple[Span, ...]
    place: int
    document: int | None = None


@dataclass(frozen=True)
class Entities:
    """Texts and entities of one source.

    Attributes:
        documents: in the order of the source.
        types: of the entities, sorted.
        origin: the source in words, for messages.
        scheme: that its tags are written in; '' where it holds spans.
        warnings: what was read otherwise than it is written, or left out.
    """

    documents: tuple[Annotated, ...]
    types: tuple[str, ...]
    origin: str
    scheme: str = ""
    warnings: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of entities of each type."""
        found = Counter(span.label for each in self.documents for span in each.spans)
        return {name: found[name] for name in self.types}


def types_of(documents: Sequence[Annotated]) -> tuple[str, ...]:
    """The types of their entities, sorted."""
    return tuple(sorted({span.label for each in documents for span in each.spans}))


def from_words(
    words: Sequence[str], spans: Sequence[WordSpan], place: int, document: int | None = None
) -> Annotated:
    """A sentence from its words, which stand in its text with a blank between them, and its entities as spans of words."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    found = tuple(
        Span(int(ends[start]) - len(words[start]), int(ends[stop - 1]), label)
        for start, stop, label in sorted(spans)
    )
    return Annotated(" ".join(words), found, place, document)


def word_places(text: str) -> tuple[tuple[int, int], ...]:
    """(start, end) of the words of running text in code points: between blanks, with each punctuation mark and ideograph alone.

    These are the words that BERT's tokenizers take apart further (J. Devlin et al. 2019; `BasicTokenizer`). Other scripts
    without blanks, such as kana or Thai, are not taken apart.

    Example:
        >>> word_places("Dr. Wu, 北京")
        ((0, 2), (2, 3), (4, 6), (6, 7), (8, 9), (9, 10))
    """
    places = []
    start: int | None = None
    for at, character in enumerate(text):
        alone = _stands_alone(character)
        if start is not None and (alone or character.isspace()):
            places.append((start, at))
            start = None
        if alone:
            places.append((at, at + 1))
        elif start is None and not character.isspace():
            start = at
    if start is not None:
        places.append((start, len(text)))
    return tuple(places)


def _stands_alone(character: str) -> bool:
    """True for what BERT takes for punctuation (in ASCII every sign that is no letter or digit), and for ideographs."""
    code = ord(character)
    if code < 128:
        return 32 < code < 127 and not character.isalnum()
    if any(first <= code <= last for first, last in _IDEOGRAPHS):
        return True
    return unicodedata.category(character).startswith("P")
