"""BERT's treatment of single characters: dropped, a space, a word by itself, part of a word, or replaced by others.

`characters.txt` was made by asking Hugging Face's `tokenizers` for every code point (tools/character_table.py). Its BertNormalizer
cleans, sets Chinese characters apart, decomposes (NFD), strips marks and lowers; its BertPreTokenizer splits at spaces and
punctuation. All of it looks at one character at a time, but for the order of marks in NFD: 181 combining characters are not
stripped, because the categories there are older than the decompositions, and where NFD moves a mark past one of them, order and
offsets here stay those of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("characters.txt")
# Kinds of characters. Those from REPLACED on are rows of a table: what stands in their place.
PART, ALONE, SPACE, DROPPED, MARK, SYLLABLE, REPLACED = range(7)
CLASSES = {"A": ALONE, "S": SPACE, "D": DROPPED, "M": MARK}
MOST_CHARACTERS = 3  # that stand in the place of one

# Syllables of Hangul decompose by arithmetic: The Unicode Standard 15.0, section 3.12.
HANGUL = range(0xAC00, 0xD7A4)
LEADS, VOWELS, TAILS = 0x1100, 0x1161, 0x11A7
VOWEL_COUNT, TAIL_COUNT = 21, 28

# A table in two stages, as in section 5.1 there: the block of a code point, and its place in the block.
BLOCK = 128


@dataclass(frozen=True)
class CharacterMap:
    """The kind of each character, and what it is replaced by.

    Attributes:
        blocks: int32 [8704], the row of `kinds` for each block of code points.
        kinds: int32 [rows, 128].
        counts: int32 [kinds], characters in the place of one; that of a syllable of Hangul is 2 or 3.
        alone: bool [kinds], True where each of them is a word by itself.
        characters: int32 [kinds, 3], the code points of a kind that is replaced; zeros behind them.
    """

    blocks: np.ndarray
    kinds: np.ndarray
    counts: np.ndarray
    alone: np.ndarray
    characters: np.ndarray


@dataclass(frozen=True)
class Expansion:
    """Characters in the place of one; none for a space or what is dropped.

    Attributes:
        characters: the string of them.
        alone: True if each is a word by itself.
        space: True if a space stands there.
    """

    characters: str
    alone: bool = False
    space: bool = False


@lru_cache
def character_map(lowercase: bool) -> CharacterMap:
    """The map of an uncased model (accents are stripped, letters lowered) or of a cased one."""
    kinds: np.ndarray = np.full(0x110000, PART, np.int32)
    replaced: dict[int, list[int]] = {}
    for line in FILE.read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        if "=" in line:
            code, _, codes = line.partition("=")
            replaced[int(code, 16)] = [int(each, 16) for each in codes.split()]
        else:
            bounds, kind = line.split()
            if kind != "M" or lowercase:
                first, _, last = bounds.partition("-")
                kinds[int(first, 16) : int(last, 16) + 1] = CLASSES[kind]
    if not lowercase:
        replaced = {}
    # All characters in the place of one are of one class: the tool has proven it.
    alone = [False] * REPLACED + [bool(kinds[codes[0]] == ALONE) for codes in replaced.values()]
    alone[ALONE] = True
    counts = [1, 1, 1, 0, 0, 2, *map(len, replaced.values())]
    characters: np.ndarray = np.zeros((len(counts), MOST_CHARACTERS), np.int32)
    for row, (replaced_code, by) in enumerate(replaced.items(), REPLACED):
        kinds[replaced_code] = row
        characters[row, : len(by)] = by
    if lowercase:
        kinds[HANGUL.start : HANGUL.stop] = SYLLABLE
    rows: dict[bytes, int] = {}
    blocks = [rows.setdefault(block.tobytes(), len(rows)) for block in kinds.reshape(-1, BLOCK)]
    return CharacterMap(
        np.array(blocks, np.int32),
        np.frombuffer(b"".join(rows), np.int32).reshape(-1, BLOCK),
        np.array(counts, np.int32),
        np.array(alone),
        characters,
    )


def expansion(map_: CharacterMap, code: int) -> Expansion:
    """The map's answer for one code point."""
    kind = map_.kinds[map_.blocks[code // BLOCK], code % BLOCK]
    if kind in (PART, ALONE):
        return Expansion(chr(code), alone=kind == ALONE)
    if kind == SYLLABLE:
        syllable, tail = divmod(code - HANGUL.start, TAIL_COUNT)
        lead, vowel = divmod(syllable, VOWEL_COUNT)
        codes = [LEADS + lead, VOWELS + vowel, *([TAILS + tail] if tail else [])]
        return Expansion("".join(map(chr, codes)))
    if kind < REPLACED:
        return Expansion("", space=kind == SPACE)
    replaced = map_.characters[kind, : map_.counts[kind]]
    return Expansion("".join(map(chr, replaced)), alone=bool(map_.alone[kind]))


def is_surrogate(code: int) -> bool:
    """True for a code point that is no character."""
    return 0xD800 <= code < 0xE000
