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
# One alphabet for all schemes: BILOU's last and unit are BIOES' end and single, M is the middle of BMES.
_AS_BIOES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I"}

WordSpan: TypeAlias = tuple[int, int, str]


def is_tag(tag: str) -> bool:
    """True for O, and for a prefix of one of the schemes with a type behind it, such as B-PER."""
    return tag == OUTSIDE or (len(tag) > 2 and tag[0] in _AS_BIOES and tag[1] == "-")


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
    found: list[int] = []
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


def types_in(names: Sequence[str]) -> tuple[str, ...]:
    """The types whose tags these are; the way back from `tag_names`."""
    return tuple(name[2:] for name in names[1::2])


def code_spans(codes: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """The entities of codes of IOB2 tags, read as `spans_of` reads the tags themselves.

    Args:
        codes: int [n], of the words of one sentence, or of several one behind another; see `tag_names`.
        lengths: int [sentences], words of each; one sentence without it. No entity goes beyond its sentence.

    Returns:
        int64 [m, 3]: start and stop, counted from the first word of all, and the number of the type.
    """
    kinds, begins_at = _kinds(codes, lengths)
    # an entity ends where the next one begins, or where there is none
    ends = np.flatnonzero(np.concatenate([begins_at | (kinds == 0), [True]]))
    begins = np.flatnonzero(begins_at)
    stops = ends[np.searchsorted(ends, begins, side="right")]
    return np.stack([begins, stops, kinds[begins] - 1], axis=1)


def repaired(codes: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """The codes with B for each I that begins an entity, int32 [n]: IOB2 of the same spans.

    Args:
        codes: int [n], such as the best one of each word.
        lengths: int [sentences], words of each; one sentence without it.

    Example:
        >>> repaired(np.array([2, 2, 0, 1, 4]))
        array([1, 2, 0, 1, 3], dtype=int32)
    """
    kinds, begins_at = _kinds(codes, lengths)
    return np.where(begins_at, 2 * kinds - 1, codes).astype(np.int32)


def _kinds(codes: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """For each word 0 or 1 + the number of its type, int64 [n], and whether an entity begins with it."""
    codes = np.asarray(codes, np.int64)
    kinds = (codes + 1) // 2
    before = np.concatenate([[0], kinds])[: len(kinds)]
    if lengths is not None:
        starts = np.cumsum([0, *lengths])
        if starts[-1] != len(codes):
            raise ValueError(f"The sentences have {starts[-1]:,} words, and there are {len(codes):,} codes.")
        before[starts[starts < len(codes)]] = 0
    return kinds, (kinds > 0) & ((codes % 2 == 1) | (kinds != before))
