"""Decoded images are kept only where they are read again; else they go from the files through the network in one stream."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import small_backbone_file
from test_features import Said

from kerastl.data.examples import Splits
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.content_keys import names_of
from kerastl.features.decoded import decode_splits, lost_examples_named
from kerastl.features.inputs import AGAIN, CHECKED, Inputs, decode_split
from kerastl.jobs.measure import logits_of
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import Setup, set_up
from kerastl.modality.image import Image
from kerastl.progress import Progress
from kerastl.recipe import Recipe, load_recipe
from kerastl.store.block import BLOCK

SIZE = 32
IMAGE_BYTES = SIZE * SIZE * 3


def recipe_for(data: Path, folder: Path, **changes: Any) -> tuple[Recipe, Splits]:
    flags = {
        "data.source": str(data), "backbone.name": small_backbone_file(),
        "augment.views": 1, "head_phase.epochs": 1, "finetune_phase.epochs": 1, "cache.mode": "auto",
        "finetune_phase.unfreeze_from": "block1_out", "cache.directory": str(folder / "store"),
    }  # fmt: skip
    return open_splits(load_recipe(flags=flags | {key.replace("__", "."): v for key, v in changes.items()}))


def begun(
    recipe: Recipe, splits: Splits, folder: Path, progress: Progress = Progress()
) -> tuple[Cache, Setup]:
    cache = Cache(recipe.cache, folder / "scratch")
    return cache, set_up(recipe, splits, cache, progress)


def all_rows(start: Setup) -> list[np.ndarray]:
    """Every feature of every view of both splits."""
    found = []
    for features in (start.train, start.validation):
        every = np.arange(features.count)
        for view in range(features.view_count):
            found += [features.pooled_batch(every, view)]
            found += keras.tree.flatten(features.activation_batch(every, view))
    return found


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def pixel_bytes(folder: Path) -> int:
    """Of decoded images anywhere below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(f"inputs_*/*{BLOCK}"))


@pytest.fixture
def data(solid_colours: Path, tmp_path: Path) -> Path:
    shutil.copytree(solid_colours, tmp_path / "data")
    return tmp_path / "data"


