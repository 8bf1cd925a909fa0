"""Each image runs through the frozen part once in each view, whoever else runs, whatever was interrupted before."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held import Held
from test_features import POINT, Said, frozen_at, frozen_views, full_after, new_network, views

from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features
from kerastl.features.views import Views
from kerastl.model.build import Network
from kerastl.model.head_input import HeadInput
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe, load_recipe
from kerastl.store.array import Array
from kerastl.store.block import BLOCK_ROWS
from kerastl.writing import NoSpaceError

LATER, EARLIER = "conv_pw_11_relu", "conv_pw_3_relu"
ROW_BYTES = 3 * 256 * 4 + 2 * 2 * 128 * 2  # pooled features, and activations at POINT in sixteen bits


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
    wanted = Wanted(HeadInput(), ("pooled", "activation"), finetune_epochs=epochs)
    (found,) = extract(frozen, [frozen_views(images, view_count)], cache, wanted, progress)
    return found


def stopped_after_a_block(network: Network, images: Views, view_count: int, cache: Cache) -> None:
    """A process that is stopped when the first block of pooled features and the first of activations are there."""
    add, count = Array.add, iter(range(10**9))

    def stop(array: Array, *rest: Any) -> None:
        if next(count) >= 2:
            raise KeyboardInterrupt
        add(array, *rest)

    with pytest.MonkeyPatch.context() as patch, cache, pytest.raises(KeyboardInterrupt):
        patch.setattr(Array, "add", stop)
        run(frozen_at(network, POINT), images, view_count, cache)


@pytest.mark.parametrize("mode", ["auto", "disk"])
def test_what_was_stopped_goes_on_in_the_room_that_is_left(
    network: Network, tmp_path: Path, mode: str
) -> None:
    images, said = views(300, level="none"), Said()
    gigabytes = 1.2 * 300 * ROW_BYTES / 1e9
    stopped_after_a_block(network, images, 1, cache_at(tmp_path, mode="disk", max_gigabytes=gigabytes))
    frozen = frozen_at(network, POINT)
    with cache_at(tmp_path, mode=mode, max_gigabytes=gigabytes) as cache:
        run(frozen, images, 1, cache, said)
        assert len(cache.folder.arrays()) == 2
    assert frozen.forward_passes == 300 - BLOCK_ROWS
    assert said.lines[-1] == "Features of train: 44 forward passes"
    others = dataclasses.replace(
        images, inputs=Held({"pixels": 255 - images.inputs[np.arange(300)]["pixels"]})
    )
    with cache_at(tmp_path, mode="disk", max_gigabytes=gigabytes / 1.3) as cache, pytest.raises(NoSpaceError):
        run(frozen_at(network, POINT), others, 1, cache)  # the control


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


def test_an_attempt_that_fails_lets_go_of_nothing_that_was_extracted_before(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = views(level="none")
    with cache_at(tmp_path, mode="auto") as cache:
        run(frozen_at(network, POINT), images, 1, cache)
        before = {array.name for array in cache.folder.arrays()}
        with monkeypatch.context() as patch:
            full_after(0, patch)
            run(frozen_at(network, LATER), images, 1, cache)
        assert not any(cache.folder.remove(name) for name in before), "they are still being read"
        run(frozen_at(network, EARLIER), images, 1, cache)
        points = {array.facts.get("unfreeze_point") for array in cache.folder.arrays() if array.bytes}
        assert points == {None, POINT, EARLIER}, "what did not fit on the disk went to memory"
    assert all(cache.folder.remove(name) for name in before), "the control: now nobody reads them"


def test_where_there_is_room_nowhere_all_is_computed_live(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kerastl.store.store_folder.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: 0)
    frozen, said = frozen_at(network, POINT), Said()
    with cache_at(tmp_path, mode="auto") as cache:
        found = run(frozen, views(level="none"), 1, cache, said)
        before = frozen.forward_passes
        found.pooled_batch(np.arange(10), 0)
        assert frozen.forward_passes == before + 10
    assert "pooled (31 KB) and activation (10 KB) computed live" in said.lines[0], said.lines
    assert any("in every epoch of the head phase" in line and "(31 KB)" in line for line in said.warnings)
    assert not (tmp_path / "store").exists(), "nothing is left of what was never kept"


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
    from kerastl.features.decoded import decode_splits
    from kerastl.jobs.measure import logits_of
    from kerastl.jobs.open import open_splits
    from kerastl.jobs.setup import network_setup
    from kerastl.training.two_phase import transfer

    flags = {
        "data.source": str(solid_colours), "backbone.name": "mobilenet_025", "backbone.image_size": 32,
        "augment.views": 2, "head_phase.epochs": 2, "finetune_phase.epochs": 1, "cache.mode": mode,
        "finetune_phase.unfreeze_from": LATER, "cache.directory": str(tmp_path / "store"),
    }  # fmt: skip
    recipe, splits = open_splits(load_recipe(flags=flags))
    with Cache(recipe.cache, tmp_path / "scratch") as cache:
        prepared = decode_splits(recipe, splits, cache, Progress())
        start = network_setup(prepared, cache)
        transfer(start.network, start.parts, start.train, start.validation, recipe)
        for name in ("validation", "test"):
            logits_of(start, winner, name)
    counts = prepared.splits.counts()
    once = 2 * counts["train"] + counts["validation"] + counts["test"]
    if mode == "off":
        assert start.frozen.forward_passes > once, "the control: nothing is kept"
    else:
        assert start.frozen.forward_passes == once
