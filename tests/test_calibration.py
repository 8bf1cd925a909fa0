"""Temperatures and thresholds: undo a known error, leave the order of classes alone, keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from kerastl.evaluation.abstention import accepted_at, choose_threshold, fewest_for
from kerastl.evaluation.calibration import (
    calibrate,
    calibration_error,
    fit_temperature,
    fit_temperatures,
    log_loss_at,
    reliability,
)
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL


def honest_logits(count: int = 4000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: each label is drawn from it."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(count, classes)) * 2
    labels = np.array([generator.choice(classes, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_logits_that_are_too_large_or_too_small_are_set_right(factor: float) -> None:
    logits, labels = honest_logits()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.06)


def test_the_log_loss_is_scikit_learns() -> None:
    logits, labels = honest_logits(200)
    probabilities = np.exp(logits / 2.0) / np.exp(logits / 2.0).sum(axis=1, keepdims=True)
    assert log_loss_at(logits, labels, 2.0) == pytest.approx(log_loss(labels, probabilities))


def test_no_temperature_is_better_than_the_fitted_one() -> None:
    logits, labels = honest_logits(300)
    best = fit_temperature(logits * 5, labels)
    losses = [log_loss_at(logits * 5, labels, best * step) for step in (0.5, 0.9, 1.0, 1.1, 2.0)]
    assert min(losses) == losses[2] < losses[1]


def test_labels_of_their_own_are_calibrated_one_by_one() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3000, 3)) * 2
    labels = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    assert fit_temperature(logits * 4, labels, MULTI_LABEL) == pytest.approx(4.0, rel=0.08)


@pytest.mark.parametrize("count", [5, 10, 14, 40])
def test_few_images_do_not_make_a_model_surer_than_it_should_be(count: int) -> None:
    """Logits that are calibrated: whatever is fitted to a few of them may cost others next to nothing."""
    logits, labels = honest_logits()
    truth = log_loss_at(logits, labels, 1.0)
    generator = np.random.default_rng(0)
    excess = []
    for _ in range(60):
        some = generator.integers(0, len(labels), count)
        excess.append(log_loss_at(logits, labels, fit_temperature(logits[some], labels[some])) - truth)
    assert np.mean(excess) < 0.04 and max(excess) < 0.4


def test_images_that_are_all_right_leave_the_temperature_near_one() -> None:
    logits = np.eye(3)[[0, 1, 2] * 5] * 4
    assert 0.5 < fit_temperature(logits, logits.argmax(axis=1)) < 1
    assert np.all(fit_temperatures(logits, logits.argmax(axis=1)) > 0.5)
    assert fit_temperature(logits, (logits.argmax(axis=1) + 1) % 3) < 20, "nor do those that are all wrong"
    several = (logits > 0).astype(np.int64)
    assert fit_temperature(logits - 2, several, MULTI_LABEL) > 0.2


def test_weights_set_right_what_they_weigh() -> None:
    logits, labels = honest_logits()
    wrong = np.where((labels == 0)[:, None], logits * 4, logits)
    weights = np.where(labels == 0, 1000.0, 1.0)
    only = labels == 0
    assert fit_temperature(wrong, labels, weights=weights) == pytest.approx(
        fit_temperature(wrong[only], labels[only]), rel=0.02
    )
    assert fit_temperature(wrong, labels) < 0.8 * fit_temperature(wrong, labels, weights=weights)
    assert calibrate(wrong, labels, "per_class", weights=weights).temperatures != pytest.approx(
        calibrate(wrong, labels, "per_class").temperatures, rel=0.02
    )


def test_extreme_logits_give_finite_numbers() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert np.isfinite(log_loss_at(logits, np.array([1, 1]), 1.0))
    assert 0.05 <= fit_temperature(logits, np.array([0, 1])) <= 20


FACTORS = np.array([0.5, 1.0, 2.0, 4.0])


def test_temperatures_of_their_own_undo_the_error_of_each_class() -> None:
    logits, labels = honest_logits()
    assert fit_temperatures(logits * FACTORS, labels) == pytest.approx(FACTORS, rel=0.08)
    multi = np.random.default_rng(1).normal(size=(4000, 4)) * 2
    several = (np.random.default_rng(2).random(multi.shape) < 1 / (1 + np.exp(-multi))).astype(np.int64)
    assert fit_temperatures(multi * FACTORS, several, MULTI_LABEL) == pytest.approx(FACTORS, rel=0.12)


def test_temperatures_of_their_own_are_taken_only_where_they_help() -> None:
    logits, labels = honest_logits()
    assert calibrate(logits * FACTORS, labels).kind == "per_class"
    common = calibrate(logits * 3, labels)
    assert common.kind == "temperature" and len(set(common.temperatures)) == 1 and common.count == 4000
    few = np.arange(40)
    assert calibrate((logits * FACTORS)[few], labels[few]).kind == "temperature", "too few images to tell"
    assert calibrate(logits * 3, labels, "none").temperatures == (1.0,) * 4


def test_calibration_lowers_the_error_on_images_that_it_was_not_fitted_on() -> None:
    logits, labels = honest_logits()
    fitted = calibrate(logits[:2000] * 3, labels[:2000])
    found = reliability(logits[2000:] * 3, labels[2000:], np.array(fitted.temperatures))
    assert found.count == 2000
    assert found.error_before > 0.1 and found.error_after < 0.03
    assert found.log_loss_after < found.log_loss_before


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    logits = np.log(np.array([[0.9, 0.1]] * 10))
    assert calibration_error(logits, np.array([0] * 9 + [1])) == pytest.approx(0.0)
    assert calibration_error(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4)
    # One rare label of fifty, given with 0.9 and right every second time: the others, surely absent, hide nothing.
    tags, labels = np.full((10, 50), -9.0), np.zeros((10, 50), np.uint8)
    tags[:, 0], labels[:5, 0] = np.log(9.0), 1
    assert calibration_error(tags, labels, MULTI_LABEL) == pytest.approx(0.4)
    none = np.full((10, 50), -9.0)  # where no label is given, the most probable one counts
    none[:, 0] = np.log(0.25)
    assert calibration_error(none, labels, MULTI_LABEL) == pytest.approx(0.3)
    certain = np.array([[1000.0, 0.0]])
    assert calibration_error(certain, np.array([1])) == pytest.approx(1.0)


def test_a_threshold_is_known_to_give_its_precision_and_accepts_as_many_as_it_can() -> None:
    logits, labels = honest_logits()
    probabilities = CLASSIFICATION.probabilities(logits)
    threshold = choose_threshold(probabilities, labels, precision=0.9)
    assert threshold is not None

    def lowest(number: int) -> float:
        accepted = accepted_at(probabilities, labels, confidence[number - 1])
        assert accepted.precision is not None
        right = round(accepted.precision * accepted.accepted)
        return binomtest(right, accepted.accepted, alternative="greater").proportion_ci(0.95).low

    confidence = np.sort(probabilities.max(axis=1))[::-1]
    number = accepted_at(probabilities, labels, threshold).accepted
    assert lowest(number) >= 0.9
    assert all(lowest(wider) < 0.9 for wider in range(number + 1, 4001))


def test_the_precision_that_was_asked_for_is_kept_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        sure = 1 / (1 + np.exp(-np.abs(generator.normal(3.5, 2.0, count))))
        return np.stack([sure, 1 - sure], axis=1), (generator.random(count) >= sure).astype(int)

    probabilities, labels = images(400_000)
    broken, chosen = 0, 0
    for _ in range(300):
        threshold = choose_threshold(*images(300), precision=0.95)
        if threshold is not None:
            chosen += 1
            broken += (accepted_at(probabilities, labels, threshold).precision or 1) < 0.95
    assert chosen > 200, "else nothing was promised"
    # 5 % and three standard errors; the observed precision alone breaks its promise in half of the draws
    assert broken <= 0.05 * 300 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_images_of_one_group_prove_no_more_of_a_precision_than_one_of_them() -> None:
    generator = np.random.default_rng(0)

    def images(groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bursts of eight that are alike: all right, or all wrong."""
        sure = 1 / (1 + np.exp(-np.abs(generator.normal(3.5, 2.0, groups))))
        labels = (generator.random(groups) >= sure).astype(int)
        probabilities = np.stack([sure, 1 - sure], axis=1)
        return tuple(np.repeat(each, 8, axis=0) for each in (probabilities, labels, np.arange(groups)))

    probabilities, labels, _ = images(50_000)
    broken = {True: 0, False: 0}
    for _ in range(150):
        *drawn, numbers = images(150)
        for grouped in broken:
            threshold = choose_threshold(*drawn, precision=0.95, groups=numbers if grouped else None)
            if threshold is not None:
                broken[grouped] += (accepted_at(probabilities, labels, threshold).precision or 1) < 0.95
    assert broken[True] <= 0.05 * 150 + 3 * (150 * 0.05 * 0.95) ** 0.5 < broken[False], broken
    *drawn, numbers = images(30)
    apart, together = accepted_at(*drawn, 0.5), accepted_at(*drawn, 0.5, numbers)
    assert apart.precision_interval and together.precision_interval
    assert together.precision_interval[0] < apart.precision_interval[0]


