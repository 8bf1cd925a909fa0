"""Entities from a file of tagged words to a served model: a random encoder, both phases, windows, offsets, exports, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_reference import random_tensors, write_folder
from test_text_fit import SPECIAL, TINY

import kerastl

PEOPLE, PLACES = ["anna", "smith", "wu", "ada"], ["rome", "berlin", "oslo", "lima"]
OTHERS = [
    "the",
    "lives",
    "in",
    "and",
    "likes",
    "it",
    ".",
    ",",
    "café",
    "cafe",
    "no",
    "##s",
    "##ing",
    "北",
    "京",
]
SMALL = {
    "data.max_pieces": 12, "finetune_phase.epochs": 1, "finetune_phase.unfreeze_from": "layer_1", "seed": 1,
    "calibration.kind": "temperature",
}  # fmt: skip


def vocabulary(count: int = 30522) -> list[str]:
    pieces = [*SPECIAL, *PEOPLE, *PLACES, *OTHERS]
    return [*pieces, *(f"[unused{at}]" for at in range(count - len(pieces)))]


def sentences(count: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    """Sentences of words with their tags; each fifth is longer than a row of twelve pieces."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words: list[tuple[str, str]] = []
        for _ in range(5 if number % 5 == 0 else 1):
            first, last = draw.choice(PEOPLE, 2)
            words += [(first.capitalize(), "B-PER"), (last, "I-PER"), ("lives", "O"), ("in", "O")]
            words += [(str(draw.choice(PLACES)).capitalize(), "B-LOC"), (str(draw.choice([".", ","])), "O")]
        found.append([*words, (str(number), "O")])
    return found


def in_columns(some: list[list[tuple[str, str]]]) -> str:
    return "\n".join("".join(f"{word} {tag}\n" for word, tag in each) for each in some)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_folder(tmp_path_factory.mktemp("weights") / "tiny", TINY, random_tensors(TINY))
    (path / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return path


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "people.conll"
    path.write_text(in_columns(sentences(80)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(folder: Path, tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> kerastl.Fitted:
    here = tmp_path_factory.mktemp("fit")
    return kerastl.fit(
        "bert_tiny", str(tagged), weights=str(folder), runs_dir=here / "runs", models_dir=here / "models",
        export_model=True, **SMALL,
    )  # fmt: skip


def served(
    fitted: kerastl.Fitted, texts: list[Any], signature: str = "serving_default"
) -> dict[str, np.ndarray]:
    import tensorflow as tf

    assert fitted.exported is not None
    model = tf.saved_model.load(str(fitted.exported.path))
    found = model.signatures[signature](text=tf.constant(texts, tf.string))
    return {name: value.numpy() for name, value in found.items()}


def test_names_are_learnt_and_the_report_says_so(fitted: kerastl.Fitted) -> None:
    metrics = fitted.report.metrics
    assert metrics.entities is not None and metrics.entities.f1 is not None
    assert metrics.entities.f1 > 0.9 and metrics.count == 16
    assert [row.name for row in metrics.classes] == ["LOC", "PER"]
    text = str(fitted)
    assert "entity F1" in text and "words right" in text


def test_entities_have_their_places_in_the_text_as_it_was_sent(fitted: kerastl.Fitted) -> None:
    text = "😀 cafe\u0301 Anna Smith lives in  ROME, and 北京"
    (found,) = [fitted.predict(text)]
    assert found.entities is not None
    by_type = [(each.type, each.text) for each in found.entities]
    assert ("PER", "Anna Smith") in by_type and ("LOC", "ROME") in by_type
    for each in found.entities:
        assert text[each.start : each.end] == each.text and 0 < each.score <= 1
    there = served(fitted, [text, ""])
    assert there["count"].tolist() == [len(found.entities), 0]
    assert [each.decode() for each in there["entities"][0]] == [each.text for each in found.entities]
    assert there["starts"][0].tolist() == [each.start for each in found.entities]
