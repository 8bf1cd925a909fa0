"""Texts that are the same to a network are found across splits, counted and listed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from test_text_fit import SMALL, reviews, tiny_folder, vocabulary

import kerastl
from kerastl.modality.read import decode_each
from kerastl.modality.text import Text
from kerastl.modality.text.equal_pieces import equal_rows
from kerastl.modality.text.vocabulary import Vocabulary

PIECES = Vocabulary(tuple(vocabulary()))


def sketches(texts: list[str], lowercase: bool = True, max_pieces: int = 16) -> np.ndarray:
    text = Text(PIECES, lowercase, max_pieces)
    return text.sketches(decode_each(text, [each.encode() for each in texts]))


def test_capitals_accents_and_white_space_are_nothing_to_an_uncased_network() -> None:
    train = ["good film", "the bad film", "great"]
    test = ["GOOD  Film\n", "good", "Gre\u0301at", "bad film", "film good"]
    text = Text(PIECES)
    assert text.near(sketches(test), sketches(train)) == ([(0, 0, 1.0), (2, 2, 1.0)], 5)
    cased = sketches(test, lowercase=False), sketches(train, lowercase=False)
    assert text.near(*cased)[0] == [], "the control"


def test_padding_is_no_part_of_a_text_and_what_is_cut_off_neither() -> None:
    assert (sketches(["good film"], max_pieces=5) == sketches(["good film"], max_pieces=9)).all()
    long, other = sketches(["good film the bad", "good film the great"], max_pieces=5)
    assert (long == other).all()
    long, other = sketches(["good film the bad", "good film the great"], max_pieces=6)
    assert (long != other).any(), "the control"


def test_each_is_joined_with_the_first_of_its_like() -> None:
    random = np.random.default_rng(0)
    spread = np.array([1, 1, 1, 1, 1, 3, 3, 3], np.uint8)
    some, others = (random.integers(0, 3, (count, 8), np.uint8) % spread for count in (30, 40))
    rows = others.tolist()
    expected = [(at, rows.index(row), 1.0) for at, row in enumerate(some.tolist()) if row in rows]
    assert 0 < len(expected) < 30
    assert equal_rows(some, others) == expected


def test_a_fit_says_so_and_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = reviews(60)
    held_out, answers = reviews(120)
    test = [each.upper() + "\n" for each in texts[:5]] + held_out[60:80]
    data = kerastl.from_texts(
        texts, labels, validation=(held_out[80:], answers[80:]), test=(test, labels[:5] + answers[60:80])
    )
    weights = str(tiny_folder(tmp_path / "tiny", vocabulary()))
    fitted = kerastl.fit("bert_tiny", data, weights=weights, **{**SMALL, "finetune_phase.epochs": 0})
    words = "test texts are to the network the same as texts of train or validation, such as"
    (said,) = [each for each in fitted.report.warnings if words in each]
    run = fitted.run
    assert words in (run / "report.md").read_text() and words in (run / "log.txt").read_text()
    rows = [row for row in csv.DictReader((run / "near_copies.csv").open()) if row["split"] == "test"]
    assert said.startswith(f"{len(rows)} ") and len({row["id"] for row in rows}) == len(rows) >= 5
