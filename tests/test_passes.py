"""Each image runs through the frozen part once in each view, whoever else runs, whatever was interrupted before."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from test_features import POINT, SIZE, Said, frozen_at, images_digest_of, views

from kerastl.backbones import get_backbone
from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features
from kerastl.features.sealing import MANIFEST
from kerastl.features.unit import Unit
from kerastl.features.views import FrozenViews, Views
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import cut
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe, HeadRecipe, load_recipe
from kerastl.writing import NoSpaceError

LATER, EARLIER = "conv_pw_11_relu", "conv_pw_3_relu"
ROW_BYTES = 3 * 256 * 4 + 2 * 2 * 128 * 2  # pooled features, and activations at POINT in sixteen bits


def new_network() -> Network:
    keras.utils.set_random_seed(0)
    spec = get_backbone("mobilenet_025")
    return build_model(build_backbone(spec, SIZE), spec, HeadRecipe(), class_count=3)


@pytest.fixture(scope="module")
def network() -> Network:
    return new_network()


def cache_at(folder: Path, **settings: Any) -> Cache:
    return Cache(CacheRecipe(directory=str(folder / "store"), **settings), folder / "scratch")


def run(
    frozen: Frozen,
    images: Views,
    view_count: int,
    cache: Cache,
    progress: Progress = Progress(),
    epochs: int = 10,
) -> Features:
    split = FrozenViews("train", images, view_count, {"images": images_digest_of(images)}, {"data": "noise"})
    wanted = Wanted("avg", pooled=True, activations=True, finetune_epochs=epochs)
    (found,) = extract(frozen, [split], cache, wanted, progress)
    return found


def stopped_after_a_shard(network: Network, images: Views, view_count: int, cache: Cache) -> None:
    """A build that ends in the middle, with its space reserved and shard 0 in the journal."""
    write = Unit.write

    def stop(unit: Unit, shard: int, *rest: object) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        write(unit, shard, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, cache, pytest.raises(KeyboardInterrupt):
        patch.setattr(Unit, "write", stop)
        run(frozen_at(network, POINT), images, view_count, cache)


def overflowing(network: Network, point: str) -> Frozen:
    """The frozen part of a network whose activations do not fit sixteen bits."""
    parts = cut(network, point)
    huge = keras.Model(parts.prefix.inputs[0], parts.prefix.outputs[0] * 1e6 + 1e5)
    both = keras.Model(huge.inputs, [huge.outputs[0], parts.pooled(huge.inputs[0])])
    return Frozen(dataclasses.replace(parts, prefix=huge, both=both), network.backbone)


@pytest.mark.parametrize("mode", ["auto", "disk"])
def test_a_build_that_was_stopped_goes_on_in_the_room_that_it_has(
    network: Network, tmp_path: Path, mode: str
) -> None:
    images, said = views(300, level="none"), Said()
    gigabytes = 1.2 * 300 * ROW_BYTES / 1e9
    stopped_after_a_shard(network, images, 1, cache_at(tmp_path, mode="disk", max_gigabytes=gigabytes))
    frozen = frozen_at(network, POINT)
    with cache_at(tmp_path, mode=mode, max_gigabytes=gigabytes) as cache:
        run(frozen, images, 1, cache, said)
        assert all(unit.complete for unit in cache.store.units()) and len(cache.store.units()) == 2
    assert frozen.forward_passes == 300 - 256
    assert said.lines[-1] == "Features of train: 44 forward passes"
    other = views(300, level="none")
    other = dataclasses.replace(other, ids=other.ids + "x")
    with cache_at(tmp_path, mode="disk", max_gigabytes=gigabytes / 1.3) as cache, pytest.raises(NoSpaceError):
        run(frozen_at(network, POINT), other, 1, cache)  # the control: another build finds no room


def test_what_is_timed_are_rows_that_are_missing(network: Network, tmp_path: Path) -> None:
    images, said, frozen = views(300, level="light"), Said(), frozen_at(network, POINT)
    stopped_after_a_shard(network, images, 2, cache_at(tmp_path, mode="disk"))
    with cache_at(tmp_path, mode="auto") as cache:
        run(frozen, images, 2, cache, said)
    assert frozen.forward_passes == 2 * 300 - 256
    assert "kept in" in said.lines[0] and said.lines[-1] == "Features of train: 344 forward passes"


def test_a_single_batch_is_timed_by_the_one_time_that_it_runs(network: Network, tmp_path: Path) -> None:
    frozen, calls = frozen_at(network, POINT), []
    once = frozen.run
    frozen.run = lambda images, **which: (calls.append(len(images)), once(images, **which))[1]  # type: ignore[method-assign,assignment]
    with cache_at(tmp_path, mode="auto") as cache:
        run(frozen, views(10, level="light"), 2, cache)
    assert calls == [10, 10] and frozen.forward_passes == 20


def test_forward_passes_of_all_attempts_are_told(network: Network, tmp_path: Path) -> None:
    frozen, said = overflowing(network, POINT), Said()
    with cache_at(tmp_path, mode="disk") as cache:
        run(frozen, views(100, level="none"), 1, cache, said)
    assert frozen.forward_passes > 100, "the control: the first attempt ran some images"
    assert said.lines[-1] == f"Features of train: {frozen.forward_passes} forward passes"


TOGETHER = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_passes import *
folder, network = Path(sys.argv[1]), new_network()
frozen, images, said = frozen_at(network, POINT), views(100, level="light"), Said()
print("ready", flush=True)
sys.stdin.readline()
with cache_at(folder, mode="auto") as cache:
    run(frozen, images, 2, cache, said)
print(frozen.forward_passes, said.lines[-1], flush=True)
"""