def test_a_precision_needs_images_enough_to_be_known() -> None:
    assert (fewest_for(0.9), fewest_for(0.98)) == (29, 149)
    for count, expected in ((148, None), (149, 0.0)):
        sure = np.tile([0.99, 0.01], (count, 1))
        assert choose_threshold(sure, np.zeros(count, int), precision=0.98) == expected


def test_a_threshold_accepts_the_share_that_was_asked_for() -> None:
    logits, labels = honest_logits()
    probabilities = CLASSIFICATION.probabilities(logits)
    threshold = choose_threshold(probabilities, labels, coverage=0.3)
    assert threshold is not None
    assert accepted_at(probabilities, labels, threshold).coverage == pytest.approx(0.3)


def test_images_of_one_confidence_are_accepted_together() -> None:
    probabilities = np.array([[0.9, 0.1]] * 20 + [[0.8, 0.2]] * 30)
    labels = np.repeat([0, 0, 1], [20, 10, 20])
    assert choose_threshold(probabilities, labels, precision=0.8) == pytest.approx(0.85)
    assert choose_threshold(probabilities, labels, precision=0.4) == 0.0
    assert choose_threshold(probabilities, labels, coverage=0.5) == 0.0
    assert choose_threshold(probabilities, 1 - labels, precision=0.9) is None
    nothing = accepted_at(probabilities, labels, 0.95)
    assert (nothing.accepted, nothing.precision, nothing.coverage) == (0, None, 0.0)


