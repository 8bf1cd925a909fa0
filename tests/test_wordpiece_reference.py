"""WordPiece against Hugging Face's tokenizers on random strings of all of Unicode: ids, offsets, words, truncation."""

from __future__ import annotations

import random
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from test_wordpiece import Words, whole

from kerastl.modality.text.vocabulary import SPECIAL, Vocabulary, read_vocabulary
from kerastl.modality.text.wordpiece import WordPiece

pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

# Where texts are written, and where normalisation has something to do; the first six times as often as each other.
BLOCKS = [(0x20, 0x7F)] * 6 + [
    (0x00, 0x20), (0x80, 0x250), (0x250, 0x370), (0x300, 0x370), (0x370, 0x600), (0x590, 0x700), (0x900, 0xE00),
    (0xE00, 0x1200), (0x1E00, 0x2070), (0x2070, 0x2C00), (0x2E80, 0x3400), (0x4E00, 0xA000), (0xAC00, 0xD7A4),
    (0xF900, 0xFB00), (0xFB00, 0x10000), (0x1D100, 0x1D200), (0x1F300, 0x1FB00), (0x20000, 0x30000), (0xE0000, 0xE0200),
]  # fmt: skip
OFTEN = "\u0301\u0327\u200d\ufe0f\u00a0\u3000İßſK\x00\x0b\ufffdéÉ각"


def character(generator: random.Random) -> str:
    chosen = generator.choice(BLOCKS) if generator.random() < 0.85 else (0, 0x110000)
    code = generator.randrange(*chosen)
    return " " if 0xD800 <= code < 0xE000 else chr(code)


def strings(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    one = partial(character, generator)

    def part() -> str:
        kind = generator.random()
        if kind < 0.25:
            return "".join(generator.choices("etaoinshr", k=generator.randrange(1, 9)))
        return one() if kind < 0.75 else " " if kind < 0.9 else generator.choice(OFTEN)

    return ["".join(part() for _ in range(generator.randrange(40))) for _ in range(count)]


def normaliser(lowercase: bool) -> Any:
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )


def vocabulary_of(texts: Sequence[str], lowercase: bool) -> Vocabulary:
    """Most characters of the texts, whole words and parts of words, at random: many ways to be known in part."""
    generator = random.Random(0)
    split, normalise = pre_tokenizers.BertPreTokenizer(), normaliser(lowercase)
    pieces = dict.fromkeys(SPECIAL)
    for text in texts:
        for word, _ in split.pre_tokenize_str(normalise.normalize_str(text)):
            for first in range(len(word)):
                behind = first + generator.choice([1, 1, 1, 2, 3, len(word)])
                if generator.random() < 0.8:
                    pieces["##" * (first > 0) + word[first:behind]] = None
    return Vocabulary(tuple(pieces))


def reference(vocabulary: Vocabulary, lowercase: bool) -> Any:
    found = Tokenizer(models.WordPiece(vocabulary.ids, unk_token="[UNK]", max_input_chars_per_word=100))
    found.normalizer, found.pre_tokenizer = normaliser(lowercase), pre_tokenizers.BertPreTokenizer()
    return found


def is_reordered(text: str) -> bool:
    """Some marks are not stripped, and NFD moves others past them: their offsets are those of their neighbours, see
    `kerastl.modality.text.characters`.
    """
    kept = normaliser(True)
    return any(
        unicodedata.combining(each) and kept.normalize_str(each)
        for each in unicodedata.normalize("NFD", text)
    )


def assert_same(texts: Sequence[str], vocabulary: Vocabulary, lowercase: bool) -> None:
    """Ids, offsets and words of all texts, and rows of a network."""
    theirs = reference(vocabulary, lowercase)
    own = WordPiece(vocabulary, lowercase)
    raw = tf.constant([text.encode() for text in texts])
    expected = theirs.encode_batch(texts)
    ids, words = whole(own, *texts)
    assert ids == [each.ids for each in expected]
    compared = 0
    for text, encoding, spans in zip(texts, expected, words, strict=True):
        if lowercase and is_reordered(text):
            continue
        compared += 1
        assert spans == _words(encoding, text, lowercase), ascii(text)
    assert compared > 0.8 * len(texts)

    special = processors.BertProcessing(*((name, vocabulary.ids[name]) for name in ("[SEP]", "[CLS]")))
    theirs.post_processor = special
    theirs.enable_truncation(12)
    theirs.enable_padding(pad_id=vocabulary.ids["[PAD]"], length=12)
    ids, lengths, _ = own.encode(raw, 12)
    rows = theirs.encode_batch(texts)
    assert ids.numpy().tolist() == [each.ids for each in rows]
    assert lengths.numpy().tolist() == [sum(each.attention_mask) for each in rows]


def _words(encoding: Any, text: str, lowercase: bool) -> Words:
    """First character of each word, place behind its last and the marks that are dropped there, and first piece."""
    words: dict[int, tuple[int, int, int]] = {}
    for place, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        first, begin, _ = words.get(word, (place, start, end))
        words[word] = (first, begin, end)

    def is_dropped_mark(each: str) -> bool:
        return (
            lowercase
            and not normaliser(True).normalize_str(each)
            and normaliser(False).normalize_str(each) != ""
        )

    def behind(end: int) -> int:
        while end < len(text) and is_dropped_mark(text[end]):
            end += 1
        return end

    return [(begin, behind(end), first) for first, begin, end in words.values()]


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_random_strings(lowercase: bool) -> None:
    texts = strings(2000, seed=1)
    assert_same(texts, vocabulary_of(texts[:1000], lowercase), lowercase)


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_many_random_strings(lowercase: bool) -> None:
    texts = strings(20_000, seed=2)
    assert_same(texts, vocabulary_of(texts[:10_000], lowercase), lowercase)


@pytest.mark.weights
@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_random_strings_with_a_published_vocabulary(weights_folder: Path, lowercase: bool) -> None:
    path = weights_folder / "minilm_l6" / "vocab.txt"
    if not path.is_file():
        pytest.skip("the vocabulary of MiniLM is not at ../shared/weights")
    assert_same(strings(20_000, seed=3), read_vocabulary(path), lowercase)


def test_a_difference_would_be_seen() -> None:
    texts = ["Été a"]
    vocabulary = vocabulary_of(texts, lowercase=True)
    theirs = reference(vocabulary, lowercase=False).encode(texts[0])
    assert whole(WordPiece(vocabulary, lowercase=True), *texts)[0] != [theirs.ids]


def test_names_of_special_pieces_are_text_here() -> None:
    # there they are special as soon as they are said to be
    vocabulary = Vocabulary((*SPECIAL, "[", "]", "sep", "a"))
    theirs = reference(vocabulary, lowercase=True)
    ((own,), _) = whole(WordPiece(vocabulary, lowercase=True), "a [SEP] a")
    assert own == theirs.encode("a [SEP] a").ids == [7, 4, 6, 5, 7]
    theirs.add_special_tokens(["[SEP]"])
    assert theirs.encode("a [SEP] a").ids == [7, vocabulary.ids["[SEP]"], 7]


@pytest.mark.slow
def test_the_table_is_what_is_said_of_every_character() -> None:
    import tokenizers

    tool = Path(__file__).parents[1] / "tools" / "character_table.py"
    table = tool.parents[1] / "kerastl" / "modality" / "text" / "characters.txt"
    if f"tokenizers {tokenizers.__version__}:" not in table.read_text(encoding="ascii"):
        pytest.skip("the table was made from another version")
    subprocess.run([sys.executable, str(tool), "--check"], check=True, timeout=600)
