"""Augmentation: a pure function of its key, neutral when its knobs are, and right in its geometry."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from kerastl.modality.draws import example_keys
from kerastl.modality.image.augment import (
    CROP_HIGHEST_ASPECT,
    CROP_LOWEST_ASPECT,
    FIXED_DRAWS,
    _random_crop,
    augment,
    batch_augment,
)
from kerastl.modality.image.policy import OPERATIONS
from kerastl.modality.image.warp import affine, warp
from kerastl.recipe.schema import AugmentRecipe

NEUTRAL = AugmentRecipe(
    level="none",
    views=2,
    horizontal_flip=False,
    crop_min_area=1.0,
    color=0.0,
    rotation_degrees=0.0,
    erase_probability=0.0,
    policy_operations=0,
    policy_magnitude=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
)
KNOBS: dict[str, dict[str, Any]] = {
    "flip": {"horizontal_flip": True},
    "crop": {"crop_min_area": 0.35},
    "color": {"color": 0.3},
    "rotation": {"rotation_degrees": 20.0},
    "erase": {"erase_probability": 1.0},
    "policy": {"policy_operations": 3, "policy_magnitude": 0.7},
}
EVERYTHING = replace(NEUTRAL, **{name: value for knob in KNOBS.values() for name, value in knob.items()})


def photographs(count: int, height: int = 37, width: int = 53) -> np.ndarray:
    """Smooth coloured blobs with some noise: uint8 [count, height, width, 3]."""
    random = np.random.default_rng(5)
    coarse = random.uniform(0, 255, (count, 4, 5, 3)).astype(np.float32)
    fine = tf.image.resize(coarse, [height, width], method="bicubic").numpy()
    return np.clip(fine + random.normal(0, 6, fine.shape), 0, 255).astype(np.uint8)


PHOTOGRAPHS = photographs(48)
KEYS = example_keys([f"class/{n}.png" for n in range(48)], seed=3, view=1)


@functools.cache
def traced(recipe: AugmentRecipe) -> Any:
    """Tracing takes longer than a test's images, so each recipe is traced once."""
    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)]
    return tf.function(lambda image, key: augment(image, key, recipe), input_signature=signature)


def augmented(recipe: AugmentRecipe, pixels: np.ndarray = PHOTOGRAPHS, keys: np.ndarray = KEYS) -> np.ndarray:
    """All images, through tf.data with parallel calls."""
    dataset = tf.data.Dataset.from_tensor_slices((pixels, keys))
    dataset = dataset.map(traced(recipe), num_parallel_calls=8)
    return np.stack(list(dataset.as_numpy_iterator()))


@pytest.fixture(scope="module")
def with_everything() -> np.ndarray:
    return augmented(EVERYTHING)


def test_neutral_knobs_leave_every_bit_as_it_is() -> None:
    np.testing.assert_array_equal(augmented(NEUTRAL), PHOTOGRAPHS)
    half_off = replace(NEUTRAL, policy_operations=2), replace(NEUTRAL, policy_magnitude=0.9)
    for recipe in half_off:
        np.testing.assert_array_equal(augmented(recipe, PHOTOGRAPHS[:3], KEYS[:3]), PHOTOGRAPHS[:3])