def no_room(monkeypatch: pytest.MonkeyPatch, free: int = 0) -> None:
    """Neither on the disk nor in memory."""
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr("kerastl.store.store_folder.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: 0)


@pytest.mark.parametrize("mode", ["auto", "disk", "memory"])
def test_one_view_is_one_stream_and_leaves_no_decoded_image_behind(
    data: Path, tmp_path: Path, decode_counts: list[int], mode: str
) -> None:
    recipe, splits = recipe_for(data, tmp_path, cache__mode=mode)
    cache, start = begun(recipe, splits, tmp_path)
    counts = splits.counts()
    with cache:
        rows = all_rows(start)
        logits_of(start, "finetune_phase", "test")
        assert sum(decode_counts) == sum(counts.values()) == start.frozen.forward_passes
        assert pixel_bytes(tmp_path) == 0
    kept_recipe, _ = recipe_for(data, tmp_path / "kept", cache__mode=mode)
    with Cache(kept_recipe.cache, tmp_path / "kept" / "scratch") as other:
        decode_splits(kept_recipe, splits, other, Progress(), reading=AGAIN)
        start = set_up(kept_recipe, splits, other)
        assert_same(all_rows(start), rows)
    if mode != "memory":
        assert pixel_bytes(tmp_path / "kept") > IMAGE_BYTES * sum(counts.values()), "the control: kept images"


def test_a_later_run_of_the_same_decodes_nothing(
    data: Path, tmp_path: Path, decode_counts: list[int]
) -> None:
    recipe, splits = recipe_for(data, tmp_path)
    for _ in range(2):
        decode_counts.clear()
        cache, start = begun(recipe, splits, tmp_path)
        with cache:
            logits_of(start, "head_phase", "test")
    assert decode_counts == [] and start.frozen.forward_passes == 0


@pytest.mark.parametrize("changes", [{"augment__views": 2}, {"finetune_phase__unfreeze_from": "input"}])
def test_what_is_read_again_is_kept(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe, splits = recipe_for(data, tmp_path, **changes)
    cache, start = begun(recipe, splits, tmp_path)
    with cache:
        all_rows(start)
    assert pixel_bytes(tmp_path / "store") > IMAGE_BYTES * sum(splits.counts().values())


def test_without_a_cache_nothing_is_written_and_the_result_is_the_same(data: Path, tmp_path: Path) -> None:
    recipe, splits = recipe_for(data, tmp_path, cache__mode="off", cache__dtype="float32")
    cache, start = begun(recipe, splits, tmp_path)
    with cache:
        rows = all_rows(start)
    assert not (tmp_path / "store").exists() and not (tmp_path / "scratch").exists()
    recipe, splits = recipe_for(data, tmp_path, cache__dtype="float32")
    cache, start = begun(recipe, splits, tmp_path)
    with cache:
        assert_same(all_rows(start), rows)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_where_there_is_room_nowhere_images_are_decoded_anew_and_all_is_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    changes = {
        "augment__views": 3,
        "augment__level": "strong",
        "cache__dtype": "float32",
    }  # mixes images, too
    recipe, splits = recipe_for(data, tmp_path, **changes)
    cache, start = begun(recipe, splits, tmp_path)
    with cache:
        rows = all_rows(start)
    no_room(monkeypatch)
    said = Said()
    recipe, splits = recipe_for(data, tmp_path / "none", cache__mode=mode, **changes)
    cache, start = begun(recipe, splits, tmp_path / "none", said)
    with cache:
        assert not start.prepared.inputs["train"].kept
        assert_same(all_rows(start), rows)
        assert pixel_bytes(tmp_path / "none") == 0
    assert any("are not kept" in line and "decoded whenever it is read" in line for line in said.lines)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_found_and_the_result_is_the_same(
    data: Path, tmp_path: Path, decode_counts: list[int]
) -> None:
    recipe, splits = recipe_for(data, tmp_path, data__max_unreadable_fraction=0.1)
    bad = splits.train.ids[[3, 20]]
    for name in bad:
        (data / name).write_bytes(f"no picture {name}".encode())  # of equal ones one is looked at
    recipe, splits = recipe_for(data, tmp_path, data__max_unreadable_fraction=0.1)
    bad = [name for name in bad if name in set(splits.train.ids)]
    said = Said()
    cache, start = begun(recipe, splits, tmp_path, said)
    with cache:
        rows = all_rows(start)
    assert set(start.prepared.unreadable) >= set(bad) and start.train.count == splits.train.count - len(bad)
    assert any("cannot be read" in line and "looked at first" in line for line in said.lines)
    kept, _ = recipe_for(data, tmp_path / "kept", data__max_unreadable_fraction=0.1)
    with Cache(kept.cache, tmp_path / "kept" / "scratch") as other:
        decode_splits(kept, splits, other, Progress(), reading=AGAIN)
        assert_same(all_rows(set_up(kept, splits, other)), rows)
    decode_counts.clear()
    cache, start = begun(recipe, splits, tmp_path)
    with cache:
        assert start.frozen.forward_passes == 0 and set(start.prepared.unreadable) >= set(bad)
    assert sum(decode_counts) == len(start.prepared.unreadable), "only they are looked at again"


def test_images_are_kept_after_all_where_activations_turn_out_to_be_live(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Cache.places

    def no_activations(cache: Cache, missing: dict[str, int], *rest: Any, **more: Any) -> dict[str, str]:
        return {
            **places(cache, missing, *rest, **more),
            **({"activation": "live"} if "activation" in missing else {}),
        }

    monkeypatch.setattr(Cache, "places", no_activations)
    recipe, splits = recipe_for(data, tmp_path)
    said = Said()
    cache, start = begun(recipe, splits, tmp_path, said)
    with cache:
        all_rows(start)
        assert pixel_bytes(tmp_path / "store") > IMAGE_BYTES * (splits.train.count + splits.validation.count)
    assert any("Images are read in every epoch" in line for line in said.lines)


@pytest.mark.slow
def test_a_file_that_vanishes_is_named_though_tensorflow_reads_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room(monkeypatch)
    recipe, splits = recipe_for(data, tmp_path)
    cache, start = begun(recipe, splits, tmp_path)
    (data / splits.train.ids[5]).unlink()
    read = start.prepared.inputs["train"]
    dataset = tf.data.Dataset.range(9).map(
        lambda at: tf.numpy_function(lambda n: read[np.array([n])]["pixels"], [at], tf.uint8)
    )
    named = rf"{splits.train.ids[5]} could be read when .* cannot now"
    with cache, pytest.raises(DataError, match=named) as raised, lost_examples_named(start.prepared):
        list(dataset)
    frames = [frame.name for frame in raised.traceback]
    assert "in_turn" not in frames, "what it holds would be let go of when the process has ended, by an abort"


def test_what_is_read_from_the_front_is_streamed_or_kept_but_never_read_at_random(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, splits = recipe_for(data, tmp_path)
    front = dataclasses.replace(splits.train.examples, place="tfds:made up")
    split = dataclasses.replace(splits.train, examples=front)

    def made(reading: str, at_random: bool) -> Any:
        with Cache(recipe.cache, tmp_path / "scratch") as cache:
            part = split if not at_random else splits.train
            return decode_split(part, Image(SIZE), cache, Progress(), reading)[0]

    assert not made(CHECKED, at_random=False).kept
    no_room(monkeypatch, free=10**9)
    shutil.rmtree(tmp_path / "store")
    recipe = dataclasses.replace(recipe, cache=dataclasses.replace(recipe.cache, max_gigabytes=1e-6))
    assert made(AGAIN, at_random=False).kept
    assert pixel_bytes(tmp_path / "scratch") > IMAGE_BYTES * split.count
    assert not made(AGAIN, at_random=True).kept, "the control: files are read at random"


def test_the_stream_decodes_no_further_ahead_than_it_computes(data: Path, tmp_path: Path) -> None:
    """Whatever the number of images, a few batches of them are in memory."""
    _, splits = recipe_for(data, tmp_path)
    inputs = Inputs(splits.train, names_of(splits.train), Image(SIZE), CHECKED)
    batches = [np.arange(start, start + 8) for start in range(0, 40, 8)]
    held = (batch["pixels"] for batch in inputs.in_turn(batches))
    assert next(held).shape == (8, SIZE, SIZE, 3)
    np.testing.assert_array_equal(np.concatenate(list(held)), inputs[np.arange(8, 40)]["pixels"])
    some = inputs[np.array([7, 3, 7])]["pixels"]
    np.testing.assert_array_equal(some, inputs[np.arange(8)]["pixels"][[7, 3, 7]])
