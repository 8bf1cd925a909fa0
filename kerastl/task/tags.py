"""Tags of words, one a word, that say which spans are entities: B-PER I-PER O; their schemes, and the way to spans and back.

A span of words is (start, stop, type), the words start..stop-1. Reading is lenient, as that of conlleval and of seqeval's default
mode: an entity begins at B (or S, U), or at I (or E, L) behind O, a closed entity or another type. So every sequence of tags means
some spans, those of IOB1 and IOB2 are read alike, and a decoded answer needs no further repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

OUTSIDE = "O"
SCHEMES = ("IOB1", "IOB2", "BIOES", "BILOU")
_ALIASES = {
    "BIO": "IOB2",
    "IOB": "IOB1",
    "IOBES": "BIOES",
    "BILUO": "BILOU",
    "BMES": "BIOES",
    "BMESO": "BIOES",
}
# One alphabet for all schemes: BILOU's last and unit are BIOES' end and single, M is the middle of BMES.
_AS_BIOES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I"}
_PREFIXES = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIESM", "BILOU": "BILU"}

WordSpan: TypeAlias = tuple[int, int, str]


def is_tag(tag: str) -> bool:
    """True for O, and for a prefix of one of the schemes with a type behind it, such as B-PER."""
    return tag == OUTSIDE or (len(tag) > 2 and tag[0] in _AS_BIOES and tag[1] == "-")


def scheme_named(name: str) -> str | None:
    """The scheme of that name, in any case, under another usual name as well (BIO is IOB2); None for an unknown one."""
    upper = name.upper()
    found = _ALIASES.get(upper, upper)
    return found if found in SCHEMES else None


def fits(tag: str, scheme: str) -> bool:
    """True if a tag (see `is_tag`) is one of the scheme."""
    return tag == OUTSIDE or tag[0] in _PREFIXES[scheme]


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that tags are written in, by all of them together.

    BIOES and BILOU are known by their letters. Of IOB1 and IOB2, which share theirs (E. F. Tjong Kim Sang and J. Veenstra 1999,
    "Representing Text Chunks"), it is the one that fewer tags contradict: an I at the beginning of an entity contradicts IOB2,
    a B that nothing of the same type stands before contradicts IOB1. Where none does, as without an entity, it is IOB2.
    """
    sentences = list(sentences)
    prefixes = {tag[0] for tags in sentences for tag in tags if tag != OUTSIDE}
    if prefixes & set("LU"):
        return "BILOU"
    if prefixes & set("ESM"):
        return "BIOES"
    against = {name: sum(len(invalid_places(tags, name)) for tags in sentences) for name in ("IOB2", "IOB1")}
    return min(against, key=lambda name: against[name])


def invalid_places(tags: Sequence[str], scheme: str) -> list[int]:
    """Positions of tags of one sentence that cannot follow the one before; also the last one, where an entity is not closed."""
    found = []
    before, before_type = OUTSIDE, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = (tag, "") if tag == OUTSIDE else (_AS_BIOES[tag[0]], tag[2:])
        is_same = before != OUTSIDE and kind == before_type
        if scheme == "IOB2":
            wrong = prefix == "I" and not is_same
        elif scheme == "IOB1":
            wrong = prefix == "B" and not is_same
        else:
            is_open, goes_on = before in "BI", prefix in "IE"
            wrong = is_open != goes_on or (is_open and not is_same)
        place = min(place, len(tags) - 1)
        if wrong and place not in found[-1:]:
            found.append(place)
        before, before_type = prefix, kind
    return found


def spans_of(tags: Sequence[str]) -> list[WordSpan]:
    """The entities of one sentence's tags, of any scheme; see the module about what is invalid.

    Example:
        >>> spans_of(["I-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-ORG"])
        [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC'), (5, 6, 'ORG')]
    """
    found: list[WordSpan] = []
    start, open_type = 0, ""
    is_open = False
    for place, tag in enumerate(tags):
        prefix, kind = (OUTSIDE, "") if tag == OUTSIDE else (_AS_BIOES[tag[0]], tag[2:])
        if is_open and (prefix in "OBS" or kind != open_type):
            found.append((start, place, open_type))
            is_open = False
        if prefix != OUTSIDE and not is_open:
            start, open_type, is_open = place, kind, True
        if is_open and prefix in "ES":
            found.append((start, place + 1, open_type))
            is_open = False
    if is_open:
        found.append((start, len(tags), open_type))
    return found


def tag_names(types: Sequence[str]) -> tuple[str, ...]:
    """Names of the tags of IOB2 in the order of their codes: O, and for each type B and I.

    Example:
        >>> tag_names(["LOC", "PER"])
        ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')
    """
    return (OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI"))


def codes_of(spans: Iterable[WordSpan], words: int, types: Sequence[str]) -> np.ndarray:
    """Codes of the tags of IOB2 for one sentence, int32 [words]; see `tag_names`.

    Args:
        spans: that do not overlap.
        words: how many there are.
        types: of the spans.

    Raises:
        ValueError: spans overlap, or lie outside of the words.
    """
    codes = np.zeros(words, np.int32)
    code = {name: 1 + 2 * number for number, name in enumerate(types)}
    for start, stop, name in spans:
        if not 0 <= start < stop <= words or codes[start:stop].any():
            raise ValueError(f"Span {start} to {stop} of {words} words overlaps another one, or is none.")
        codes[start:stop] = code[name] + 1
        codes[start] = code[name]
    return codes


def code_spans(codes: np.ndarray) -> np.ndarray:
    """The entities of codes of IOB2 tags, read as `spans_of` reads the tags themselves.

    Args:
        codes: int [n], of one sentence; see `tag_names`.

    Returns:
        int64 [m, 3]: start, stop and number of the type.
    """
    codes = np.asarray(codes, np.int64)
    kinds = (codes + 1) // 2  # 0 for O, else 1 + the number of the type
    before = np.concatenate([[0], kinds[:-1]]) if len(kinds) else kinds
    changed = kinds != before
    begins = np.flatnonzero((kinds > 0) & ((codes % 2 == 1) | changed))
    # an entity ends where the next one begins, or where the type changes
    ends = np.flatnonzero(np.concatenate([changed | (codes % 2 == 1), [True]]))
    stops = ends[np.searchsorted(ends, begins, side="right")] if len(begins) else begins
    return np.stack([begins, stops, kinds[begins] - 1], axis=1)
