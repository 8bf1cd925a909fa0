"""Words with tags: labels a step, rows of long texts, entities in the graph, and the figures of whole spans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_entity_fit import in_columns, sentences
from test_entity_fit import vocabulary as pieces_of
from test_wordpiece import whole

from kerastl.data.annotated import Annotated, Entities, Span, from_words, types_of
from kerastl.data.conll import read_conll
from kerastl.data.entity_examples import entity_examples, in_rows
from kerastl.data.examples import Splits
from kerastl.data.splits import make_splits
from kerastl.data.step_labels import NONE, StepLabels, answered_groups
from kerastl.errors import DataError
from kerastl.evaluation.entity_answers import answers_to, evaluate_words, label_names
from kerastl.evaluation.monitors import example_losses, validation_metrics
from kerastl.modality.text import Text
from kerastl.modality.text.vocabulary import Vocabulary
from kerastl.modality.text.windows import overlap_of
from kerastl.modality.text.wordpiece import WordPiece
from kerastl.modality.words import worded
from kerastl.recipe.schema import DataRecipe
from kerastl.task.tagging import ENTITIES
from kerastl.task.tags import code_spans, spans_of, tag_names

VOCABULARY = Vocabulary(tuple(pieces_of(60)))
NAMES = tag_names(("LOC", "PER"))


def text_of(max_pieces: int = 12) -> Text:
    return Text(VOCABULARY, max_pieces=max_pieces)


def rows_of(documents: list[Annotated], max_pieces: int = 12) -> Splits:
    """All documents as rows, in the test split."""
    found = Entities(tuple(documents), types_of(documents), "texts")
    examples = entity_examples({"train": found, "validation": found, "test": found}, DataRecipe(), "")
    return in_rows(make_splits(examples, DataRecipe()), text_of(max_pieces))


def labels_of(lengths: list[int], documents: list[int]) -> StepLabels:
    """Rows in which every other step has a label."""
    total = sum(lengths)
    values = np.where(np.arange(total) % 2, np.arange(total), NONE).astype(np.int32)
    return StepLabels(values, np.array(lengths), np.array(documents))


def test_labels_of_steps_are_indexed_like_rows_of_an_array() -> None:
    labels = labels_of([3, 1, 4, 2], [0, 0, 1, 2])
    assert len(labels) == 4 and labels.codes.tolist() == [1, 3, 5, 7, 9]
    some = labels[np.array([2, 0])]
    assert some.lengths.tolist() == [4, 3] and some.codes.tolist() == [5, 7, 1]
    assert labels.filled(4).tolist() == [[-1, 1, -1, -1], [3, -1, -1, -1], [-1, 5, -1, 7], [-1, 9, -1, -1]]
    rows, steps = labels.places
    assert (labels.filled(4)[rows, steps] == labels.codes).all()
    assert labels.words.tolist() == [2, 2, 1] and labels[np.array([], np.int64)].codes.tolist() == []
    assert labels.renumbered(np.arange(10, 20)).codes.tolist() == [11, 13, 15, 17, 19]
    groups = np.array(["a", "a", "", ""], object)
    assert len(set(answered_groups(labels, groups))) == 3


def test_a_document_whose_words_have_no_label_counts_as_one_without_words() -> None:
    labels = StepLabels(np.array([NONE, 4, NONE, 2]), np.array([1, 1, 1, 1]), np.array([0, 1, 2, 3]))
    assert labels.words.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("max_pieces", [3, 4, 6, 12, 40])
def test_each_word_is_answered_once_where_it_has_most_context(max_pieces: int) -> None:
    draw = np.random.default_rng(max_pieces)
    some = [
        "Anna",
        "Romes",
        "lives",
        "😀",
        "北京",
        "smithing",
        "Adas,",
        "cafe\u0301",
        "x" * 120,
        "annaannaannaanna",
    ]
    texts = [" ".join(draw.choice(some, count)) for count in (0, 1, 3, 9, 40)]
    found = text_of(max_pieces).windows(tf.constant(texts))
    words = np.diff(found.words.numpy())
    whole_ids, places = whole(WordPiece(VOCABULARY, lowercase=True), *texts)
    assert words.tolist() == [len(each) for each in places]
    assert found.starts.numpy().tolist() == [start for each in places for start, _, _ in each]
    room, ids = max_pieces - 2, found.ids.numpy()
    stride = room - overlap_of(max_pieces)
    for text, (first, stop) in enumerate(zip(found.words.numpy(), found.words.numpy()[1:], strict=False)):
        pieces, begins = whole_ids[text], [first for _, _, first in places[text]]
        rows = np.flatnonzero(found.texts.numpy() == text)
        assert len(rows) == 1 + max(0, -(-(len(pieces) - room) // stride))
        for word, at in zip(range(first, stop), begins, strict=True):
            row, column = found.rows.numpy()[word], found.columns.numpy()[word]
            assert row in rows and ids[row, column] == pieces[at]
            # No other row of the text has more pieces on the poorer side of the word; ends of the text are no sides.
            context = [
                min(
                    at - k * stride if k else len(pieces),
                    k * stride + room - at if k + 1 < len(rows) else len(pieces),
                )
                for k in range(len(rows))
                if k * stride <= at < k * stride + room
            ]
            own = row - rows[0]
            mine = min(
                at - own * stride if own else len(pieces),
                own * stride + room - at if own + 1 < len(rows) else len(pieces),
            )
            assert mine >= max(context) - 1


def test_rows_for_training_are_those_of_the_graph_from_the_text_that_they_hold() -> None:
    """A row is a piece of the text; decoded by itself it is the row that the graph cuts out of the whole."""
    words = [
        "Anna",
        "Smith",
        "lives",
        "in",
        "Rome",
        ",",
        "and",
        "Ada",
        "Wu",
        "likes",
        "the",
        "smithing",
        "of",
        "it",
        "in",
        "Berlin",
        ".",
        "no",
        "cafe",
        "in",
        "Oslo",
    ]
    spans = [(0, 2, "PER"), (4, 5, "LOC"), (7, 9, "PER"), (15, 16, "LOC"), (20, 21, "LOC")]
    documents = [
        from_words(words, spans, 0),
        from_words(["Ada", "in", "Lima"], [(0, 1, "PER"), (2, 3, "LOC")], 1),
    ]
    splits = rows_of(documents, 10)
    rows, text = splits.test, text_of(10)
    assert rows.count > 2 and splits.class_names == NAMES
    raw = list(rows.raw(np.arange(rows.count)))
    decoded = text.decode_all(tf.constant(raw))
    whole = text.windows(tf.constant([each.text for each in documents]))
    assert decoded["pieces"].numpy().tolist() == whole.ids.numpy().tolist()
    assert (
        decoded["length"].numpy().tolist() == whole.lengths.numpy().tolist() == rows.labels.lengths.tolist()
    )
    assert rows.labels.words.tolist() == [len(words) + 0, 3]
    found = code_spans(rows.labels.codes, rows.labels.words)
    assert [(start, stop, ("LOC", "PER")[kind]) for start, stop, kind in found.tolist()] == [
        *spans, (21, 22, "PER"), (23, 24, "LOC"),
    ]  # fmt: skip
    assert set(rows.groups[:2]) != {""} and len(set(rows.groups[:-1])) == 1
    assert any("are read in" in each for each in splits.warnings)


def test_windows_of_one_text_stay_on_one_side(tmp_path: Any) -> None:
    path = tmp_path / "a.conll"
    path.write_text(in_columns(sentences(60)), encoding="utf-8")
    examples = entity_examples({"": read_conll(path)}, DataRecipe(), "")
    splits = in_rows(make_splits(examples, DataRecipe()), text_of())
    sides = [{name.split(":")[0] for name in split.ids} for split in splits]
    assert sum(map(len, sides)) == 60 and not sides[0] & sides[1] and not sides[0] & sides[2]
    assert max(split.count for split in splits) > max(map(len, sides))


def test_entities_without_a_word_of_their_own_are_told() -> None:
    odd = Annotated("Anna \u200b Rome", (Span(0, 4, "PER"), Span(5, 6, "LOC"), Span(7, 11, "LOC")), 0)
    splits = rows_of([odd, from_words(["Rome", "Wu"], [(0, 1, "LOC"), (1, 2, "PER")], 1)])
    assert any("3 entities cannot be learnt or found" in each for each in splits.warnings)
    assert splits.test.examples.warnings == splits.warnings  # which evaluate says
    assert len(code_spans(splits.test.labels.codes, splits.test.labels.words)) == 4


def test_the_same_words_at_another_place_are_another_entity() -> None:
    words = ["Anna", "Anna", "Rome"]
    test = rows_of([from_words(words, [(0, 1, "PER"), (2, 3, "LOC")], place) for place in range(2)]).test
    per, loc = NAMES.index("B-PER"), NAMES.index("B-LOC")
    logits = np.eye(len(NAMES))[[0, per, loc, per, 0, loc]] * 9
    wrong, right = answers_to(test, logits, NAMES, ENTITIES)
    assert wrong.true == right.true == right.predicted == "PER: Anna (0-4) | LOC: Rome (10-14)"
    assert wrong.predicted == "PER: Anna (5-9) | LOC: Rome (10-14)"
    assert label_names(test, NAMES) == [wrong.true] * 2


def test_sentences_of_as_many_words_are_rows_like_others() -> None:
    same = [from_words(["Anna", "Rome"], [(0, 1, "PER"), (1, 2, "LOC")], place) for place in range(3)]
    rows = rows_of(same).test
    assert rows.examples.words is not None
    assert [each.tolist() for each in rows.examples.words[rows.indices]] == [[[0, 4], [5, 9]]] * 3


def test_a_source_without_an_entity_is_refused() -> None:
    with pytest.raises(DataError, match="has no entity"):
        entity_examples({"": Entities((from_words(["a"], [], 0),), (), "file x")}, DataRecipe(), "")


@pytest.mark.parametrize("seed", range(6))
def test_the_graph_reads_tags_as_python_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = tag_names(("LOC", "ORG", "PER"))
    words = [" ".join(["no"] * count) for count in draw.integers(0, 9, 7)]
    text = text_of()
    found = text.windows(tf.constant(words))
    logits = draw.normal(size=(len(found.starts), len(names))).astype(np.float32) * 3

    @tf.function
    def answer(raw: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        at = text.windows(raw)
        return ENTITIES.word_answers(
            logits, at.starts, at.ends, at.words, names, lambda *spans: worded(text).excerpts(raw, *spans)
        )

    answers = {name: value.numpy() for name, value in answer(tf.constant(words), tf.constant(logits)).items()}
    lengths = np.diff(found.words.numpy())
    sure = ENTITIES.probabilities(logits).max(axis=1)
    expected: list[list[Any]] = [[] for _ in words]
    for start, stop, kind in code_spans(logits.argmax(axis=1), lengths).tolist():
        document = int(np.searchsorted(found.words.numpy(), start, side="right")) - 1
        place = int(found.starts[start]), int(found.ends[stop - 1])
        inside = words[document][slice(*place)]
        expected[document].append(
            (inside, ("LOC", "ORG", "PER")[kind], *place, pytest.approx(sure[start:stop].min()))
        )
    assert answers["count"].tolist() == [len(each) for each in expected]
    for row, entities in enumerate(expected):
        columns = [
            answers[name][row, : len(entities)] for name in ("entities", "types", "starts", "ends", "scores")
        ]
        given = [(a.decode(), b.decode(), c, d, e) for a, b, c, d, e in zip(*columns, strict=True)]
        assert given == entities


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_given_words_are_those_of_their_spans_and_seqevals(seed: int) -> None:
    """Of spans that begin and end with the words of a file, also where the network takes these words apart."""
    draw = np.random.default_rng(seed)
    some = ["Anna", "U.N.", "Smith-Wu", "smithing", "no", "北京", "Rome,", "it"]
    given: list[list[str]] = []
    answered: list[list[str]] = []
    documents, answers = [], []
    for place in range(40):
        words = draw.choice(some, draw.integers(1, 12)).tolist()
        tags = [
            [NAMES[code] for code in draw.choice(5, len(words), p=[0.6, 0.1, 0.1, 0.1, 0.1])]
            for _ in range(2)
        ]
        tags[1] = [one if draw.random() < 0.7 else other for one, other in zip(*tags, strict=True)]
        given.append(tags[0])
        answered.append(tags[1])
        documents.append(from_words(words, spans_of(tags[0]), place))
        answers.append(from_words(words, spans_of(tags[1]), place))
    for each in (documents, answers):  # types that every split has
        each.append(from_words(["a", "b"], [(0, 1, "LOC"), (1, 2, "PER")], 40))
    given.append(["B-LOC", "B-PER"])
    answered.append(["B-LOC", "B-PER"])
    true, found = rows_of(documents, 8).test, rows_of(answers, 8).test
    logits = np.eye(5)[found.labels.codes] * 4
    metrics = evaluate_words(logits, true.labels, true.groups, NAMES, ENTITIES)
    assert metrics.entities is not None
    sets = [
        {(number, *span) for number, tags in enumerate(each) for span in spans_of(tags)}
        for each in (given, answered)
    ]
    assert metrics.entities.f1 == pytest.approx(2 * len(sets[0] & sets[1]) / sum(map(len, sets)))
    if seqeval := _seqeval():
        assert metrics.entities.f1 == pytest.approx(seqeval.f1_score(given, answered))
    assert metrics.entities.support == sum(len(each.spans) for each in documents)
    assert metrics.count == len(documents) and metrics.micro_f1 is None
    again = type(metrics).from_dict(metrics.to_dict())
    assert again.entities == metrics.entities or again.entities.f1 == metrics.entities.f1  # type: ignore[union-attr]


def _seqeval() -> Any:
    try:
        import seqeval.metrics
    except ImportError:
        return None
    return seqeval.metrics


def test_what_words_add_to_the_f1_is_the_f1() -> None:
    draw = np.random.default_rng(0)
    words = np.array([4, 0, 9, 30])
    labels, logits = draw.choice(5, 43), draw.normal(size=(43, 5))
    found = validation_metrics(logits, labels, ENTITIES, words=words)
    assert set(found) == set(ENTITIES.monitors)
    parts = example_losses("val_entity_f1", logits, labels, ENTITIES, words=words)
    assert -parts.mean() == pytest.approx(found["val_entity_f1"])
    true, answered = code_spans(labels, words).tolist(), code_spans(logits.argmax(axis=1), words).tolist()
    right = sum(each in true for each in answered)
    assert found["val_entity_f1"] == pytest.approx(2 * right / (len(true) + len(answered)))
    nothing = validation_metrics(np.eye(5)[np.zeros(43, int)], np.zeros(43, int), ENTITIES, words=words)
    assert nothing["val_entity_f1"] == 0
