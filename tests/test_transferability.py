"""The two scores of a pretrained network: they find the better features, and are what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from kerastl.evaluation import transferability
from kerastl.evaluation.transferability import linear_probe, log_evidence, probe_folds

NO_GROUPS = np.full(120, "", object)


def clouds(
    distance: float, count: int = 120, width: int = 10, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of three classes whose centres are so far apart."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = generator.normal(size=(3, width)) * distance
    return centres[labels] + generator.normal(size=(count, width)), labels


def evidence_by_hand(features: np.ndarray, column: np.ndarray) -> float:
    """The largest of log N(column; 0, FFᵀ/α + I/β) over α and β, found by a numerical optimizer."""
    gram = features @ features.T

    def negative(logs: np.ndarray) -> float:
        covariance = gram / np.exp(logs[0]) + np.eye(len(column)) / np.exp(logs[1])
        distance = column @ np.linalg.solve(covariance, column)
        return 0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])

    found = [minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}) for start in [(0, 0), (4, 2)]]  # fmt: skip
    return -min(result.fun for result in found)


@pytest.mark.parametrize(("count", "width"), [(40, 5), (30, 30), (24, 60)], ids=["tall", "square", "wide"])
def test_log_evidence_is_the_maximum_that_a_numerical_search_finds(count: int, width: int) -> None:
    features, labels = clouds(0.5, count, width, seed=3)
    columns = [(labels == label).astype(float) for label in range(3)]
    expected = np.mean([evidence_by_hand(features, column) for column in columns]) / count
    assert log_evidence(features, labels) == pytest.approx(expected, abs=1e-6)


def test_log_evidence_does_not_depend_on_scale_or_rotation() -> None:
    features, labels = clouds(1.0)
    turned = features @ np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    assert log_evidence(turned * 37.0, labels) == pytest.approx(log_evidence(features, labels), abs=1e-9)


def test_features_that_say_the_label_exactly_give_a_finite_evidence() -> None:
    labels = np.arange(30) % 3
    assert np.isfinite(log_evidence(np.eye(3)[labels], labels))
    assert np.isfinite(log_evidence(np.zeros((30, 3)), labels))


def test_both_scores_rank_better_features_above_worse_ones_and_shuffled_ones_last() -> None:
    near, labels = clouds(0.4)
    far, _ = clouds(1.0)
    shuffled = far[np.random.default_rng(5).permutation(len(far))]
    folds = probe_folds(labels, NO_GROUPS)
    probes = [linear_probe(features, labels, folds).accuracy for features in (far, near, shuffled)]
    evidences = [log_evidence(features, labels) for features in (far, near, shuffled)]
    assert probes == sorted(probes, reverse=True) and probes[0] > 0.9
    assert evidences == sorted(evidences, reverse=True)
    assert probes[2] < 0.5, "the control: features of other images say nothing"


def test_choosing_among_penalties_that_only_guess_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each penalty guesses anew: the best one of each fold in hindsight would seem to be right two times in three."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    folds = probe_folds(labels, NO_GROUPS[:60])

    def guesses(*fitted: object) -> np.ndarray:
        share = generator.random(60)
        return np.stack([share, 1 - share], axis=1)

    monkeypatch.setattr(transferability, "_out_of_fold", guesses)
    scores = [linear_probe(np.zeros((60, 2)), labels, folds).accuracy for _ in range(200)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.02)


def test_more_features_than_images_are_turned_and_not_changed() -> None:
    features, labels = clouds(0.5, count=45, width=100)
    folds = probe_folds(labels, NO_GROUPS[:45])
    padded = np.concatenate([features, np.zeros((45, 40))], axis=1)
    one, other = linear_probe(features, labels, folds), linear_probe(features[:, ::-1], labels, folds)
    assert one.accuracy == other.accuracy
    assert np.isfinite(linear_probe(padded, labels, folds).accuracy)


def test_folds_share_out_classes_and_keep_groups_together() -> None:
    labels = np.repeat([0, 1], 30)
    groups = np.array([f"patient {index // 3}" for index in range(60)], object)
    folds = probe_folds(labels, groups)
    assert len(folds) == 5
    for fitted, held_out in folds:
        assert not set(groups[fitted]) & set(groups[held_out])
        assert set(labels[held_out]) == {0, 1}
    torn = [set(groups[a]) & set(groups[b]) for a, b in probe_folds(labels, np.full(60, "", object))]
    assert any(torn), "the control: without groups the same images are torn apart"


def test_few_examples_make_fewer_folds() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    assert len(probe_folds(labels, np.full(13, "", object))) == 3
    features = np.where(labels[:, None] == 1, 1.0, -1.0) + np.random.default_rng(0).normal(size=(13, 4)) * 0.1
    score = linear_probe(features, labels, probe_folds(labels, np.full(13, "", object)))
    assert score.folds == 3 and score.accuracy == 1.0


def test_a_class_of_one_group_counts_as_missed() -> None:
    labels = np.array([0] * 12 + [1] * 12 + [2] * 6)
    groups = np.array([f"g{index // 3}" for index in range(24)] + ["alone"] * 6, object)
    features = np.eye(3)[labels] * 5
    score = linear_probe(features, labels, probe_folds(labels, groups))
    assert score.folds == 2 and 0.5 < score.accuracy < 0.9
