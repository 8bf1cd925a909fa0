"""Views and frozen features: pure functions of their inputs, one forward pass each, bounded disk."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from kerastl.backbones import get_backbone
from kerastl.features import extract as extract_module
from kerastl.features.arrays import new_array
from kerastl.features.extract import extract
from kerastl.features.views import Views
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import cut
from kerastl.progress import Progress
from kerastl.recipe import AugmentRecipe, HeadRecipe
from kerastl.recipe.rule import resolve_augment
from kerastl.writing import NoSpaceError

SIZE = 32
POINT = "conv_pw_6_relu"


def views(count: int = 10, **augment: object) -> Views:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    targets = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
    ids = np.array([f"image-{index}" for index in range(count)], object)
    recipe = resolve_augment(AugmentRecipe(**augment), count)  # type: ignore[arg-type]
    return Views(pixels, targets, ids, recipe, seed=7)


@pytest.fixture(scope="module")
def network() -> Network:
    keras.utils.set_random_seed(0)
    spec = get_backbone("mobilenet_025")
    return build_model(build_backbone(spec, SIZE), spec, HeadRecipe(), class_count=3)


def test_view_0_is_the_image_itself_and_others_are_not() -> None:
    images = views(level="medium")
    everything = np.arange(10)
    np.testing.assert_array_equal(images.images(everything, 0), images.pixels)
    assert all((images.images(everything, view) != images.pixels).any() for view in (1, 2))


def test_a_view_does_not_depend_on_who_else_is_in_the_batch() -> None:
    images = views(level="medium")
    whole = images.images(np.arange(10), 1)
    np.testing.assert_array_equal(whole[[7, 2]], images.images(np.array([7, 2]), 1))
    fewer = dataclasses.replace(
        images, pixels=images.pixels[5:], targets=images.targets[5:], ids=images.ids[5:]
    )
    np.testing.assert_array_equal(whole[5:], fewer.images(np.arange(5), 1))
    other = dataclasses.replace(images, seed=8)
    assert (other.images(np.arange(10), 1) != whole).any()


def test_mixed_views_carry_mixed_labels_that_fit_their_pixels() -> None:
    images = views(level="none", mixup_alpha=1.0)
    flat = dataclasses.replace(
        images,
        pixels=np.repeat(np.arange(10, dtype=np.uint8) * 20, SIZE * SIZE * 3).reshape(-1, SIZE, SIZE, 3),
    )
    labels = flat.labels(np.arange(10), 1)
    assert labels.sum(axis=1) == pytest.approx(np.ones(10))
    assert ((labels > 0).sum(axis=1) == 2).any(), "the control: some labels are soft"
    np.testing.assert_array_equal(flat.labels(np.arange(10), 0), flat.targets)
    mixed = flat.images(np.arange(10), 1)
    assert (mixed == mixed[:, :1, :1, :1]).all(), "blends of flat images are flat"


def test_stored_features_are_the_networks_own_for_every_view(network: Network, tmp_path: Path) -> None:
    parts, images = cut(network, POINT), views(level="light")
    found = extract(parts, images, 3, tmp_path, activations=True, batch_size=4)
    for view in range(3):
        pixels = images.images(np.arange(10), view).astype(np.float32)
        np.testing.assert_allclose(found.pooled[view], parts.pooled(pixels), rtol=1e-4, atol=1e-5)
        stored = found.activation_batch(np.arange(10), view)
        np.testing.assert_allclose(stored, parts.prefix(pixels), rtol=2e-3, atol=1e-3)
    assert (found.pooled[1] != found.pooled[0]).any()


def test_features_do_not_depend_on_how_many_images_there_are(network: Network, tmp_path: Path) -> None:
    parts, images = cut(network, POINT), views(level="none")
    few = dataclasses.replace(
        images, pixels=images.pixels[:3], targets=images.targets[:3], ids=images.ids[:3]
    )
    all_of_them = extract(parts, images, 1, tmp_path / "all", activations=True, batch_size=8)
    three = extract(parts, few, 1, tmp_path / "three", activations=True, batch_size=8)
    np.testing.assert_array_equal(all_of_them.pooled[0][:3], three.pooled[0])
    np.testing.assert_array_equal(all_of_them.activations[0][:3], three.activations[0])


def test_without_room_on_the_disk_activations_are_computed_live_and_are_the_same(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, images = cut(network, POINT), views(level="light")
    stored = extract(parts, images, 2, tmp_path / "stored", activations=True, batch_size=4)
    warnings: list[str] = []

    class Listener(Progress):
        def warn(self, message: str) -> None:
            warnings.append(message)

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(extract_module.shutil, "disk_usage", lambda path: usage)
    live = extract(parts, images, 2, tmp_path / "live", activations=True, batch_size=4, progress=Listener())
    assert "computed anew" in warnings[0] and not live.activations and live.live is not None
    for view in range(2):
        positions = np.array([9, 0, 4, 1, 2])
        np.testing.assert_array_equal(
            live.activation_batch(positions, view), stored.activation_batch(positions, view)
        )
        np.testing.assert_array_equal(live.pooled[view], stored.pooled[view])


def test_a_batch_may_hold_each_image_in_a_view_of_its_own(network: Network, tmp_path: Path) -> None:
    parts, images = cut(network, POINT), views(level="light", mixup_alpha=0.5)
    found = extract(parts, images, 3, tmp_path, activations=True, batch_size=4)
    positions, each = np.array([4, 9, 0, 7]), np.array([2, 0, 1, 2])
    for read in (images.images, images.labels, found.pooled_batch, found.activation_batch):
        one_by_one = [read(positions[i : i + 1], int(each[i]))[0] for i in range(4)]
        np.testing.assert_array_equal(read(positions, each), np.stack(one_by_one))
    assert (found.pooled_batch(positions, each) != found.pooled_batch(positions, 0)).any()


def test_at_the_input_the_activations_are_the_pixels(network: Network, tmp_path: Path) -> None:
    images = views(level="light")
    found = extract(cut(network, "input"), images, 2, tmp_path, activations=True, batch_size=4)
    batch = found.activation_batch(np.array([3, 1]), 1)
    np.testing.assert_array_equal(batch, images.images(np.array([3, 1]), 1))


def test_activations_beyond_sixteen_bits_are_stored_in_thirty_two(tmp_path: Path) -> None:
    spec = get_backbone("mobilenet_025")
    network = build_model(build_backbone(spec, SIZE), spec, HeadRecipe(), class_count=3)
    parts = cut(network, POINT)
    scale = keras.Model(parts.prefix.inputs[0], parts.prefix.outputs[0] * 1e6 + 1e5)
    huge = dataclasses.replace(
        parts, prefix=scale, both=keras.Model(scale.inputs, [scale.outputs[0], parts.pooled(scale.inputs[0])])
    )
    found = extract(huge, views(level="none"), 1, tmp_path, activations=True, batch_size=4)
    assert found.activations[0].dtype == np.float32
    assert np.isfinite(found.activations[0]).all() and found.activations[0].max() >= 1e5


def test_a_full_disk_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError, match=r"array\.npy"):
        new_array(tmp_path / "array.npy", (100, 100), np.float32)
    assert not list(tmp_path.iterdir())