@pytest.mark.parametrize("knob", KNOBS)
def test_each_knob_changes_pixels_and_keeps_shape_and_type(knob: str) -> None:
    result = augmented(replace(NEUTRAL, **KNOBS[knob]), PHOTOGRAPHS[:16], KEYS[:16])
    assert result.shape == PHOTOGRAPHS[:16].shape
    assert result.dtype == np.uint8
    changed = (result != PHOTOGRAPHS[:16]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.3


def test_the_same_key_gives_the_same_bits_everywhere(with_everything: np.ndarray) -> None:
    eager = np.stack(
        [
            augment(tf.constant(p), tf.constant(k), EVERYTHING)
            for p, k in zip(PHOTOGRAPHS[:8], KEYS[:8], strict=True)
        ]
    )
    np.testing.assert_array_equal(eager, with_everything[:8])
    np.testing.assert_array_equal(
        batch_augment(PHOTOGRAPHS[3:9], KEYS[3:9], EVERYTHING), with_everything[3:9]
    )
    backwards = tf.data.Dataset.from_tensor_slices((PHOTOGRAPHS[::-1], KEYS[::-1])).batch(7)
    backwards = backwards.map(
        lambda images, keys: batch_augment(images, keys, EVERYTHING), num_parallel_calls=2
    )
    np.testing.assert_array_equal(np.concatenate(list(backwards.as_numpy_iterator()))[::-1], with_everything)


def test_another_view_seed_or_example_gives_other_pixels(with_everything: np.ndarray) -> None:
    ids = [f"class/{n}.png" for n in range(6)]
    others = (
        example_keys(ids, 3, 2),
        example_keys(ids, 4, 1),
        example_keys([name + "x" for name in ids], 3, 1),
    )
    same = np.repeat(PHOTOGRAPHS[:1], 6, axis=0)
    result = augmented(
        EVERYTHING, np.concatenate([*[PHOTOGRAPHS[:6]] * 3, same]), np.concatenate([*others, KEYS[:6]])
    )
    for start in (0, 6, 12):
        assert (result[start : start + 6] != with_everything[:6]).any(axis=(1, 2, 3)).all()
    assert len({image.tobytes() for image in result[18:]}) == 6


def test_keys_belong_to_the_example_alone() -> None:
    ids = ["a/1.png", "b/2.png", "ümläut.png", "dangling\udcff.png"]
    keys = example_keys(ids, seed=0, view=1)
    assert keys.dtype == np.int32
    assert keys.shape == (4, 2)
    np.testing.assert_array_equal(example_keys(np.array(ids[1:3]), 0, 1), keys[1:3])
    np.testing.assert_array_equal(example_keys(ids[::-1], 0, 1), keys[::-1])
    # Written down, so that a change of the hash, which would make old runs unrepeatable, is noticed.
    assert keys[0].tolist() == FIRST_KEY
    # "1" and "11" next to view and seed must not run into each other.
    assert len({tuple(example_keys(["x"], s, v)[0]) for s in (0, 1, 11) for v in (0, 1, 11)}) == 9
    many = example_keys([str(n) for n in range(100_000)], 0, 1)
    assert len(np.unique(many.view(np.int64))) == 100_000


FIRST_KEY = [-407982565, -249566561]


def test_one_knob_does_not_move_the_choices_of_another() -> None:
    flip_only = augmented(replace(NEUTRAL, horizontal_flip=True))
    flipped = (flip_only == PHOTOGRAPHS[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flip_only[flipped], PHOTOGRAPHS[flipped][:, :, ::-1])
    # With the policy more numbers are drawn; the first of them stay the same.
    for key in KEYS[:5]:
        short = tf.random.stateless_uniform([FIXED_DRAWS], seed=key, alg="philox")
        long = tf.random.stateless_uniform([FIXED_DRAWS + 14], seed=key, alg="philox")
        np.testing.assert_array_equal(short, long[:FIXED_DRAWS])
    erased = augmented(replace(NEUTRAL, erase_probability=1.0)) != PHOTOGRAPHS
    flipped_and_erased = augmented(replace(NEUTRAL, erase_probability=1.0, horizontal_flip=True)) != flip_only
    # A pixel that happens to have the fill's colour counts as untouched.
    assert (erased.any(-1) != flipped_and_erased.any(-1)).mean() < 0.01


def test_half_of_the_images_are_mirrored() -> None:
    keys = example_keys([str(n) for n in range(1000)], 0, 1)
    tiny = np.repeat(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), 1000, axis=0)
    mirrored = (augmented(replace(NEUTRAL, horizontal_flip=True), tiny, keys)[:, 0, 0, 0] == 3).mean()
    assert 0.45 < mirrored < 0.55


def test_crops_have_the_wanted_areas_and_shapes() -> None:
    for smallest in (0.35, 0.9):
        draws = tf.constant(np.random.default_rng(0).random((16, 20_000)), tf.float32)
        top, left, height, width = (value.numpy() for value in _random_crop(draws, smallest))
        areas, aspects = height * width, width / height
        assert areas.min() > smallest - 1e-5
        assert areas.max() <= 1
        assert areas.mean() == pytest.approx((1 + smallest) / 2, abs=0.01)
        assert aspects.min() > CROP_LOWEST_ASPECT - 1e-5
        assert aspects.max() < CROP_HIGHEST_ASPECT + 1e-5
        assert abs(np.log(aspects).mean()) < 0.01
        assert min(top.min(), left.min()) >= 0
        assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6


def moved(pixels: np.ndarray, **moves: Any) -> np.ndarray:
    height, width = pixels.shape[:2]
    result = warp(tf.constant(pixels, tf.float32), affine(height, width, **moves))
    return np.clip(np.rint(result.numpy()), 0, 255).astype(np.uint8)


def test_rotation_is_in_degrees_counter_clockwise() -> None:
    square = photographs(1, 37, 37)[0]
    for turns in range(-3, 4):
        np.testing.assert_array_equal(moved(square, rotation_degrees=90.0 * turns), np.rot90(square, turns))
    odd = PHOTOGRAPHS[0]
    np.testing.assert_array_equal(moved(odd, rotation_degrees=180.0), np.rot90(odd, 2))
    # A rotation by 1 is a degree, not a turn or a radian: it hardly moves the middle.
    assert np.abs(moved(odd, rotation_degrees=1.0).astype(int) - odd)[10:-10, 15:-15].mean() < 8


def test_warps_put_pixels_where_they_belong() -> None:
    image = photographs(1, 40, 60)[0]
    np.testing.assert_array_equal(moved(image), image)
    np.testing.assert_array_equal(moved(image, mirror=True), image[:, ::-1])
    np.testing.assert_array_equal(moved(image, translate_x=0.25)[:, 15:], image[:, :-15])
    np.testing.assert_array_equal(moved(image, translate_y=-0.1)[:-4], image[4:])
    # A crop is what Pillow makes of the same box (away from the border, where Pillow sees only the box).
    box = (0.25, 0.2, 0.5, 0.5)
    expected = Image.fromarray(image).resize((60, 40), Image.Resampling.BILINEAR, box=(12, 10, 42, 30))
    difference = np.abs(moved(image, crop=box).astype(int) - np.asarray(expected))[2:-2, 2:-2]
    assert difference.max() <= 2


def test_rotation_leaves_no_black_corners() -> None:
    bright = np.full((8, 37, 53, 3), 180, np.uint8)
    recipe = replace(NEUTRAL, rotation_degrees=180.0, crop_min_area=0.5, horizontal_flip=True)
    assert (augmented(recipe, bright, KEYS[:8]) == 180).all()


def test_colour_changes_stay_sensible() -> None:
    keys = example_keys([str(n) for n in range(480)], 0, 1)
    pixels = np.repeat(PHOTOGRAPHS // 2 + 64, 10, axis=0)
    result = augmented(replace(NEUTRAL, color=0.2), pixels, keys)
    relative = result.mean(axis=(1, 2, 3)) / pixels.mean(axis=(1, 2, 3))
    assert 0.78 < relative.min() < 0.85
    assert 1.15 < relative.max() < 1.22
    assert relative.mean() == pytest.approx(1.0, abs=0.02)
    spread = result.std(axis=(1, 2, 3)) / pixels.std(axis=(1, 2, 3))
    assert spread.min() < 0.8 < 1.2 < spread.max()
    greys = np.repeat(pixels[:, :, :, :1], 3, axis=3)
    changed = augmented(replace(NEUTRAL, color=0.5), greys[:20], keys[:20]).astype(int)
    assert (np.ptp(changed, axis=3) <= 1).all()  # saturation leaves grey grey


def test_erasing_fills_one_rectangle_with_the_mean() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (200, 40, 60, 3), np.uint8)
    keys = example_keys([str(n) for n in range(200)], 0, 1)
    result = augmented(replace(NEUTRAL, erase_probability=1.0), noise, keys)
    shares = []
    for before, after in zip(noise, result, strict=True):
        rows, columns = np.nonzero((before != after).any(-1))
        inside = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside == np.rint(before.mean(axis=(0, 1)))).all()
        shares.append(inside.shape[0] * inside.shape[1] / (40 * 60))
    assert 0.01 < min(shares) < 0.06
    assert 0.29 < max(shares) < 0.36
    half = augmented(replace(NEUTRAL, erase_probability=0.5), noise, keys)
    assert 0.4 < (half != noise).any(axis=(1, 2, 3)).mean() < 0.6


