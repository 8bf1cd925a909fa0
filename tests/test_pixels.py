"""Decoded images that are kept: keyed by all that they depend on, and unreadable ones looked at again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kerastl.backbones import get_backbone
from kerastl.data.examples import Split
from kerastl.data.sources import open_examples
from kerastl.features import pixels as pixels_module
from kerastl.features import views as views_module
from kerastl.features.cache import Cache
from kerastl.features.pixels import KeptPixels, _readable_by_now, decode_split, image_facts
from kerastl.features.sealing import MANIFEST, sealed
from kerastl.features.unit import UnitKey
from kerastl.features.views import Views
from kerastl.progress import Progress
from kerastl.recipe import AugmentRecipe, CacheRecipe, DataRecipe
from kerastl.recipe.rule import resolve_augment


@pytest.fixture
def data(solid_colours: Path, tmp_path: Path) -> Path:
    shutil.copytree(solid_colours, tmp_path / "data")
    return tmp_path / "data"


def split_of(data: Path) -> Split:
    examples = open_examples(DataRecipe(source=str(data)))
    return Split("train", examples, np.arange(len(examples)))


def decoded(data: Path, store: Path) -> tuple[np.ndarray, dict[int, str]]:
    with Cache(CacheRecipe(mode="disk", directory=str(store)), store / "scratch") as cache:
        pixels, reasons, _ = decode_split(split_of(data), DataRecipe(), 16, cache, Progress())
        return pixels[np.arange(pixels.shape[0])], reasons


def relabel(data: Path) -> None:
    (data / "red").rename(data / "scarlet")
    (data / "scarlet").rename(data / "red")


def rewrite_with_its_old_time(data: Path) -> None:
    """Another image of the same size in bytes, with the time of change put back."""
    path = sorted((data / "blue").iterdir())[0]
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def touch(data: Path) -> None:
    os.utime(sorted((data / "green").iterdir())[3], (1, 1))


def add(data: Path) -> None:
    shutil.copy(sorted((data / "green").iterdir())[3], data / "green" / "zzz.png")


@pytest.mark.parametrize(
    ("change", "same"), [(relabel, True), (rewrite_with_its_old_time, False), (touch, False), (add, False)]
)
def test_the_images_are_part_of_the_key(data: Path, change, same: bool) -> None:  # type: ignore[no-untyped-def]
    before = image_facts(split_of(data), DataRecipe(), 16)
    change(data)
    assert (image_facts(split_of(data), DataRecipe(), 16) == before) is same


def test_how_they_are_decoded_is_part_of_the_key(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(data)
    facts = [
        image_facts(split, DataRecipe(), 16),
        image_facts(split, DataRecipe(), 17),
        image_facts(split, DataRecipe(resize="pad"), 16),
        image_facts(dataclasses.replace(split, indices=split.indices[1:]), DataRecipe(), 16),
    ]
    monkeypatch.setattr(pixels_module, "DECODE_VERSION", -1)
    facts.append(image_facts(split, DataRecipe(), 16))
    monkeypatch.setattr(pixels_module.tf, "__version__", "0")
    facts.append(image_facts(split, DataRecipe(), 16))
    assert all(one != other for i, one in enumerate(facts) for other in facts[:i])


def test_a_view_is_keyed_by_knobs_seed_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(view: int, **augment: object) -> dict[str, object]:
        recipe = resolve_augment(AugmentRecipe(**augment), 100, get_backbone("mobilenet_025"))  # type: ignore[arg-type]
        pixels = np.zeros((2, 8, 8, 3), np.uint8)
        return Views(pixels, np.zeros(2, int), 1, np.array(["a", "b"], object), recipe).facts(view)

    assert facts(0) == facts(0, level="strong", seed=3), "view 0 is the image itself"
    assert facts(1) == facts(1, views=9), "how many views there are does not change one of them"
    found = [facts(1), facts(2), facts(1, seed=1), facts(1, level="medium"), facts(1, rotation_degrees=3.0)]
    monkeypatch.setattr(views_module, "AUGMENT_VERSION", -1)
    found.append(facts(1))
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


def test_an_image_that_could_not_be_read_for_a_while_is_looked_at_again(data: Path, tmp_path: Path) -> None:
    path = sorted((data / "blue").iterdir())[2]
    state, content = path.stat(), path.read_bytes()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    pixels, reasons = decoded(data, tmp_path / "store")
    assert list(reasons) == [2] and len(pixels) == 71
    again, still = decoded(data, tmp_path / "store")
    assert still == reasons and (again == pixels).all()
    path.write_bytes(content)  # as if the disk answered again: path, size and time are what they were
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    pixels, reasons = decoded(data, tmp_path / "store")
    assert not reasons and len(pixels) == 72


def test_decoding_that_was_killed_before_it_was_published_is_taken_up(data: Path, tmp_path: Path) -> None:
    pixels, _ = decoded(data, tmp_path / "store")
    (manifest,) = (tmp_path / "store").glob(f"pixels-*/{MANIFEST}")
    unit, facts = manifest.parent, json.loads(manifest.read_text())
    key = {name: facts[name] for name in ("format", "kind", "rows", "row_shape", "dtype", "facts", "about")}
    lines = [key, *({"shard": i, "crc32": crc, "notes": {}} for i, crc in enumerate(facts["crc32"]))]
    (unit / "journal.jsonl").write_text("".join(json.dumps(sealed(line)) + "\n" for line in lines))
    (unit / MANIFEST).unlink()
    again, _ = decoded(data, tmp_path / "store")
    assert (again == pixels).all() and (unit / MANIFEST).is_file()


def test_decoding_that_was_stopped_goes_on_in_the_room_that_it_has(data: Path, tmp_path: Path) -> None:
    split, size = split_of(data), 72 * 16 * 16 * 3
    key = UnitKey("pixels", image_facts(split, DataRecipe(), 16), 72, (16, 16, 3), "uint8")
    recipe = CacheRecipe(mode="auto", directory=str(tmp_path / "store"), max_gigabytes=1.2 * size / 1e9)
    with Cache(recipe, tmp_path / "scratch") as cache:
        cache.hold_pixels(key, "disk", Progress()).begin()
    assert not list((tmp_path / "store").rglob(MANIFEST)), "the control: it is begun, not built"
    with Cache(recipe, tmp_path / "scratch") as cache:
        for image_size in (16, 17):  # no room is left for a second, which goes to memory
            pixels, _, _ = decode_split(split, DataRecipe(), image_size, cache, Progress())
            assert isinstance(pixels, KeptPixels) and pixels.shape == (72, image_size, image_size, 3)
            assert [path.parent.name for path in tmp_path.rglob(MANIFEST)] == [key.name]


def test_images_that_could_not_be_read_are_looked_at_again_a_few_at_a_time(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_module, "REREAD_ROWS", 4)
    for path in list(data.rglob("*.png")):
        for copy in range(3):
            shutil.copy(path, path.with_name(f"{path.stem}-{copy}.png"))
    image_bytes, rows = 256 * 256 * 3, list(range(4 * 72))
    tracemalloc.start()
    try:
        assert _readable_by_now(split_of(data), DataRecipe(), 256, rows)
        assert tracemalloc.get_traced_memory()[1] < 100 * image_bytes  # decoding alone holds 64
    finally:
        tracemalloc.stop()
    for path in data.rglob("*.png"):
        path.write_bytes(b"x")
    assert not _readable_by_now(split_of(data), DataRecipe(), 16, rows[:9])
