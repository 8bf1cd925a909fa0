"""The vocabulary in a `tokenizer.json` of Hugging Face's `tokenizers`, where no `vocab.txt` lies beside the weights.

Only what `kerastl.modality.text.wordpiece` computes is read: WordPiece behind BertNormalizer and BertPreTokenizer. All else, such as
Unigram, BPE or other normalizers, would give other pieces than those that the embeddings were trained with, and is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerastl.errors import UserError
from kerastl.modality.text.vocabulary import CONTINUES, MOST_IN_WORD, UNKNOWN, Vocabulary

TOKENIZER_FILE = "tokenizer.json"
_MEND = (
    "Expected the tokenizer.json of a BERT model: WordPiece, BertNormalizer and BertPreTokenizer. Name a vocab.txt with data.vocabulary "
    "instead where the pieces are those of one."
)
# Path of a key -> the values that it may have; None stands for a key that is not there.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "model.type": ("WordPiece",),
    "model.continuing_subword_prefix": (CONTINUES, None),
    "model.unk_token": (UNKNOWN, None),
    "model.max_input_chars_per_word": (MOST_IN_WORD, None),
    "normalizer.type": ("BertNormalizer",),
    "normalizer.clean_text": (True, None),
    "normalizer.handle_chinese_chars": (True, None),
    "pre_tokenizer.type": ("BertPreTokenizer",),
}


def read_tokenizer(path: Path) -> tuple[Vocabulary, bool]:
    """The vocabulary in a `tokenizer.json`, and whether letters are lowered and accents stripped.

    Args:
        path: of the file.

    Raises:
        UserError: it cannot be read, or cuts texts in another way; names file and key.

    Example:
        >>> vocabulary, lowercase = read_tokenizer(Path("potion/tokenizer.json"))
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as JSON: {said}. {_MEND}") from error
    wrong = [
        f"{key} = {value!r}, expected {allowed[0]!r}"
        for key, allowed in _FIXED.items()
        if (value := _at(values, key)) not in allowed
    ]
    lowercase, strips = _at(values, "normalizer.lowercase"), _at(values, "normalizer.strip_accents")
    if not wrong and not isinstance(lowercase, bool):
        wrong.append(f"normalizer.lowercase = {lowercase!r}, expected true or false")
    elif not wrong and strips not in (None, lowercase):
        wrong.append(f"normalizer.strip_accents = {strips!r}, expected what normalizer.lowercase is")
    if wrong:
        raise UserError(f"{path}: {'; '.join(wrong)}. {_MEND}")
    try:
        return Vocabulary(_pieces(values)), bool(lowercase)
    except (UserError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _pieces(values: Any) -> tuple[str, ...]:
    """The pieces in the order of their ids; ValueError where they have no such order, or could not stand in lines."""
    found = _at(values, "model.vocab")
    if not isinstance(found, dict) or not all(type(each) is int for each in found.values()):
        raise ValueError(f"model.vocab is no table of pieces and their ids. {_MEND}")
    added = values.get("added_tokens") or []
    ids = {**found, **{each["content"]: each["id"] for each in added}}
    by_id = {number: piece for piece, number in ids.items()}
    if sorted(by_id) != list(range(len(ids))):
        raise ValueError(
            f"model.vocab and added_tokens have {len(ids):,} pieces, whose ids are not 0 to {len(ids) - 1:,}. {_MEND}"
        )
    pieces = tuple(by_id[number] for number in range(len(ids)))
    if broken := next((each for each in pieces if each != each.rstrip() or "\n" in each), None):
        raise ValueError(
            f"the piece {broken!r} ends in white space or breaks a line, as none of a BERT model does. {_MEND}"
        )
    return pieces