def operated(name: str, pixels: np.ndarray, strength: float, side: float = 1.0) -> np.ndarray:
    result = OPERATIONS[name](tf.constant(pixels, tf.float32), tf.constant(strength), tf.constant(side))
    return np.clip(np.rint(result.numpy()), 0, 255).astype(np.uint8)


def test_policy_operations_do_what_pillow_does() -> None:
    pixels = PHOTOGRAPHS[1] // 2 + 30
    picture = Image.fromarray(pixels)
    np.testing.assert_array_equal(operated("equalize", pixels, 0.5), np.asarray(ImageOps.equalize(picture)))
    np.testing.assert_array_equal(
        operated("posterize", pixels, 1.0), np.asarray(ImageOps.posterize(picture, 4))
    )
    np.testing.assert_array_equal(
        operated("solarize", pixels, 0.5), np.asarray(ImageOps.solarize(picture, 128))
    )
    contrasted = np.asarray(ImageOps.autocontrast(picture)).astype(int)
    assert np.abs(operated("autocontrast", pixels, 0.5) - contrasted).max() <= 1
    assert operated("brightness", pixels, 1.0).mean() > 1.5 * pixels.mean()
    assert operated("brightness", pixels, 1.0, -1.0).mean() < 0.2 * pixels.mean()
    assert (
        np.ptp(operated("color", pixels, 1.0, -1.0).astype(int), axis=2).mean()
        < 0.2 * np.ptp(pixels, axis=2).mean()
    )
    assert operated("contrast", pixels, 1.0, -1.0).std() < 0.2 * pixels.std()
    blurred = np.abs(np.diff(operated("sharpness", pixels, 1.0, -1.0).astype(int), axis=1)).mean()
    assert blurred < np.abs(np.diff(pixels.astype(int), axis=1)).mean()


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_policy_operations_without_strength_change_nothing(name: str) -> None:
    pixels = PHOTOGRAPHS[2]
    np.testing.assert_array_equal(operated(name, pixels, 0.0), pixels)
    if name != "identity":
        assert (operated(name, pixels, 1.0) != pixels).any()


def test_policy_survives_images_of_one_colour() -> None:
    for level in (0, 7, 255):
        flat = np.full((9, 5, 3), level, np.uint8)
        for name in OPERATIONS:
            assert operated(name, flat, 1.0).shape == flat.shape
        assert (operated("equalize", flat, 1.0) == level).all()
        assert (operated("autocontrast", flat, 1.0) == level).all()


def test_an_unresolved_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augment\.color is not given"):
        augment(tf.constant(PHOTOGRAPHS[0]), tf.constant(KEYS[0]), replace(EVERYTHING, color=None))
