"""Texts that are longer than a row of the network are counted exactly, and a fit says how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_text_fit import SMALL, reviews, tiny_folder, vocabulary

import kerastl
from kerastl.features import inputs
from kerastl.modality.read import decode_each
from kerastl.modality.text import Text
from kerastl.modality.text.vocabulary import Vocabulary

WORDS = Text(Vocabulary(tuple(vocabulary())), max_pieces=500)
# Of pieces and words of all kinds: four pieces in one word, three words without a space.
PARTS = ("good", "bad", "a,b", "the", "[UNK]", "\u4e2d\u6587")


def lengths(texts: list[str]) -> np.ndarray:
    return decode_each(WORDS, [each.encode() for each in texts])["length"]


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
@pytest.mark.parametrize("max_pieces", [3, 8, 16])
def test_a_text_is_cut_if_it_has_a_piece_too_many(max_pieces: int, truncation: str) -> None:
    random = np.random.default_rng(max_pieces)
    texts = ["", *(" ".join(random.choice(PARTS, random.integers(0, 20))) for _ in range(300))]
    _, cut = Text(WORDS.vocabulary, True, max_pieces, truncation).decode_noting(texts)
    whole = lengths(texts)
    assert {max_pieces, max_pieces + 1} <= {*whole.tolist()}, "some fill a row, some have one piece too many"
    assert (cut.numpy() == (whole > max_pieces)).all()


def test_one_long_word_is_cut() -> None:
    text = Text(Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##a")), max_pieces=6)
    assert text.decode_noting(["aaaa", "aaaaa", "a a a a", "a a a aa"])[1].numpy().tolist() == [0, 1, 0, 1]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of examples that were decoded, a call each."""
    counts: list[int] = []
    once = inputs.decode_in_chunks

    def counting(modality, raw, lengths, *others):  # type: ignore[no-untyped-def]
        counts.append(sum(lengths))
        return once(modality, raw, lengths, *others)

    monkeypatch.setattr(inputs, "decode_in_chunks", counting)
    yield counts


def test_a_fit_counts_them_once_and_again_from_the_store(
    decoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = reviews(60)
    held_out, answers = reviews(120, seed=1)
    texts += ["good " * 14, "bad " * 15]
    own = (held_out[60:90], answers[60:90]), ([*held_out[90:119], "good " * 40], [*answers[90:119], "pos"])
    data = kerastl.from_texts(texts, [*labels, "pos", "neg"], validation=own[0], test=own[1])
    count = int((lengths(texts) > 16).sum())
    assert 1 < count < len(texts)
    words = f"{count} of 62 training texts are longer than 16 pieces: the rest of them is not seen (data.max_pieces, data.truncation)."
    weights = str(tiny_folder(tmp_path / "tiny", vocabulary()))
    monkeypatch.setattr("kerastl.features.near._MOST_DECODED", 0)  # nothing is read for its looks alone
    store = {"cache.mode": "disk", "cache.directory": str(tmp_path / "store")}
    settings = {**SMALL, "finetune_phase.epochs": 0, **store}
    for passes in (62 + 30 + 30, 0):
        decoded.clear()
        fitted = kerastl.fit("bert_tiny", data, weights=weights, **settings)
        assert fitted.report.warnings.count(words) == 1
        assert (fitted.run / "report.md").read_text().count(words) == 1
        assert (fitted.run / "log.txt").read_text().count(words) == 1
        # The few that are shown as the worst are decoded once more.
        assert sum(count for count in decoded if count > 16) == passes, "all were cut into pieces once"
    longer = kerastl.fit("bert_tiny", data, weights=weights, **{**settings, "data.max_pieces": 64})
    assert not [each for each in longer.report.warnings if "longer than" in each], "the control"
