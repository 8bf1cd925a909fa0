"""A vocabulary is read whole or refused with the line to mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerastl.errors import UserError
from kerastl.modality.text.vocabulary import Vocabulary, read_vocabulary

GOOD = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nü\n##b\n"


def written(folder: Path, content: bytes) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [GOOD, GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n")])
def test_ids_are_the_places_of_lines(tmp_path: Path, content: str) -> None:
    vocabulary = read_vocabulary(written(tmp_path, content.encode()))
    assert vocabulary.pieces == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "ü", "##b")
    assert vocabulary.ids["ü"] == 4 and len(vocabulary) == 6


def test_equal_pieces_are_equal_vocabularies(tmp_path: Path) -> None:
    first = read_vocabulary(written(tmp_path, GOOD.encode()))
    again = Vocabulary(first.pieces)
    assert first == again and hash(first) == hash(again)
    other = Vocabulary((*first.pieces[:-1], "##c"))
    assert other != first and other.digest != first.digest


def test_a_line_end_of_unicode_is_no_line_end(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(written(tmp_path, (GOOD + "a\u2028b\n").encode()))
    assert vocabulary.ids["a\u2028b"] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "vocab.txt: it is empty."),
        (b"\n\n", "vocab.txt: it is empty."),
        (GOOD.encode() + b"a\n##b\nb\n[PAD]\n", "vocab.txt, line 8: '##b' already stands on line 6, and 1 more stand"),
        (GOOD.encode() + b"\na\n", "vocab.txt, line 7: it is empty, and all after it"),
        (b"[PAD]\n[UNK]\n[CLS]\na\n", "vocab.txt: it lacks [SEP]."),
        (b"a\nb\n", "vocab.txt: it lacks [UNK], [CLS], [SEP], [PAD]."),
        (GOOD.encode("latin-1"), "vocab.txt, line 5: byte 0xfc is no UTF-8."),
        (GOOD.encode("utf-8-sig"), "vocab.txt, line 1: it begins with a byte order mark"),
        (GOOD.encode("utf-16"), "vocab.txt, line 1: it begins with a byte order mark"),
        (b'{"model": 1}', "vocab.txt: it lacks [UNK]"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_vocabulary(written(tmp_path, content))
    assert message in str(caught.value)
    assert "Expected the vocab.txt of a BERT model" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt cannot be read: No such file"):
        read_vocabulary(tmp_path / "none.txt")


def test_a_vocabulary_made_in_python_is_checked_too() -> None:
    with pytest.raises(UserError, match=r"it lacks \[PAD\]"):
        Vocabulary(("[UNK]", "[CLS]", "[SEP]"))
