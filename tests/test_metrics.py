"""Metrics against scikit-learn and against cases small enough to work out by hand."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as reference

from kerastl.errors import DataError, TrainingError
from kerastl.evaluation.answers import answers_of
from kerastl.evaluation.metrics import Metrics, evaluate_logits, wilson_interval
from kerastl.task.classification import MULTI_LABEL


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def random_case(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.5
    return logits, labels


@pytest.mark.parametrize("count, classes", [(37, 2), (500, 5), (500, 6), (20_000, 10), (300, 100)])
def test_single_label_figures_equal_scikit_learns(count: int, classes: int) -> None:
    logits, labels = random_case(count, classes)
    measured = evaluate_logits(logits, labels, names(classes))
    predicted = logits.argmax(axis=1)
    exponents = np.exp(logits.astype(np.float64))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    assert measured.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    assert measured.log_loss == pytest.approx(
        reference.log_loss(labels, probabilities, labels=range(classes)), rel=1e-9
    )
    assert measured.confusion is not None and np.array_equal(
        measured.confusion.dense(), reference.confusion_matrix(labels, predicted, labels=range(classes))
    )
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=np.nan
    )
    for i, row in enumerate(measured.classes):
        assert row.support == support[i]
        assert (row.precision is None) == math.isnan(precision[i])
        assert row.precision is None or row.precision == pytest.approx(precision[i])
        if support[i]:
            assert row.recall == pytest.approx(recall[i]) and row.f1 == pytest.approx(f1[i])
    assert measured.macro_f1 == pytest.approx(np.mean(f1[support > 0]))
    if classes > 5:
        assert measured.top5_accuracy == pytest.approx(
            reference.top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
        )
    else:
        assert measured.top5_accuracy is None


@pytest.mark.parametrize("classes", [1, 4, 30])
def test_multi_label_figures_equal_scikit_learns(classes: int) -> None:
    random = np.random.default_rng(1)
    labels = (random.random((400, classes)) < 0.3).astype(np.uint8)
    logits = (random.normal(size=labels.shape) + 2.0 * labels - 1).astype(np.float32)
    measured = evaluate_logits(logits, labels, names(classes), MULTI_LABEL)
    predicted = (logits > 0).astype(int)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    likelihood = np.where(labels == 1, probabilities, 1 - probabilities)
    assert measured.accuracy == pytest.approx((predicted == labels).all(axis=1).mean())
    assert measured.hamming_loss == pytest.approx((predicted != labels).mean())
    assert measured.log_loss == pytest.approx(-np.log(likelihood).mean())
    average = {"average": "binary"} if classes == 1 else {"average": "macro"}
    flat = (lambda values: values[:, 0]) if classes == 1 else (lambda values: values)
    assert measured.macro_f1 == pytest.approx(reference.f1_score(flat(labels), flat(predicted), **average))
    assert measured.micro_f1 == pytest.approx(reference.f1_score(labels.ravel(), predicted.ravel()))
    for i, row in enumerate(measured.classes):
        assert row.average_precision == pytest.approx(
            reference.average_precision_score(labels[:, i], probabilities[:, i])
        )
    assert measured.confusion is None and measured.top5_accuracy is None


def test_a_case_worked_out_by_hand() -> None:
    # true a a a b, predicted a a b b; class c never appears
    logits = np.array([[2, 0, 0], [2, 0, 0], [0, 2, 0], [0, 2, 0]], np.float32)
    measured = evaluate_logits(logits, np.array([0, 0, 0, 1]), ["a", "b", "c"])
    a, b, c = measured.classes
    assert (a.support, a.precision, a.recall, a.f1) == (3, 1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (b.support, b.precision, b.recall, b.f1) == (1, 0.5, 1.0, pytest.approx(2 / 3))
    assert (c.support, c.predicted, c.precision, c.recall, c.f1) == (0, 0, None, None, None)
    assert measured.accuracy == 0.75 and measured.count == 4
    assert measured.confusion is not None and measured.confusion.pairs == 1
    assert measured.confusion.to_plain() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert measured.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
    right = math.log(math.exp(2) + 2) - 2
    assert measured.log_loss == pytest.approx((3 * right + right + 2) / 4)


def test_a_class_that_is_there_but_never_predicted_has_no_precision_and_f1_zero() -> None:
    measured = evaluate_logits(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ["a", "b"])
    assert (measured.classes[1].precision, measured.classes[1].recall, measured.classes[1].f1) == (
        None,
        0.0,
        0.0,
    )
    assert measured.macro_f1 == pytest.approx((2 / 3) / 2)


def test_labels_without_a_positive_have_no_average_precision() -> None:
    labels = np.array([[1, 0], [0, 0]], np.uint8)
    measured = evaluate_logits(np.array([[1.0, -1.0], [-1.0, 1.0]]), labels, ["a", "b"], MULTI_LABEL)
    assert measured.classes[1].average_precision is None and measured.classes[1].recall is None
    assert measured.mean_average_precision == 1.0
    assert measured.accuracy == 0.5


def test_huge_logits_neither_overflow_nor_round_to_nothing() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert evaluate_logits(logits, np.array([0, 1]), ["a", "b"]).log_loss == pytest.approx(1e4)
    labels = np.array([[1, 0], [0, 1]], np.uint8)
    assert evaluate_logits(logits, labels, ["a", "b"], MULTI_LABEL).log_loss == pytest.approx(5e3)
    tiny = np.array([[40.0, 0.0]], np.float32)  # softmax in float32 would say a loss of exactly 0
    assert evaluate_logits(tiny, np.array([0]), ["a", "b"]).log_loss < 1e-15


def test_a_constant_model_gets_no_top5_for_free() -> None:
    measured = evaluate_logits(np.zeros((10, 10), np.float32), np.arange(10), names(10))
    assert measured.top5_accuracy == 0.5 and measured.accuracy == 0.1


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    for truth, count in [(0.5, 30), (0.97, 100), (0.1, 1000)]:
        covered = [low <= truth <= high for low, high in
                   (wilson_interval(int(hits), count) for hits in random.binomial(count, truth, 2000))]  # fmt: skip
        assert 0.93 < np.mean(covered) < 0.975


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    for (successes, count), (low, high) in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0


def test_metrics_survive_json() -> None:
    logits, labels = random_case(50, 7)
    for measured in (
        evaluate_logits(logits, labels, names(7)),
        evaluate_logits(logits, (logits > 1).astype(np.uint8), names(7), MULTI_LABEL),
    ):
        written = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
        read = Metrics.from_dict(written)
        assert read.to_dict() == measured.to_dict() and read.classes == measured.classes


def test_many_classes_cost_memory_and_json_in_proportion_not_in_squares() -> None:
    random = np.random.default_rng(0)
    classes, count = 30_000, 300
    labels = random.integers(0, classes, count)
    logits = np.zeros((count, classes), np.float32)
    # every image is taken for the next class, two in a hundred of them for class 7
    logits[np.arange(count), np.where(np.arange(count) < 6, 7, (labels + 1) % classes)] = 5.0
    labels[:6] = 3
    tracemalloc.start()
    measured = evaluate_logits(logits, labels, names(classes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8, "the matrix alone would be 3.6 GB in 32 bits"
    text = json.dumps(measured.to_dict())
    assert len(text) < 6e6
    kept = json.loads(text)["confusion"]
    assert kept["size"] == classes and kept["largest"][0] == [3, 7, 6] and len(kept["largest"]) <= 1000
    assert kept["pairs"] == len(np.unique(labels)) == measured.confusion.pairs
    again = Metrics.from_dict(json.loads(text))
    assert again.confusion.largest(1).tolist() == [[3, 7, 6]] and again.confusion.pairs == kept["pairs"]


def test_a_report_that_holds_a_large_matrix_whole_is_still_read() -> None:
    logits, labels = random_case(900, 300)
    written = evaluate_logits(logits, labels, names(300))
    dense = written.confusion.dense()
    read = Metrics.from_dict({**written.to_dict(), "confusion": dense.tolist()})
    np.testing.assert_array_equal(read.confusion.cells, written.confusion.cells)
    assert read.confusion.pairs == written.confusion.pairs and read.to_dict() == written.to_dict()


def test_figures_do_not_depend_on_how_many_rows_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_case(50, 7)
    several = (logits > 1).astype(np.uint8)
    whole = [
        evaluate_logits(logits, labels, names(7)),
        evaluate_logits(logits, several, names(7), MULTI_LABEL),
    ]
    monkeypatch.setattr("kerastl.evaluation.metrics._BYTES_AT_ONCE", 8 * 7 * 3)
    parts = [
        evaluate_logits(logits, labels, names(7)),
        evaluate_logits(logits, several, names(7), MULTI_LABEL),
    ]
    for one, other in zip(whole, parts, strict=True):
        assert one.log_loss == pytest.approx(other.log_loss) and one.classes == other.classes
        assert (one.accuracy, one.top5_accuracy, one.hamming_loss) == (
            other.accuracy, other.top5_accuracy, other.hamming_loss,
        )  # fmt: skip


def test_answers_name_each_image_the_worst_first() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 3.0], [900.0, 0.0]])
    ids = np.array(["a.png", "b.png", "c.png"], object)
    answers = answers_of("test", ids, logits, np.array([0, 0, 1]), ["cat", "dog"])
    assert [(each.id, each.true, each.predicted) for each in answers] == [
        ("c.png", "dog", "cat"), ("b.png", "cat", "dog"), ("a.png", "cat", "cat"),
    ]  # fmt: skip
    assert [each.loss for each in answers] == pytest.approx([900.0, 3.048587, 0.126928])
    assert [each.probability for each in answers] == pytest.approx([1.0, 0.952574, 0.880797])
    metrics = evaluate_logits(logits, np.array([0, 0, 1]), ["cat", "dog"])
    assert np.mean([each.loss for each in answers]) == pytest.approx(metrics.log_loss, abs=1e-6)


def test_answers_with_several_labels_name_all_that_are_there_and_all_that_are_given() -> None:
    logits, labels = np.array([[2.0, 1.0, -1.0], [-1.0, -1.0, -1.0]]), np.array([[1, 1, 0], [0, 1, 1]])
    answers = answers_of("test", np.array(["a", "b"], object), logits, labels, ["x", "y", "z"], MULTI_LABEL)
    assert [(each.true, each.predicted) for each in answers] == [("y|z", ""), ("x|y", "x|y")]
    assert answers[1].probability == pytest.approx(expit(2) * expit(1) * expit(1), abs=1e-6)
    metrics = evaluate_logits(logits, labels, ["x", "y", "z"], MULTI_LABEL)
    assert np.mean([each.loss for each in answers]) == pytest.approx(metrics.log_loss, abs=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    logits = np.zeros((3, 2), np.float32)
    with pytest.raises(DataError, match="no example"):
        evaluate_logits(logits[:0], np.zeros(0, int), ["a", "b"])
    with pytest.raises(ValueError, match=r"logits \[n, 3\]"):
        evaluate_logits(logits, np.zeros(3, int), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"0\.\.1, got 0\.\.2"):
        evaluate_logits(logits, np.array([0, 1, 2]), ["a", "b"])
    with pytest.raises(TrainingError, match="not a number for 1 of 3"):
        evaluate_logits(np.array([[0, 0], [0, np.nan], [0, 0]]), np.zeros(3, int), ["a", "b"])
