"""Metrics of entities: equal to seqeval's on any tags, with intervals and kinds of errors."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from kerastl.errors import DataError
from kerastl.evaluation.entity_metrics import EntityMetrics, evaluate_tags
from kerastl.task.tags import code_spans, repaired, spans_of, tag_names

TYPES = ("LOC", "ORG", "PER")
NAMES = tag_names(TYPES)


def drawn(
    seed: int, sentences: int = 60, agreement: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tags of sentences, some without a word, and answers that agree with some of them; most sequences are invalid."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 12, sentences)
    labels = draw.choice(len(NAMES), lengths.sum(), p=[0.4, *[0.1] * 6])
    other = draw.choice(len(NAMES), lengths.sum(), p=[0.4, *[0.1] * 6])
    return np.where(draw.random(len(labels)) < agreement, labels, other), labels, lengths


def in_words(codes: np.ndarray, lengths: np.ndarray) -> list[list[str]]:
    return [[NAMES[code] for code in part] for part in np.split(codes, np.cumsum(lengths)[:-1])]


def of_tags(true: str, answered: str) -> EntityMetrics:
    """Sentences apart by |, tags by blanks."""
    codes = [
        np.array([NAMES.index(tag) for tag in text.replace("|", " ").split()]) for text in (true, answered)
    ]
    return evaluate_tags(codes[1], codes[0], np.array([len(part.split()) for part in true.split("|")]), TYPES)


@pytest.mark.parametrize("seed", range(20))
def test_figures_are_those_of_seqeval(seed: int) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    decided, labels, lengths = drawn(seed, agreement=(0.0, 0.7, 1.0)[seed % 3])
    metrics = evaluate_tags(decided, labels, lengths, TYPES)
    true, answered = in_words(labels, lengths), in_words(decided, lengths)
    expected = seqeval.classification_report(true, answered, output_dict=True, zero_division=0)
    for row in metrics.types:
        theirs = expected[row.name]
        found = (row.precision or 0.0, row.recall or 0.0, row.f1 or 0.0, row.support)
        assert found == pytest.approx([theirs[key] for key in ("precision", "recall", "f1-score", "support")])
    assert metrics.precision == pytest.approx(seqeval.precision_score(true, answered))
    assert metrics.recall == pytest.approx(seqeval.recall_score(true, answered))
    assert metrics.f1 == pytest.approx(seqeval.f1_score(true, answered))
    assert metrics.macro_f1 == pytest.approx(expected["macro avg"]["f1-score"])


@pytest.mark.parametrize("seed", range(10))
def test_figures_are_those_of_sets_of_spans(seed: int) -> None:
    decided, labels, lengths = drawn(seed)
    metrics = evaluate_tags(decided, labels, lengths, TYPES)
    true, answered = (
        {(number, *span) for number, tags in enumerate(in_words(codes, lengths)) for span in spans_of(tags)}
        for codes in (labels, decided)
    )
    assert (metrics.support, metrics.predicted, metrics.right) == (
        len(true),
        len(answered),
        len(true & answered),
    )
    assert metrics.f1 == 2 * len(true & answered) / (len(true) + len(answered))
    wrong = metrics.type_errors + metrics.boundary_errors + metrics.overlap_errors + metrics.missed
    assert wrong == metrics.support - metrics.right
    dense = metrics.confusion.dense()
    assert dense[:-1].sum() == metrics.support and dense[:, :-1].sum() == metrics.predicted
    assert np.trace(dense) == metrics.right and dense[-1, -1] == 0
    repaired_codes = repaired(decided, lengths)
    assert np.array_equal(code_spans(repaired_codes, lengths), code_spans(decided, lengths))
    again = evaluate_tags(repaired_codes, labels, lengths, TYPES)
    assert again.to_dict() == metrics.to_dict(), "a repair changes no figure"


def test_no_entity_goes_beyond_its_sentence() -> None:
    codes = np.array([1, 2, 2, 2])
    assert code_spans(codes, np.array([2, 0, 2])).tolist() == [[0, 2, 0], [2, 4, 0]]
    assert code_spans(codes).tolist() == [[0, 4, 0]], "the control: one sentence"
    assert code_spans(np.zeros(0, int), np.array([0, 0])).tolist() == []
    assert repaired(codes, np.array([2, 0, 2])).tolist() == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="have 3 words, and there are 4 codes"):
        code_spans(codes, np.array([3]))


def test_kinds_of_errors() -> None:
    metrics = of_tags(
        "B-PER I-PER O B-LOC O B-ORG I-ORG O B-LOC O O | B-PER I-PER",
        "B-PER I-PER O B-ORG O B-ORG O O O O B-PER | B-LOC O",
    )
    assert (metrics.right, metrics.support, metrics.predicted) == (1, 5, 5)
    errors = (
        metrics.type_errors,
        metrics.boundary_errors,
        metrics.overlap_errors,
        metrics.missed,
        metrics.spurious,
    )
    assert errors == (1, 1, 1, 1, 1)
    assert metrics.confusion.dense().tolist() == [[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0]]
    assert metrics.word_accuracy == pytest.approx(7 / 13)


def test_what_cannot_be_said_is_not_said() -> None:
    nothing = of_tags("O O", "O O")
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.f1_interval, nothing.macro_f1) == (
        None,
    ) * 5
    assert nothing.word_accuracy == 1 and nothing.types[0].f1 is None
    unasked = of_tags("O O", "B-LOC O")
    assert (unasked.precision, unasked.recall, unasked.f1, unasked.spurious) == (0, None, None, 1)
    silent = of_tags("B-LOC O | B-PER", "O O | O")
    assert (silent.precision, silent.recall, silent.f1, silent.missed) == (None, 0, 0, 2)
    assert silent.f1_interval is not None and silent.f1_interval[0] == 0 and silent.f1_interval[1] > 0.3
    assert of_tags("B-LOC", "B-LOC").f1_interval is None, "one sentence"


def test_intervals_hold_the_truth_and_narrow_with_sentences() -> None:
    """Of 300 draws of 80 sentences out of many the interval holds the F1 of all in about 95 %."""
    decided, labels, lengths = drawn(0, 4000, 0.8)
    truth = evaluate_tags(decided, labels, lengths, TYPES).f1
    ends = np.cumsum(lengths)
    draw = np.random.default_rng(1)
    held, widths = 0, []
    for _ in range(300):
        chosen = draw.choice(len(lengths), 80, replace=False)
        words = np.concatenate([np.arange(ends[one] - lengths[one], ends[one]) for one in chosen])
        low, high = evaluate_tags(decided[words], labels[words], lengths[chosen], TYPES).f1_interval or (0, 0)
        held += low <= (truth or 0) <= high
        widths.append(high - low)
    assert 0.92 <= held / 300 <= 0.98
    low, high = evaluate_tags(decided, labels, lengths, TYPES).f1_interval or (0, 1)
    assert high - low < np.mean(widths) / 5


def test_intervals_stand_on_documents_where_there_are_some() -> None:
    decided, labels, lengths = drawn(3, 90)
    alone = evaluate_tags(decided, labels, lengths, TYPES)
    grouped = evaluate_tags(decided, labels, lengths, TYPES, np.arange(90) // 30)
    assert alone.groups > 60 and grouped.groups == 3 and alone.f1 == grouped.f1
    assert alone.f1_interval and grouped.f1_interval
    assert np.diff(grouped.f1_interval) > np.diff(alone.f1_interval)


def test_metrics_go_through_json() -> None:
    for metrics in (of_tags("B-LOC O | B-PER", "B-LOC B-PER | O"), of_tags("O", "O")):
        again = EntityMetrics.from_dict(json.loads(json.dumps(metrics.to_dict())))
        assert again.to_dict() == metrics.to_dict()


@pytest.mark.parametrize(
    ("decided", "labels", "lengths", "message"),
    [
        ([0, 0], [0], [1], "decided of 1 words"),
        ([0], [0], [2], "have 2 words"),
        ([7], [0], [1], r"each 0\.\.6"),
        ([0], [-1], [1], "labels"),
    ],
)
def test_codes_that_do_not_fit(
    decided: list[int], labels: list[int], lengths: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_tags(np.array(decided), np.array(labels), np.array(lengths), TYPES)


def test_no_word_is_no_evaluation() -> None:
    with pytest.raises(DataError, match="no word to evaluate"):
        evaluate_tags(np.zeros(0), np.zeros(0), np.zeros(0), TYPES)


def test_a_million_words_are_cheap() -> None:
    decided, labels, lengths = drawn(0, 180_000)
    start = time.process_time()
    metrics = evaluate_tags(decided, labels, lengths, TYPES)
    assert metrics.words > 900_000 and time.process_time() - start < 5
