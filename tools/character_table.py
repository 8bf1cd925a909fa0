"""Write `kerastl/modality/text/characters.txt`: what BERT's normaliser and pre-tokenizer make of each character.

    python tools/character_table.py            # needs the package tokenizers; a few seconds
    python tools/character_table.py --check    # fail if the file is not what the installed version says

All code points are asked, once cased and once uncased. Python's own `unicodedata` would not do: it is of another version of
Unicode in each version of Python, and Hugging Face's categories are of older ones than its decompositions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import tokenizers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from kerastl.modality.text.characters import FILE, HANGUL, character_map, expansion, is_surrogate

HEADER = f"""\
# Made by tools/character_table.py from tokenizers {tokenizers.__version__}: BertNormalizer and BertPreTokenizer, asked for every character.
# first-last D   dropped; S   becomes a space; A   a word by itself; all others are parts of words
# first-last M   uncased: dropped, a mark on the character before it
# code=codes     uncased: replaced, without accents and in lower case; Hangul is computed
"""
CODES = [code for code in range(0x110000) if not is_surrogate(code)]


def normalized(lowercase: bool) -> list[str]:
    ask = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase)
    return ["" if is_surrogate(code) else ask.normalize_str(chr(code)) for code in range(0x110000)]


def classes(cased: list[str]) -> dict[int, str]:
    """The class of each character as it stands, before anything is stripped: W, A, S or D."""
    split = BertPreTokenizer()
    found = {}
    for code in CODES:
        if cased[code] == chr(code):
            # Three parts where it stands by itself, one where it is part of a word.
            found[code] = "WSA"[len(split.pre_tokenize_str(f"a{chr(code)}a")) - 1]
        else:
            found[code] = {"": "D", " ": "S", f" {chr(code)} ": "A"}[cased[code]]
    found[ord(" ")] = "S"
    return found


def ranges(kind_of: Callable[[int], str]) -> Iterator[str]:
    first, kind = 0, ""
    for code in [*CODES, 0x110000]:
        now = kind_of(code) if code < 0x110000 else ""
        if now != kind:
            if kind not in ("", "W"):
                yield f"{first:x}-{code - 1:x} {kind}"
            first, kind = code, now


def table(cased: list[str], uncased: list[str]) -> str:
    kind = classes(cased)
    bare = {code: uncased[code].strip(" ") for code in CODES if kind[code] in "WA"}
    marks = {code for code, text in bare.items() if not text}
    replaced = (
        f"{code:x}={' '.join(f'{ord(each):x}' for each in text)}"
        for code, text in bare.items()
        if text not in ("", chr(code)) and code not in HANGUL
    )
    lines = [*ranges(kind.__getitem__), *ranges(lambda code: "M" if code in marks else ""), *replaced]
    return HEADER + "".join(f"{line}\n" for line in lines)


def differences(cased: list[str], uncased: list[str]) -> list[str]:
    """Characters that the file, as it is read, takes otherwise."""
    split = BertPreTokenizer()
    found = []
    for lowercase, wanted in ((False, cased), (True, uncased)):
        map_ = character_map(lowercase)
        for code in CODES:
            words = [word for word, _ in split.pre_tokenize_str(f"a{wanted[code]}a")]
            own = expansion(map_, code)
            parts = [f" {each} " if own.alone else each for each in own.characters]
            if words != f"a{' ' if own.space else ''.join(parts)}a".split():
                found.append(f"U+{code:04X} with lowercase={lowercase}")
    return found


if __name__ == "__main__":
    asked = normalized(False), normalized(True)
    if "--check" in sys.argv[1:]:
        if FILE.read_text(encoding="ascii") != table(*asked):
            sys.exit(
                f"{FILE} is not what tokenizers {tokenizers.__version__} says: run this without --check."
            )
    else:
        FILE.write_text(table(*asked), encoding="ascii")
    if wrong := differences(*asked):
        sys.exit("Not as tokenizers has it: " + ", ".join(wrong[:20]))
