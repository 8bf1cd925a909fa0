"""Entities from a file of tagged words to a served model: a random encoder, both phases, windows, offsets, exports, and refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_text_fit import SPECIAL, tiny_folder

import kerastl
from kerastl.errors import DataError, UserError
from kerastl.search.spec import SearchSettings

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
    return tiny_folder(tmp_path_factory.mktemp("weights") / "tiny", vocabulary())


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


def test_progress_counts_words_in_the_head_phase_and_shows_what_decides(fitted: kerastl.Fitted) -> None:
    log = (fitted.run / "log.txt").read_text(encoding="utf-8")
    head, finetune = log.index(" head phase: "), log.index(" fine-tune phase: ")
    assert log[head:].splitlines()[0].endswith(" words") and log[finetune:].splitlines()[0].endswith(" texts")
    assert all("val_entity_f1 " in line for line in log[head:].splitlines() if " phase, epoch " in line)


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


def test_a_long_text_and_bytes_that_are_no_utf8_are_answered(fitted: kerastl.Fitted) -> None:
    long = "Anna Smith lives in Rome . " * 300
    odd = b"\xff Anna Smith \xe4\xb8 lives in Rome"
    answers = served(fitted, [long, odd, "", "\0 Anna Wu", "\U0001f600"])
    places = list(zip(answers["starts"][0].tolist(), answers["ends"][0].tolist(), strict=True))
    assert answers["count"][0] > 500
    kept = places[: answers["count"][0]]
    assert [long[start:end].encode() for start, end in kept] == answers["entities"][0][: len(kept)].tolist()
    text = odd.decode("utf-8", "replace")
    for place in range(answers["count"][1]):
        start, end = answers["starts"][1][place], answers["ends"][1][place]
        assert text[start:end].encode() == answers["entities"][1][place]
    assert answers["count"][2] == 0 and answers["count"][4] == 0


def test_a_mark_counts_in_a_text_and_is_none_of_a_file(fitted: kerastl.Fitted, tmp_path: Path) -> None:
    """U+FEFF is a character of what is handed over, as in the served graph; at the beginning of a file it marks UTF-8."""
    text = "\ufeffAnna Smith lives in Rome"
    assert fitted.exported is not None
    there = served(fitted, [text])
    file = tmp_path / "marked.txt"
    file.write_text(text, encoding="utf-8")
    for x, mark in ((text, 1), (text.encode(), 1), (file, 0)):
        found = fitted.predict(x).entities
        assert [each.start - mark for each in found] == (there["starts"][0] - 1).tolist()
        assert all(text[1:][each.start - mark : each.end - mark] == each.text for each in found)
    (argument,) = kerastl.predict(fitted.exported.path, [text])
    assert argument.entities is not None and argument.entities[0].start == 1


@pytest.mark.slow
def test_a_megabyte_is_answered(fitted: kerastl.Fitted) -> None:
    text = "Anna Smith lives in Rome . " * 40_000
    answers = served(fitted, [text])
    assert len(text) > 1 << 20 and answers["count"][0] > 70_000
    last = text.rindex("Rome")
    assert (answers["starts"][0][-1], answers["ends"][0][-1]) == (last, last + 4)


def test_words_pieces_and_what_the_head_reads_are_served(fitted: kerastl.Fitted) -> None:
    text = "Anna Smith, 北京 smithing"
    words = served(fitted, [text, ""], "serving_words")
    assert words["count"].tolist() == [6, 0]
    found = [text[a:b] for a, b in zip(words["starts"][0], words["ends"][0], strict=True)]
    assert found == ["Anna", "Smith", ",", "北", "京", "smithing"]
    np.testing.assert_allclose(words["probabilities"][0].sum(axis=1), 1, atol=1e-5)
    assert served(fitted, [text], "serving_embedding")["embedding"].shape[:2] == (1, 6)
    assert served(fitted, [])["count"].tolist() == []


def test_one_graph_answers_any_number_of_texts(fitted: kerastl.Fitted) -> None:
    again = kerastl.load(fitted.run)
    counts = [len(again.predict(["Ada Wu lives in Lima ."] * count)) for count in (1, 2, 3, 5)]
    graph: Any = again._graph
    assert counts == [1, 2, 3, 5] and graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("format", ["onnx", "litert", "litert-int8"])
def test_formats_without_words_are_refused(format: str, fitted: kerastl.Fitted, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"answers a text word by word.*Expected a model with one answer a text"
    ):
        kerastl.convert(fitted.run, format, exported_dir=tmp_path)
    with pytest.raises(
        UserError, match=r"answers a text word by word.*Expected a model with one answer a text"
    ):
        kerastl.benchmark(fitted.run, formats=[format])
    assert not list(tmp_path.iterdir())


def test_others_are_answered_as_if_alone(fitted: kerastl.Fitted) -> None:
    text = "Ada Wu lives in Lima ."
    alone, among = (served(fitted, some) for some in ([text], ["it " * 90, text, ""]))
    assert among["entities"][1][: alone["count"][0]].tolist() == alone["entities"][0].tolist()


def test_the_check_of_an_export_finds_other_tags_words_and_rows(fitted: kerastl.Fitted) -> None:
    """Negative control: the model in memory reads other tags, capitals or longer rows than what was written."""
    from kerastl.export.check_words import answers_of_words, compare_words, expected_words

    assert fitted.exported is not None
    raw = [each.encode() for each in ["Anna Smith lives in Rome", "ADA Wu likes Oslo , " * 4]]
    serving = fitted.serving
    expected = expected_words(fitted.model, raw, serving)
    answers = answers_of_words(Path(fitted.exported.path), expected, serving)

    def problems(expected: Any, serving: Any = serving) -> str:
        return "\n".join(compare_words(answers, expected, serving).problems)

    assert not problems(expected)
    cased, longer = (
        dataclasses.replace(serving, modality=dataclasses.replace(serving.modality, **change))  # type: ignore[type-var]
        for change in ({"lowercase": False}, {"max_pieces": 9})
    )
    assert "serving_words in batches" in problems(expected_words(fitted.model, raw, cased))
    assert "differs by up to" in problems(expected_words(fitted.model, raw, longer))
    assert "have wrong entities" in problems(dataclasses.replace(expected, starts=expected.starts + 1))
    other = dataclasses.replace(serving, class_names=serving.class_names[:1] + serving.class_names[:0:-1])
    assert "have wrong entities" in problems(expected, other)
    assert "'count' is wrong" in problems(dataclasses.replace(expected, counts=expected.counts + 1))


def test_the_run_and_what_it_wrote_down(
    fitted: kerastl.Fitted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (fitted.run / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tests = [row for row in rows if row["split"] == "test"]
    assert len(tests) == fitted.report.metrics.count and re.search(
        r"PER: \w+ \w+ \(0-\d+\)", tests[0]["true"]
    )
    assert sum(row["true"] == row["predicted"] for row in tests) > 0.7 * len(tests)
    page = (fitted.run / "report.md").read_text(encoding="utf-8")
    assert "## Entities (test)" in page and "| type | entities |" in page and " words) |" in page
    # Each fifth of the 80 texts is longer than a row: rows are not counted as texts.
    counts = json.loads((fitted.run / "data.json").read_text())["counts"]
    assert counts == dict(fitted.report.counts) and sum(counts.values()) == 80 and counts["test"] == 16
    with (fitted.run / "splits.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 80, "the control: rows are apart"
    assert "test 16" in (fitted.run / "plan.txt").read_text().splitlines()[0]
    card = next(fitted.exported.path.glob("assets.extra/*.md")).read_text(encoding="utf-8")  # type: ignore[union-attr]
    assert "Finds entities in texts" in card and "Strict F1 of entities" in card
    again = kerastl.load(fitted.run)
    assert again.evaluate().entities.f1 == fitted.report.metrics.entities.f1  # type: ignore[union-attr]
    other = tmp_path / "others.conll"
    other.write_text(in_columns(sentences(10, seed=7)), encoding="utf-8")
    assert again.evaluate(str(other)).entities.support > 20  # type: ignore[union-attr]
    odd = kerastl.from_entities([("Anna \u200b in Rome", [(0, 4, "PER"), (5, 6, "LOC"), (10, 14, "LOC")])])
    with caplog.at_level(logging.WARNING, logger="kerastl"):
        assert again.evaluate(odd).entities.support == 2  # type: ignore[union-attr]
    assert any("1 entity cannot be learnt or found" in each for each in caplog.messages)
    other.write_text("Anna B-ANIMAL\nlives O\n", encoding="utf-8")
    with pytest.raises(UserError, match="has a class 'B-ANIMAL' that the model does not know"):
        again.evaluate(str(other))


def test_a_server_is_asked_and_the_table_names_entities(fitted: kerastl.Fitted, here: Any) -> None:
    from served import stand_in

    assert fitted.exported is not None
    with stand_in({"people": Path(fitted.exported.path).parent}) as running:
        asked = [
            here("predict", "--url", running.url("people", scheme), "Anna Smith lives in Rome", "no")
            for scheme in ("rest", "grpc")[: 1 + (running.grpc is not None)]
        ]
    for each in asked:
        assert each.returncode == 0, each.stderr
        rows = each.stdout.splitlines()
        assert rows[0].split() == ["text", "entity", "type", "start", "end", "score"]
        assert "Anna Smith" in rows[1] and " PER " in rows[1] and rows[1].split()[-3:-1] == ["0", "10"]
    local = here("predict", str(fitted.exported.path), "Anna Smith lives in Rome", "--json")
    (found,) = json.loads(local.stdout)
    assert found["entities"][0] == {
        **found["entities"][0],
        "text": "Anna Smith",
        "type": "PER",
        "start": 0,
        "end": 10,
    }


def test_pairs_of_texts_and_spans_are_learnt_in_python(folder: Path, tmp_path: Path) -> None:
    pairs = []
    for some in sentences(40, seed=3):
        text = " ".join(word for word, _ in some)
        spans, at = [], 0
        for word, tag in some:
            if tag != "O":
                kind = tag[2:]
                spans = (
                    [*spans[:-1], (spans[-1][0], at + len(word), kind)]
                    if tag[0] == "I"
                    else [*spans, (at, at + len(word), kind)]
                )
            at += len(word) + 1
        pairs.append((text, spans))
    data = kerastl.from_entities(pairs)
    assert data.class_names == ("LOC", "PER") and len(data) == 40
    made = kerastl.fit(
        "bert_tiny", data, weights=str(folder), runs_dir=tmp_path, **{**SMALL, "finetune_phase.epochs": 0}
    )
    assert made.report.metrics.entities.f1 > 0.5  # type: ignore[union-attr]
    with pytest.raises(DataError, match="pair 1: no pair of a text and its spans"):
        kerastl.from_entities([pairs[0], "Anna"])
    with pytest.raises(DataError, match="cuts a word"):
        kerastl.from_entities([("Anna lives", [(0, 2, "PER")])])


REFUSED = {
    "pooling": ({"head.pooling": "max"}, "head.pooling = 'max': expected auto where data.task = 'entities'"),
    "threshold": ({"calibration.abstain_coverage": 0.5}, "no label stands for the whole text"),
    "truncation": ({"data.truncation": "head_tail"}, "a longer text is read in parts that overlap"),
    "monitor": ({"head_phase.monitor": "val_macro_f1"}, "expected one of val_entity_f1, val_calibrated_loss"),
    "images": ({"backbone.name": "resnet50"}, "takes images, which have no words"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused(case: str, tagged: Path, folder: Path) -> None:
    options, message = REFUSED[case]
    named = {"backbone.name": "bert_tiny", "backbone.weights": str(folder), "data.source": str(tagged)}
    if case == "images":
        named["backbone.weights"] = "none"
    with pytest.raises(UserError) as error:
        kerastl.load_recipe(flags={**named, **options})
    assert message in str(error.value)


def test_a_file_of_tagged_words_needs_no_word_about_its_task(tagged: Path) -> None:
    recipe = kerastl.load_recipe(flags={"data.source": str(tagged)})
    assert (recipe.data.task, recipe.modality, recipe.backbone.name) == ("entities", "text", "minilm_l6")
    assert kerastl.load_recipe(flags={"data.source": "x.csv"}).data.task == "classification"


def test_rates_ranks_plans_and_searches_take_entities(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.conll"
    path.write_text(in_columns(sentences(40, seed=5)), encoding="utf-8")
    flags = {"data.source": str(path), "backbone.name": "bert_tiny", "backbone.weights": str(folder), **SMALL}
    recipe = kerastl.load_recipe(flags=flags)
    assert {row.phase for row in kerastl.plan(recipe).rows} == {"head_phase", "finetune_phase"}
    for phase in ("head", "finetune"):
        found = kerastl.lr_range(recipe, phase=phase, steps=3, runs_dir=tmp_path / "runs")
        assert np.isfinite(found.result.losses).all()
    ranking = kerastl.rank(recipe, backbones=["bert_tiny"], runs_dir=tmp_path / "runs")
    assert ranking.metric == "words right" and ranking.rows[0].accuracy > 0.5
    assert (
        "bert_tiny: 8 texts longer than 12 pieces at most are read in"
        in (ranking.run / "log.txt").read_text()
    )
    space = tmp_path / "space.toml"
    space.write_text("[finetune_phase]\nlearning_rate = [1e-4, 1e-3]\n", encoding="utf-8")
    searched = kerastl.tune(
        recipe, space=space, settings=SearchSettings(tuner="grid"), directory=tmp_path / "search",
        runs_dir=tmp_path / "runs", export_model=False,
    )  # fmt: skip
    assert searched.monitor == "val_entity_f1"