def test_of_two_processes_that_begin_together_one_computes_all_and_the_other_nothing(tmp_path: Path) -> None:
    script = TOGETHER.format(tests=str(Path(__file__).parent))
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]  # fmt: skip
    for child in both:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in both:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = sorted(child.communicate(timeout=120)[0] for child in both)
    assert said == [
        "0 Features of train: read from the store, no forward pass\n",
        "200 Features of train: 200 forward passes\n",
    ]


@pytest.mark.parametrize("trouble", ["overflow", "full disk"])
def test_an_attempt_that_fails_lets_go_of_nothing_that_was_extracted_before(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    images = views(level="none")
    with cache_at(tmp_path, mode="auto") as cache:
        run(frozen_at(network, POINT), images, 1, cache)
        before = {unit.name for unit in cache.store.units()}
        if trouble == "full disk":
            write = Unit.write

            def full(unit: Unit, *rest: Any) -> None:
                raise NoSpaceError("the disk is full")

            monkeypatch.setattr(Unit, "write", full)
            run(frozen_at(network, LATER), images, 1, cache)
            monkeypatch.setattr(Unit, "write", write)
        else:
            run(overflowing(network, LATER), images, 1, cache)
        assert not any(cache.store.remove(name) for name in before), "they are still being read"
        run(frozen_at(network, EARLIER), images, 1, cache)
        dtypes = dict.fromkeys((POINT, LATER, EARLIER), "")
        for manifest in (tmp_path / "store").glob(f"activations-*/{MANIFEST}"):
            content = json.loads(manifest.read_text())
            dtypes[content["facts"]["unfreeze_point"]] = content["dtype"]
        assert dtypes == {
            POINT: "float16", LATER: "float32" if trouble == "overflow" else "", EARLIER: "float16"
        }  # fmt: skip
    assert all(cache.store.remove(name) for name in before), "the control: now nobody reads them"


def test_what_does_not_fit_sixteen_bits_is_known_whoever_kept_it_in_thirty_two(
    network: Network, tmp_path: Path
) -> None:
    images = views(level="none")
    for frozen, dtypes, passes in (
        (overflowing, ("float32", "auto"), [10, 0]),
        (frozen_at, ("float32", "auto"), [10, 10]),  # the control: what fits is kept in sixteen
    ):
        found = []
        for dtype in dtypes:
            part = frozen(network, POINT)
            with cache_at(tmp_path / frozen.__name__, mode="disk", dtype=dtype) as cache:
                run(part, images, 1, cache)
            found.append(part.forward_passes)
        assert found == passes


def test_where_there_is_room_nowhere_all_is_computed_live(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kerastl.features.store.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: 0)
    frozen, said = frozen_at(network, POINT), Said()
    with cache_at(tmp_path, mode="auto") as cache:
        found = run(frozen, views(level="none"), 1, cache, said)
        before = frozen.forward_passes
        found.pooled_batch(np.arange(10), 0)
        assert frozen.forward_passes == before + 10
    assert "pooled features computed live" in said.lines[0], said.lines
    assert any("in every epoch of the head phase" in line and "(31 KB)" in line for line in said.warnings)
    assert not list((tmp_path / "store").iterdir()), "no lock file is left of what was never built"


def test_a_store_without_locks_is_no_reason_to_stop(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    frozen = frozen_at(network, POINT)
    with cache_at(tmp_path, mode="auto") as cache:
        run(frozen, views(level="none"), 1, cache)
    assert frozen.forward_passes == 10


@pytest.mark.parametrize(
    ("mode", "winner"),
    [
        ("auto", "head_phase"),
        ("auto", "finetune_phase"),
        ("disk", "finetune_phase"),
        ("off", "finetune_phase"),
    ],
)
def test_a_whole_run_passes_each_image_and_view_once(
    solid_colours: Path, tmp_path: Path, mode: str, winner: str
) -> None:
    from kerastl.training.two_phase import transfer
    from kerastl.workflow.beginning import begin, logits_of
    from kerastl.workflow.prepare import decode_splits, open_splits

    flags = {
        "data.source": str(solid_colours), "backbone.name": "mobilenet_025", "backbone.image_size": 32,
        "augment.views": 2, "head_phase.epochs": 2, "finetune_phase.epochs": 1, "cache.mode": mode,
        "finetune_phase.unfreeze_from": LATER, "cache.directory": str(tmp_path / "store"),
    }  # fmt: skip
    recipe, splits = open_splits(load_recipe(flags=flags))
    with Cache(recipe.cache, tmp_path / "scratch") as cache:
        prepared = decode_splits(recipe, splits, cache, Progress())
        start = begin(prepared, cache)
        transfer(start.network, start.parts, start.train, start.validation, recipe)
        for name in ("validation", "test"):
            logits_of(start, prepared, winner, name, cache)
    counts = prepared.splits.counts()
    once = 2 * counts["train"] + counts["validation"] + counts["test"]
    if mode == "off":
        assert start.frozen.forward_passes > once, "the control: nothing is kept"
    else:
        assert start.frozen.forward_passes == once
