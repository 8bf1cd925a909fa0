"""MixUp and CutMix: planned from (seed, id, view), and labels that match the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from kerastl.features.views import mixed_labels
from kerastl.modality.draws import example_hashes, uniforms
from kerastl.modality.image.mix import MixPlan, mix, mix_plan

IDS = [f"class/{n}.png" for n in range(2000)]


def pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def mixed(plan: MixPlan, images: np.ndarray) -> np.ndarray:
    return mix(images, images[plan.partner], plan.ratio, plan.box).numpy()


def test_without_either_nothing_is_mixed() -> None:
    plan = mix_plan(IDS[:9], 0, 1, 0.0, 0.0, 16)
    assert plan.partner.tolist() == list(range(9))
    assert (plan.ratio == 1).all()
    assert not plan.box.any()
    images = pictures(9, 16)
    np.testing.assert_array_equal(mixed(plan, images), images)
    assert len(mix_plan([], 0, 1, 0.2, 0.2, 16).partner) == 0


def test_types_and_ranges() -> None:
    plan = mix_plan(IDS, 0, 1, 0.2, 1.0, 32)
    assert (plan.partner.dtype, plan.ratio.dtype, plan.box.dtype) == (np.int64, np.float32, np.float32)
    assert plan.partner.min() >= 0
    assert plan.partner.max() < len(IDS)
    assert plan.ratio.min() >= 0
    assert plan.ratio.max() <= 1
    assert len(np.unique(plan.partner)) > 0.55 * len(IDS)


def test_a_plan_depends_on_seed_id_and_view_alone() -> None:
    plan = mix_plan(IDS, 0, 1, 0.4, 1.0, 32)
    again = mix_plan(np.array(IDS)[::-1], 0, 1, 0.4, 1.0, 32)
    for name in ("partner", "ratio", "box"):
        np.testing.assert_array_equal(getattr(again, name)[::-1], getattr(plan, name))
    fewer = mix_plan(IDS[:100], 0, 1, 0.4, 1.0, 32)
    np.testing.assert_array_equal(fewer.ratio, plan.ratio[:100])
    np.testing.assert_array_equal(fewer.box, plan.box[:100])
    for seed, view in ((1, 1), (0, 2)):
        other = mix_plan(IDS, seed, view, 0.4, 1.0, 32)
        assert (other.partner != plan.partner).mean() > 0.99
        assert (other.ratio != plan.ratio).mean() > 0.9


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_ratios_follow_the_beta_distribution(alpha: float) -> None:
    plan = mix_plan(IDS, 0, 1, alpha, 0.0, 32)
    assert not plan.box.any()
    assert stats.kstest(plan.ratio, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(plan.ratio, stats.beta(alpha * 2, alpha).cdf).pvalue < 0.01


def test_uniform_numbers_are_uniform_and_independent() -> None:
    draws = uniforms(example_hashes(IDS, 0, 1, "mix"), 5)
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.1
    assert (example_hashes(IDS, 0, 1, "mix") != example_hashes(IDS, 0, 1, "augment")).all()


def test_with_both_each_takes_half() -> None:
    plan = mix_plan(IDS, 0, 1, 0.4, 1.0, 32)
    is_cutmix = plan.box.any(axis=1)
    assert 0.45 < is_cutmix.mean() < 0.55
    mixup, cutmix = mix_plan(IDS, 0, 1, 0.4, 0.0, 32), mix_plan(IDS, 0, 1, 0.0, 1.0, 32)
    np.testing.assert_array_equal(plan.ratio[is_cutmix], cutmix.ratio[is_cutmix])
    assert (plan.ratio[~is_cutmix] == mixup.ratio[~is_cutmix]).mean() > 0.98  # the rest: empty boxes


@pytest.mark.parametrize("size", [7, 32, 53])
def test_a_cutmix_ratio_is_the_area_that_truly_remains(size: int) -> None:
    plan = mix_plan(IDS[:300], 0, 1, 0.0, 1.0, size)
    black, white = np.zeros((300, size, size, 3), np.uint8), np.full((300, size, size, 3), 255, np.uint8)
    result = mix(black, white, plan.ratio, plan.box).numpy()
    assert set(np.unique(result)) <= {0, 255}
    remaining = (result == 0).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(remaining, plan.ratio, atol=1e-6)
    # The ratio drawn, before clipping, would be another one.
    assert plan.ratio.mean() > 0.55


def test_mixup_is_the_weighted_mean() -> None:
    images = pictures(64, 12)
    plan = mix_plan(IDS[:64], 0, 1, 1.0, 0.0, 12)
    share = plan.ratio[:, None, None, None].astype(np.float64)
    expected = share * images + (1 - share) * images[plan.partner]
    assert np.abs(mixed(plan, images) - expected).max() <= 0.51
    assert (mixed(plan, images) != images).any()


def test_one_by_one_and_in_a_pipeline_the_bits_are_those_of_the_batch() -> None:
    images = pictures(40, 15)
    plan = mix_plan(IDS[:40], 0, 1, 0.4, 1.0, 15)
    batch = mixed(plan, images)
    columns = (images, images[plan.partner], plan.ratio, plan.box)
    single = np.stack([mix(*(column[n] for column in columns)) for n in range(40)])
    dataset = tf.data.Dataset.from_tensor_slices(columns).map(mix, num_parallel_calls=4)
    np.testing.assert_array_equal(single, batch)
    np.testing.assert_array_equal(np.stack(list(dataset.as_numpy_iterator())), batch)


def test_labels_are_mixed_as_the_images() -> None:
    labels = np.eye(3, dtype=np.float32)
    result = mixed_labels(labels, labels[[1, 1, 0]], np.array([0.25, 0.6, 1.0], np.float32))
    np.testing.assert_allclose(result, np.array([[0.25, 0.75, 0], [0, 1, 0], [0, 0, 1]]))
