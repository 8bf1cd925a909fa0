"""WordPiece: pieces, their characters in the text as it was sent, rows of a network, and the same in an exported graph."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastl.modality.text.split import code_points
from kerastl.modality.text.vocabulary import Vocabulary
from kerastl.modality.text.wordpiece import WordPiece

LINES = """
[PAD] [UNK] [CLS] [SEP] a b c cafe café Café CAFE ##s un ##aff ##able una ##ffable hello world Hello . , ! [ ] sep # ' i ##i
straße strasse istanbul 東 京 ᄒ ##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ 한 국 हिनद हिन्दी x ##x é e ; ##ै o ##o k я ##я й
"""
PIECES = LINES.split()
VOCABULARY = Vocabulary(tuple(PIECES))
UNCASED, CASED = WordPiece(VOCABULARY, lowercase=True), WordPiece(VOCABULARY, lowercase=False)
MEGABYTE = 1 << 20
STRINGS = [tf.TensorSpec([None], tf.string)]


def bytes_of(*texts: str | bytes) -> tf.Tensor:
    return tf.constant([each if isinstance(each, bytes) else each.encode() for each in texts], tf.string)


# First and last character of each word, and the place of its first piece among those of its text.
Words = list[tuple[int, int, int]]


def whole(wordpiece: WordPiece, *texts: str | bytes, most: int = 800) -> tuple[list[list[int]], list[Words]]:
    """The pieces and the words of each text, from rows that are long enough for all of it."""
    found = type(windows := wordpiece.windows(bytes_of(*texts), most))(*(each.numpy() for each in windows))
    assert found.texts.tolist() == [*range(len(texts))], "a row a text"
    ids = [each[1 : length - 1].tolist() for each, length in zip(found.ids, found.lengths, strict=True)]
    words = list(zip(found.starts.tolist(), found.ends.tolist(), (found.columns - 1).tolist(), strict=True))
    return ids, [words[first:stop] for first, stop in zip(found.words, found.words[1:], strict=False)]


def assert_shown(wordpiece: WordPiece, text: str | bytes, expected: list[tuple[str, int, int]]) -> None:
    """The pieces, and where each word begins and ends: with its first piece and its last."""
    (ids,), (words,) = whole(wordpiece, text)
    assert [PIECES[number] for number in ids] == [piece for piece, _, _ in expected]
    assert bool(words) == bool(expected)
    behind = [first for _, _, first in words[1:]] + [len(ids)]
    assert [word[:2] for word in words] == [
        (expected[word[2]][1], expected[stop - 1][2]) for word, stop in zip(words, behind, strict=False)
    ]


def word_spans(wordpiece: WordPiece, text: str) -> list[str]:
    """The characters of each word, as they were sent."""
    return [text[start:end] for start, end, _ in whole(wordpiece, text)[1][0]]


def row(wordpiece: WordPiece, text: str, max_pieces: int, truncation: str = "head") -> list[str]:
    ids, lengths, _ = wordpiece.encode(bytes_of(text), max_pieces, truncation)
    assert ids.dtype == lengths.dtype == tf.int32
    assert (np.arange(max_pieces) >= lengths[0].numpy()).tolist() == (ids[0].numpy() == 0).tolist()
    return [PIECES[number] for number in ids[0].numpy() if number]


# text -> pieces of an uncased model, each with its first character and the place behind its last in the text as it was sent
UNCASED_PIECES = [
    ("", []),
    (" \t\n\u3000", []),
    ("Hello, World!", [("hello", 0, 5), (",", 5, 6), ("world", 7, 12), ("!", 12, 13)]),
    # the longest beginning wins, although a shorter one would leave a better rest
    ("unaffable", [("una", 0, 3), ("##ffable", 3, 9)]),
    ("CAFÉ", [("cafe", 0, 4)]),
    ("cafe\u0301s", [("cafe", 0, 4), ("##s", 5, 6)]),
    # what grows: capital dotted I is i and a mark; sharp s stays
    ("İstanbul", [("istanbul", 0, 8)]),
    ("Straße", [("straße", 0, 6)]),
    ("\u1e9e", [("[UNK]", 0, 1)]),
    # what is dropped: controls, joiners, marks by themselves
    ("he\0llo", [("hello", 0, 6)]),
    ("\ufeffhello\u200d", [("hello", 1, 6)]),
    ("\u0301\u0301", []),
    ("a\ufffdb", [("[UNK]", 0, 3)]),
    # Chinese characters stand apart, Hangul falls into parts of one character
    ("a東京b", [("a", 0, 1), ("東", 1, 2), ("京", 2, 3), ("b", 3, 4)]),
    ("한구", [("ᄒ", 0, 1), ("##ᅡ", 0, 1), ("##ᆫ", 0, 1), ("##ᄀ", 1, 2), ("##ᅮ", 1, 2)]),
    # the Greek question mark is a semicolon, the Kelvin sign a k
    ("a\u037eb", [("a", 0, 1), (";", 1, 2), ("b", 2, 3)]),
    ("\u212a", [("k", 0, 1)]),
    ("й", [("[UNK]", 0, 1)]),
    # unknown: as a whole word, also where its beginning is a piece
    ("a unaffq b", [("a", 0, 1), ("[UNK]", 2, 8), ("b", 9, 10)]),
    ("👩‍👩‍👧 a", [("[UNK]", 0, 5), ("a", 6, 7)]),
    ("x" * 100, [("x", 0, 1), *(("##x", at, at + 1) for at in range(1, 100))]),
    ("x" * 101, [("[UNK]", 0, 101)]),
    # the length counts after normalisation
    ("x" * 99 + "\u0301" * 9 + "x s", [("x", 0, 1), *(("##x", at, at + 1) for at in range(1, 99)), ("##x", 108, 109), ("[UNK]", 110, 111)]),
    # names of special pieces are text
    ("[SEP]", [("[", 0, 1), ("sep", 1, 4), ("]", 4, 5)]),
    ("##s", [("#", 0, 1), ("#", 1, 2), ("[UNK]", 2, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), UNCASED_PIECES, ids=[each[:12] for each, _ in UNCASED_PIECES])
def test_pieces_of_an_uncased_model(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert_shown(UNCASED, text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", [("Hello", 0, 5), (",", 5, 6), ("[UNK]", 7, 12), ("!", 12, 13)]),
        ("Café", [("Café", 0, 4)]),
        # another string for the same letters: nothing is composed
        ("Cafe\u0301", [("[UNK]", 0, 5)]),
        ("한국", [("[UNK]", 0, 2)]),
        ("한 국", [("한", 0, 1), ("국", 2, 3)]),
        ("हिन्दी", [("हिन्दी", 0, 6)]),
        ("a\u037eb", [("a", 0, 1), ("[UNK]", 1, 2), ("b", 2, 3)]),
        ("й", [("й", 0, 1)]),
    ],
)
def test_pieces_of_a_cased_model(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert_shown(CASED, text, expected)


def test_texts_of_a_batch_do_not_touch_each_other() -> None:
    texts = [text for text, _ in UNCASED_PIECES]
    ids, words = whole(UNCASED, *texts)
    for position, text in enumerate(texts):
        assert ([ids[position]], [words[position]]) == whole(UNCASED, text)
    assert whole(UNCASED) == ([], [])
    assert UNCASED.encode(bytes_of(), 8).ids.shape == (0, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world", ["Hello", ",", "world"]),
        # the accent that is sent by itself belongs to its letter, as in the text with one character
        ("cafe\u0301, café", ["cafe\u0301", ",", "café"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("हिन्दी ", ["हिन्दी"]),
        ("東京 İstanbul", ["東", "京", "İstanbul"]),
        (" he\0llo\0 ", ["he\0llo"]),
        ("\u0301a", ["a"]),
        ("", []),
    ],
)
def test_words_are_what_was_sent(text: str, expected: list[str]) -> None:
    assert word_spans(UNCASED, text) == expected
    assert word_spans(CASED, text)[:1] != [] or not expected


def test_an_accent_of_the_next_text_belongs_to_that() -> None:
    assert whole(UNCASED, "cafe", "\u0301a")[1] == [[(0, 4, 0)], [(1, 2, 0)]]


def test_words_know_their_first_pieces() -> None:
    text = "unaffable cafés, " + "x" * 101
    ids, words = whole(UNCASED, "a", text, "")
    firsts = [[first for _, _, first in each] for each in words]
    assert firsts == [[0], [0, 2, 4, 5], []]
    assert [PIECES[ids[1][first]] for first in firsts[1]] == ["una", "cafe", ",", "[UNK]"]


BAD = [
    b"\xffa",
    b"a\xe2\x82b",
    b"\xed\xa0\x80a",
    b"\xf4\x90\x80\x80a",
    b"\xc0\x80a",
    b"a\xf0\x9f\x98",
    b"\x80" * 9,
]


@pytest.mark.parametrize("raw", BAD)
def test_bad_bytes_are_dropped_and_counted_as_python_counts_them(raw: bytes) -> None:
    replaced = raw.decode("utf-8", "replace")
    codes, _ = code_points(bytes_of(raw))
    assert codes.numpy().tolist() == [ord(each) for each in replaced]
    assert whole(UNCASED, raw) == whole(UNCASED, replaced)


def test_random_bytes_are_counted_as_python_counts_them() -> None:
    generator = random.Random(0)
    starts = [each.encode()[:length] for each in "aé€😀" for length in (1, 2, 3, 4)]
    raw = [
        b"".join(generator.choice([*starts, generator.randbytes(1)]) for _ in range(9)) for _ in range(2000)
    ]
    codes, splits = code_points(bytes_of(*raw))
    counted = "".join(map(chr, codes.numpy()))
    assert counted == "".join(each.decode("utf-8", "replace") for each in raw)
    assert np.diff(splits.numpy()).tolist() == [len(each.decode("utf-8", "replace")) for each in raw]


@pytest.mark.parametrize(
    ("text", "max_pieces", "truncation", "expected"),
    [
        ("", 5, "head", "[CLS] [SEP]"),
        ("a b", 5, "head", "[CLS] a b [SEP]"),
        ("a b c", 5, "head", "[CLS] a b c [SEP]"),
        ("a b c , .", 5, "head", "[CLS] a b c [SEP]"),
        # within a word
        ("a unaffable", 4, "head", "[CLS] a una [SEP]"),
        ("a", 3, "head", "[CLS] a [SEP]"),
        ("a b c . , !", 8, "head_tail", "[CLS] a b c . , ! [SEP]"),
        # of eight a quarter, two, from the beginning and four from the end
        ("a b c . , ! [ ]", 8, "head_tail", "[CLS] a b , ! [ ] [SEP]"),
        ("unaffable b c . cafes unaffable", 8, "head_tail", "[CLS] una ##ffable cafe ##s una ##ffable [SEP]"),
        # fewer words than fit, more pieces
        ("unaffable unaffable cafes cafes", 8, "head_tail", "[CLS] una ##ffable cafe ##s cafe ##s [SEP]"),
        ("a b", 3, "head_tail", "[CLS] b [SEP]"),
    ],
)
def test_rows_of_a_network(text: str, max_pieces: int, truncation: str, expected: str) -> None:
    assert row(UNCASED, text, max_pieces, truncation) == expected.split()


def test_a_quarter_from_the_beginning_is_what_was_measured() -> None:
    text = " ".join(PIECES[4 + number % 3] for number in range(700))
    ((every,), _) = whole(UNCASED, text)
    rows = UNCASED.encode(bytes_of(text), 512, "head_tail").ids[0].numpy()
    assert rows[1:-1].tolist() == [*every[:128], *every[-382:]]


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
def test_words_that_no_row_can_hold_are_cut_first_and_change_nothing(truncation: str) -> None:
    generator = random.Random(1)
    words = ["unaffable", "cafes", "a", ",", "x" * 9, "q", "x" * 101, "\u0301"]
    texts = [" ".join(generator.choices(words, k=generator.randrange(30))) for _ in range(300)]
    every, _ = whole(UNCASED, *texts)
    for max_pieces in (3, 8, 13):
        ids, lengths, _ = UNCASED.encode(bytes_of(*texts), max_pieces, truncation)
        head = max_pieces // 4 if truncation == "head_tail" else max_pieces - 2
        for own, length, all_ids in zip(ids.numpy(), lengths.numpy(), every, strict=True):
            tail = max_pieces - 2 - head
            if len(all_ids) > max_pieces - 2:
                all_ids = all_ids[:head] + all_ids[len(all_ids) - tail :]
            assert own[:length].tolist() == [2, *all_ids, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2,), "max_pieces is 2; expected at least 3"),
        ((8, "tail"), "Unknown truncation 'tail'; expected head or head_tail"),
    ],
)
def test_rows_that_cannot_be_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNCASED.encode(bytes_of("a"), *arguments)


@pytest.mark.parametrize(
    "raw",
    [b"x" * MEGABYTE, b" " * MEGABYTE, b"\0" * MEGABYTE, b"\xff" * MEGABYTE, b"unaffable " * (MEGABYTE // 10)],
    ids=["one word", "spaces", "zero bytes", "bad bytes", "words"],
)  # fmt: skip
def test_a_megabyte_takes_seconds_and_little_memory(raw: bytes) -> None:
    # With rows as wide as the longest text, the short ones would take gigabytes.
    texts = bytes_of(raw, *["a cafés"] * 2000)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    ids, _, _ = UNCASED.encode(texts, 32)
    found = UNCASED.windows(texts, 32)
    assert time.process_time() - began < 20
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    )  # KiB; nothing on macOS, in bytes
    assert ids[-1].numpy()[:5].tolist() == found.ids[-1].numpy()[:5].tolist() == [2, *known("a cafe ##s"), 3]
    assert found.ends[-2:].numpy().tolist() == [1, 7]
    assert found.words[1] == {b"x": 1, b"u": MEGABYTE // 10}.get(raw[:1], 0)


def known(pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces.split()]


def test_distinct_words_without_end_take_bounded_steps() -> None:
    generator = random.Random(2)
    text = " ".join("".join(generator.choices("xios", k=100)) for _ in range(500))
    began = time.process_time()
    ((pieces,), _) = whole(UNCASED, text, most=60_000)
    assert time.process_time() - began < 20
    may_be = [all(each in "xios" and each != "s" for each in word[:1]) for word in text.split()]
    assert pieces.count(1) == may_be.count(False)


def rows(text: tf.Tensor) -> dict[str, tf.Tensor]:
    """What a model of entities would answer with."""
    rows = UNCASED.encode(text, 12)
    return {
        **rows._asdict(),
        **{f"{name}_of_words": each for name, each in UNCASED.windows(text, 12)._asdict().items()},
    }


TEXTS = [text.encode() for text, _ in UNCASED_PIECES] + BAD
ASK = """
import sys
sys.modules["kerastl"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
given = np.load(sys.argv[2], allow_pickle=True)
serve = tf.saved_model.load(sys.argv[1]).signatures["serve"]
np.savez(sys.argv[3], **{name: each.numpy() for name, each in serve(tf.constant(list(given["texts"]))).items()})
"""


def foreign_operations(function: tf.types.experimental.ConcreteFunction) -> set[str]:
    """Operations of a graph that call Python, need a resource, or are not TensorFlow's own."""
    graph = function.graph.as_graph_def()
    used = {node.op for node in graph.node}
    used |= {node.op for each in graph.library.function for node in each.node_def}
    calls = {each.signature.name for each in graph.library.function}
    own = {"".join(part.title() for part in name.split("_")).lower() for name in dir(tf.raw_ops)}
    return {
        name
        for name in used - calls
        if name.lower() not in own or "PyFunc" in name or "HashTable" in name or "Lookup" in name
    }


def test_an_exported_graph_with_nothing_to_track_answers_the_same_in_another_process(tmp_path: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", rows, [tf.TensorSpec([None], tf.string, name="text")])
    archive.write_out(str(tmp_path / "model"), verbose=False)
    np.savez(tmp_path / "texts.npz", texts=np.array(TEXTS, object))
    command = [
        sys.executable,
        "-c",
        ASK,
        *(str(tmp_path / name) for name in ("model", "texts.npz", "out.npz")),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    answers = np.load(tmp_path / "out.npz")
    expected = rows(tf.constant(TEXTS))
    assert sorted(answers) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(answers[name], value.numpy())


def test_the_graph_holds_only_operations_of_every_server() -> None:
    concrete = tf.function(rows, input_signature=STRINGS, autograph=False).get_concrete_function()
    assert foreign_operations(concrete) == set()


def test_foreign_operations_are_found() -> None:
    def python(texts: tf.Tensor) -> tf.Tensor:
        return tf.py_function(lambda each: each, [texts], tf.string)

    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
    for function, name in ((python, "EagerPyFunc"), (lambda texts: table.lookup(texts), "LookupTableFindV2")):
        concrete = tf.function(function, input_signature=STRINGS, autograph=False).get_concrete_function()
        assert name in foreign_operations(concrete)


def test_it_works_in_a_pipeline() -> None:
    rows = tf.data.Dataset.from_tensor_slices(TEXTS).batch(7).map(lambda texts: UNCASED.encode(texts, 9).ids)
    np.testing.assert_array_equal(np.concatenate(list(rows)), UNCASED.encode(tf.constant(TEXTS), 9).ids)


def test_another_vocabulary_gives_other_ids() -> None:
    turned = Vocabulary((*PIECES[:4], *reversed(PIECES[4:])))
    ((ids,), _) = whole(WordPiece(turned, lowercase=True), "unaffable cafés")
    assert [turned.pieces[number] for number in ids] == ["una", "##ffable", "cafe", "##s"]
    assert [ids] != whole(UNCASED, "unaffable cafés")[0]
