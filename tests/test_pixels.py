"""Decoded images that are kept: by their content and all that decoding depends on; unreadable ones are looked at again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held import Held
from PIL import Image as Picture

from kerastl.backbones import get_backbone
from kerastl.data.examples import Split
from kerastl.data.sources import open_examples
from kerastl.features import inputs as inputs_module
from kerastl.features.cache import Cache
from kerastl.features.content_keys import content_keys, names_of
from kerastl.features.inputs import decode_split
from kerastl.features.views import Views
from kerastl.modality.image import Image
from kerastl.progress import Progress, Tracker
from kerastl.recipe import AugmentRecipe, CacheRecipe, DataRecipe
from kerastl.recipe.rule import resolve_augment
from kerastl.store.array import digests


@pytest.fixture
def data(solid_colours: Path, tmp_path: Path) -> Path:
    shutil.copytree(solid_colours, tmp_path / "data")
    return tmp_path / "data"


def split_of(data: Path) -> Split:
    examples = open_examples(DataRecipe(source=str(data)))
    return Split("train", examples, np.arange(len(examples)))


def decoded(data: Path, store: Path, **keys: Any) -> tuple[np.ndarray, dict[int, str]]:
    size, mode = keys.pop("size", 16), keys.pop("mode", "disk")
    with Cache(CacheRecipe(mode=mode, directory=str(store)), store / "scratch") as cache:
        inputs, reasons = decode_split(split_of(data), Image(size, **keys), cache, Progress())
        return inputs[np.arange(len(inputs))]["pixels"], reasons


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


def copied(data: Path) -> None:
    shutil.copytree(data, data.parent / "elsewhere")
    shutil.rmtree(data)
    (data.parent / "elsewhere").rename(data)


def renamed(data: Path) -> None:
    for path in sorted((data / "blue").iterdir()):
        path.rename(path.with_name(f"other-{path.name}"))


def thinned(data: Path) -> None:
    for path in sorted((data / "blue").iterdir())[::2]:
        path.unlink()


def another(data: Path) -> None:
    Picture.fromarray(np.full((16, 16, 3), 7, np.uint8)).save(data / "green" / "zzz.png")


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (relabel, 0),
        (touch, 0),
        (add, 0),
        (copied, 0),
        (renamed, 0),
        (thinned, 0),
        (another, 1),
        (rewrite_with_its_old_time, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_image_is_known_by_its_content(
    data: Path, tmp_path: Path, decode_counts: list[int], change: Callable[[Path], None], passes: int
) -> None:
    decoded(data, tmp_path / "store")
    decode_counts.clear()
    change(data)
    pixels, _ = decoded(data, tmp_path / "store")
    assert sum(decode_counts) == passes
    decode_counts.clear()
    fresh, _ = decoded(data, tmp_path / "fresh")
    np.testing.assert_array_equal(pixels, fresh)
    assert sum(decode_counts) > 16, "the control: another store has none of them"


def test_files_that_did_not_change_are_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    raw = Split.raw
    monkeypatch.setattr(
        Split, "raw", lambda self, positions: read.append(len(positions)) or raw(self, positions)
    )  # type: ignore[func-returns-value]
    sizes = []
    for change in (lambda data: None, lambda data: None, touch):
        change(data)
        read.clear()
        with Cache(
            CacheRecipe(mode="disk", directory=str(tmp_path / "store")), tmp_path / "scratch"
        ) as cache:
            split = split_of(data)
            keys = content_keys(split, cache)
            assert len(keys) == split.count
        sizes.append(sum(read))
    assert sizes == [72, 16, 17], "all of them, some to make sure, and the one that was touched"


def test_files_that_are_gone_leave_the_others_with_their_own_keys(data: Path, tmp_path: Path) -> None:
    split, told = split_of(data), list[int]()

    class Counting(Tracker):
        def advance(self, count: int = 1, detail: str = "") -> None:
            told.append(count)

    class Counted(Progress):
        def track(self, label: str, total: int, unit: str = "examples") -> Tracker:
            return Counting()

    gone = [0, 7, 8, 71]
    for position in gone:
        (data / split.ids[position]).unlink()
    with Cache(CacheRecipe(mode="disk", directory=str(tmp_path / "store")), tmp_path / "scratch") as cache:
        keys = content_keys(split, cache, Counted())
    read = np.delete(np.arange(split.count), gone)
    expected = digests((data / split.ids[position]).read_bytes() for position in read)
    np.testing.assert_array_equal(keys[read], expected)
    np.testing.assert_array_equal(keys[gone], names_of(split)[gone])
    assert sum(told) == split.count == 72


@pytest.mark.parametrize("mode", ["off", "memory"])
def test_where_nothing_is_kept_beyond_the_run_no_file_is_read_for_its_content(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(Split, "raw", lambda self, positions: pytest.fail("a file is read"))
    with Cache(CacheRecipe(mode=mode), tmp_path / "scratch") as cache:
        assert len(np.unique(content_keys(split_of(data), cache), axis=0)) == 72


@pytest.mark.parametrize("keys", [{"size": 17}, {"resize": "pad"}, {"significant_bits": 12}], ids=str)
def test_how_they_are_decoded_is_part_of_the_key(
    data: Path, tmp_path: Path, decode_counts: list[int], keys: dict[str, Any]
) -> None:
    decoded(data, tmp_path / "store")
    decode_counts.clear()
    decoded(data, tmp_path / "store", **keys)
    assert sum(decode_counts) > 16


def test_decoder_and_tensorflow_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [Image(16).facts()]
    monkeypatch.setattr("kerastl.modality.image.decode.DECODE_VERSION", -1)
    facts.append(Image(16).facts())
    monkeypatch.setattr("tensorflow.__version__", "0")
    facts.append(Image(16).facts())
    assert all(one != other for i, one in enumerate(facts) for other in facts[:i])


def test_a_view_is_keyed_by_knobs_seed_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(view: int, ids: tuple[str, str] = ("a", "b"), **augment: object) -> bytes:
        recipe = resolve_augment(AugmentRecipe(**augment), 100, get_backbone("mobilenet_025"))  # type: ignore[arg-type]
        inputs = Held({"pixels": np.zeros((2, 8, 8, 3), np.uint8)})
        images = Views(inputs, Image(8), np.zeros(2, int), 1, np.array(ids, object), recipe)
        return images.keys(np.arange(4, dtype=np.uint64).reshape(2, 2), view).tobytes()

    assert facts(0) == facts(0, level="strong", seed=3), "view 0 is the image itself"
    assert facts(0) == facts(0, ids=("c", "d")), "and whose it is does not matter"
    assert facts(1) == facts(1, views=9), "how many views there are does not change one of them"
    found = [facts(1), facts(2), facts(1, seed=1), facts(1, level="medium"), facts(1, rotation_degrees=3.0)]
    found += [facts(1, ids=("a", "c")), facts(1, mixup_alpha=0.5), facts(1, ("a", "c"), mixup_alpha=0.5)]
    monkeypatch.setattr("kerastl.modality.image.augment.AUGMENT_VERSION", -1)
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
    path.with_name("zzz.png").write_bytes(b"x" * len(content))
    _, reasons = decoded(data, tmp_path / "store")
    assert list(reasons) == [24], "it is not taken for what was mended: another file has that content"


def test_of_images_that_cannot_be_read_all_are_named_though_they_are_equal(
    data: Path, tmp_path: Path
) -> None:
    bad = sorted((data / "blue").iterdir())[2:5]
    for path in bad:
        path.write_bytes(b"no picture")
    pixels, reasons = decoded(data, tmp_path / "store")
    assert list(reasons) == [2, 3, 4] and len(pixels) == 69 and len(set(reasons.values())) == 1


def test_decoding_that_was_stopped_goes_on(
    data: Path, tmp_path: Path, decode_counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerastl.store.store.BLOCK_ROWS", 8)
    monkeypatch.setattr(inputs_module, "BLOCK_ROWS", 8)
    remember, calls = inputs_module._remember_looks, iter(range(10**6))

    def stops(*rest: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        remember(*rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inputs_module, "_remember_looks", stops)
        decoded(data, tmp_path / "store")
    decode_counts.clear()
    pixels, _ = decoded(data, tmp_path / "store")
    assert sum(decode_counts) == 72 - 3 * 8 and len(pixels) == 72


def test_where_the_disk_has_no_room_decoded_images_go_to_memory(data: Path, tmp_path: Path) -> None:
    size = 72 * 16 * 16 * 3
    recipe = CacheRecipe(mode="auto", directory=str(tmp_path / "store"), max_gigabytes=1.5 * size / 1e9)
    with Cache(recipe, tmp_path / "scratch") as cache:
        for image_size in (16, 17):  # no room is left for a second, as the first is being read
            inputs, _ = decode_split(split_of(data), Image(image_size), cache, Progress())
            assert inputs.kept and len(inputs) == 72
            assert (
                len(
                    [
                        array
                        for array in cache.folder.arrays()
                        if array.kind == "inputs_pixels" and array.bytes
                    ]
                )
                == 1
            )