def test_calibrating_a_network_gives_the_logits_that_it_then_answers_with() -> None:
    from kerastl.backbones import get_backbone
    from kerastl.jobs.calibrate import calibrate_network
    from kerastl.modality.image import Image
    from kerastl.model.build import build_backbone, build_model
    from kerastl.progress import Progress
    from kerastl.recipe import HeadRecipe, Recipe
    from kerastl.recipe.schema import CalibrationRecipe

    spec = get_backbone("mobilenet_025")
    network = build_model(build_backbone(spec, Image(32).spec), spec, HeadRecipe(), 4)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, spec.feature_channels)).astype(np.float32)
    wanted, labels = honest_logits(600)
    kernel = np.linalg.lstsq(features, 3 * wanted, rcond=None)[0].astype(np.float32)
    network.logits.set_weights([kernel, np.zeros(4, np.float32)])
    before = np.asarray(network.head(features))
    recipe = Recipe(calibration=CalibrationRecipe(kind="temperature", abstain_coverage=0.5))
    calibrated, after = calibrate_network(network, before, labels, recipe, Progress())
    np.testing.assert_allclose(np.asarray(network.head(features)), after, rtol=1e-4, atol=1e-4)
    assert np.abs(after - before).max() > 0.1, "else nothing was divided"
    assert calibrated.accepted == accepted_at(
        CLASSIFICATION.probabilities(after), labels, calibrated.threshold
    )
    assert calibrated.warnings == ()
    strict = Recipe(calibration=CalibrationRecipe(kind="none", abstain_precision=0.999))
    unknown, _ = calibrate_network(network, after, labels, strict, Progress())
    assert unknown.threshold is None and unknown.accepted is None
    (warning,) = unknown.warnings
    assert "600 validation images" in warning and "At least 2,995 have to be accepted" in warning
