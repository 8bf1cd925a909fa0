"""Views and frozen features: pure functions of their inputs, one forward pass each, bounded disk."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from held import Held

from kerastl.backbones import get_backbone
from kerastl.errors import TrainingError, UserError
from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen, as_kept, narrowed
from kerastl.features.readers import Features
from kerastl.features.views import FrozenViews, Views
from kerastl.modality import count_of
from kerastl.modality.image import Image
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import cut
from kerastl.model.head_input import HeadInput
from kerastl.progress import Progress
from kerastl.recipe import AugmentRecipe, CacheRecipe, HeadRecipe
from kerastl.recipe.rule import resolve_augment
from kerastl.store.array import Array, digests
from kerastl.store.block import BLOCK, BLOCK_ROWS
from kerastl.writing import NoSpaceError

SIZE = 32
POINT = "conv_pw_6_relu"


def views(count: int = 10, **augment: object) -> Views:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    ids = np.array([f"image-{index}" for index in range(count)], object)
    recipe = resolve_augment(AugmentRecipe(**augment), count, get_backbone("mobilenet_025"))  # type: ignore[arg-type]
    return Views(Held({"pixels": pixels}), Image(SIZE), np.arange(count) % 3, 3, ids, recipe)


def pixels_of(images: Views, positions: np.ndarray | slice = slice(None), view: int = 0) -> np.ndarray:
    """The images in a view, uint8 [b, SIZE, SIZE, 3]."""
    if isinstance(positions, slice):
        positions = np.arange(images.count)[positions]
    return images.batch(positions, view)["pixels"]


def taken(images: Views, positions: slice | np.ndarray) -> Views:
    """A part of the images."""
    columns = {name: getattr(images, name)[positions] for name in ("classes", "ids")}
    return dataclasses.replace(images, inputs=Held(images.inputs[positions]), **columns)


class Said(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def features_of(
    frozen: Frozen,
    images: Views,
    view_count: int,
    folder: Path,
    mode: str = "disk",
    dtype: str = "auto",
    epochs: int = 10,
    progress: Progress = Progress(),
    pooling: str = "avg",
) -> Features:
    """Features of one split; what is kept lies in `folder`, and stays held."""
    recipe = CacheRecipe(mode=mode, directory=str(folder / "store"), dtype=dtype)
    split = frozen_views(images, view_count)
    wanted = Wanted(HeadInput(pooling), ("pooled", "activation"), finetune_epochs=epochs)
    (found,) = extract(frozen, [split], Cache(recipe, folder / "scratch"), wanted, progress)
    return found


def frozen_views(images: Views, view_count: int) -> FrozenViews:
    """A training split as it comes from decoding."""
    contents = digests([np.ascontiguousarray(each).tobytes() for each in pixels_of(images)])
    return FrozenViews("train", images, view_count, contents, {"image_size": SIZE}, {"data": "noise"})


def frozen_at(network: Network, point: str, engine: str = "auto") -> Frozen:
    return Frozen(cut(network, point), network.backbone, engine)


every_engine = pytest.mark.parametrize("engine", ["auto", "tensorflow", "openvino"])


def new_network() -> Network:
    keras.utils.set_random_seed(0)
    spec = get_backbone("mobilenet_025")
    return build_model(build_backbone(spec, Image(SIZE).spec), spec, HeadRecipe(), class_count=3)


@pytest.fixture(scope="module")
def network() -> Network:
    return new_network()


def test_view_0_is_the_image_itself_and_others_are_not() -> None:
    images = views(level="medium")
    everything = np.arange(10)
    np.testing.assert_array_equal(pixels_of(images), images.inputs[everything]["pixels"])
    assert all((pixels_of(images, everything, view) != pixels_of(images)).any() for view in (1, 2))


def test_a_view_does_not_depend_on_who_else_is_in_the_batch() -> None:
    images = views(level="medium")
    whole = pixels_of(images, np.arange(10), 1)
    np.testing.assert_array_equal(whole[[7, 2]], pixels_of(images, np.array([7, 2]), 1))
    fewer = taken(images, slice(5, None))
    np.testing.assert_array_equal(whole[5:], pixels_of(fewer, np.arange(5), 1))
    other = dataclasses.replace(images, recipe=dataclasses.replace(images.recipe, seed=8))
    assert (pixels_of(other, np.arange(10), 1) != whole).any()


def test_mixed_views_carry_mixed_labels_that_fit_their_pixels() -> None:
    images = views(level="none", mixup_alpha=1.0)
    levels = np.arange(10) * 20
    flat = dataclasses.replace(
        images,
        inputs=Held({"pixels": np.repeat(levels.astype(np.uint8), SIZE**2 * 3).reshape(-1, SIZE, SIZE, 3)}),
        classes=np.arange(10),
        class_count=10,
    )
    labels = flat.labels(np.arange(10), 1)
    assert labels.sum(axis=1) == pytest.approx(np.ones(10))
    assert ((labels > 0).sum(axis=1) == 2).any(), "the control: some labels are soft"
    np.testing.assert_array_equal(flat.labels(np.arange(10), 0), np.eye(10))
    mixed = pixels_of(flat, np.arange(10), 1)
    assert (mixed == mixed[:, :1, :1, :1]).all(), "blends of flat images are flat"
    np.testing.assert_allclose(mixed[:, 0, 0, 0], labels @ levels, atol=0.51)


EVERYTHING = np.arange(10)


@every_engine
def test_stored_features_are_the_networks_own_for_every_view(
    network: Network, tmp_path: Path, engine: str
) -> None:
    frozen, images = frozen_at(network, POINT, engine), views(level="light")
    found = features_of(frozen, images, 3, tmp_path)
    for view in range(3):
        pixels = pixels_of(images, EVERYTHING, view).astype(np.float32)
        average = np.asarray(frozen.cut.prefix("pooled")(pixels)["pooled"])[:, 0]
        np.testing.assert_allclose(found.pooled_batch(EVERYTHING, view), average, rtol=1e-4, atol=1e-5)
        stored = found.activation_batch(EVERYTHING, view)
        np.testing.assert_allclose(
            stored, frozen.cut.prefix("activation")(pixels)["activation"], rtol=2e-3, atol=1e-3
        )
    assert (found.pooled_batch(EVERYTHING, 1) != found.pooled_batch(EVERYTHING, 0)).any()


@every_engine
def test_features_do_not_depend_on_how_many_images_there_are(
    network: Network, tmp_path: Path, engine: str
) -> None:
    frozen, images = frozen_at(network, POINT, engine), views(level="none")
    three = np.arange(3)
    many = features_of(frozen, images, 1, tmp_path / "all")
    few = features_of(frozen, taken(images, slice(3)), 1, tmp_path / "three")
    np.testing.assert_array_equal(many.pooled_batch(three, 0), few.pooled_batch(three, 0))
    np.testing.assert_array_equal(many.activation_batch(three, 0), few.activation_batch(three, 0))


@every_engine
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_stored_in_memory_and_live_are_the_same_to_the_bit(
    network: Network, tmp_path: Path, dtype: str, engine: str
) -> None:
    images, positions, each = (
        views(level="light", mixup_alpha=0.5),
        np.array([9, 0, 4, 1, 2]),
        np.array([1, 0, 1, 1, 0]),
    )
    modes = ("disk", "memory", "off")
    found = {
        mode: features_of(frozen_at(network, POINT, engine), images, 2, tmp_path / mode, mode, dtype)
        for mode in modes
    }
    for read in ("pooled_batch", "activation_batch"):
        batches = [np.asarray(getattr(found[mode], read)(positions, each), np.float32) for mode in modes]
        np.testing.assert_array_equal(batches[0], batches[1])
        np.testing.assert_array_equal(batches[0], batches[2])
        assert (batches[0] != getattr(found["disk"], read)(positions, 0)).any(), "views differ"
    suffix = cut(network, POINT).suffix
    exact = frozen_at(network, POINT, engine).run(images.batch(positions, 0), ["activation"])["activation"]
    logits = [
        suffix(np.asarray(x, np.float32)).numpy()
        for x in (found["disk"].activation_batch(positions, 0), exact)
    ]
    if dtype == "float32":
        np.testing.assert_array_equal(logits[0], logits[1])
    else:
        np.testing.assert_allclose(logits[0], logits[1], atol=2e-3 * np.abs(logits[1]).max())
        assert (found["disk"].activation_batch(positions, 0) != exact).any(), "sixteen bits round"


def test_without_room_activations_are_computed_live_and_it_is_said(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, said = views(level="light"), Said()
    stored = features_of(frozen_at(network, POINT), images, 2, tmp_path / "stored")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kerastl.store.store_folder.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: 2 * 10 * 2 * 3 * 256 * 4)
    frozen = frozen_at(network, POINT)
    live = features_of(frozen, images, 2, tmp_path / "live", "auto", progress=said)
    assert "Features: pooled (61 KB) kept in memory, activation (20 KB) computed live" in said.lines[0], (
        said.lines
    )
    before = frozen.forward_passes
    batch = np.asarray(live.activation_batch(EVERYTHING, 1), np.float32)
    assert frozen.forward_passes == before + 10
    np.testing.assert_array_equal(batch, stored.activation_batch(EVERYTHING, 1))
    np.testing.assert_array_equal(live.pooled_batch(EVERYTHING, 1), stored.pooled_batch(EVERYTHING, 1))
    assert frozen.forward_passes == before + 10, "pooled features are kept in memory"
    with pytest.raises(NoSpaceError, match=r"cache\.max_gigabytes.*cache\.mode"):
        features_of(frozen, images, 2, tmp_path / "disk", "disk")


def test_what_is_kept_already_is_read_from_the_disk_though_the_rest_goes_to_memory(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = views(level="light")
    features_of(frozen_at(network, POINT), images, 2, tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kerastl.store.store_folder.shutil.disk_usage", lambda path: usage)
    frozen, said = frozen_at(network, POINT), Said()
    features_of(frozen, images, 3, tmp_path, "auto", progress=said)
    assert frozen.forward_passes == 10, "only the third view"
    assert any("kept in memory" in line for line in said.lines)


def test_a_store_that_cannot_be_written_is_no_reason_to_stop(network: Network, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")
    frozen = frozen_at(network, POINT)
    found = features_of(frozen, views(level="none"), 1, tmp_path, "auto")
    assert found.activation_batch(EVERYTHING, 0).shape[0] == 10 and frozen.forward_passes == 10
    with pytest.raises(UserError):
        features_of(frozen, views(level="none"), 1, tmp_path, "disk")


def test_live_views_of_a_batch_are_computed_together(network: Network, tmp_path: Path) -> None:
    """Each part is padded to the one batch size: a batch in as many parts as views would cost several times as much."""
    frozen = frozen_at(network, POINT)
    found = features_of(frozen, views(level="light"), 4, tmp_path, "off")
    calls: list[int] = []
    run = frozen.run
    frozen.run = lambda inputs, names, *given: (calls.append(count_of(inputs)), run(inputs, names, *given))[1]  # type: ignore[method-assign,assignment]
    found.activation_batch(EVERYTHING, np.arange(10) % 4)
    assert calls == [10]


def test_auto_keeps_where_there_is_room_and_says_where(network: Network, tmp_path: Path) -> None:
    said = Said()
    features_of(frozen_at(network, POINT), views(level="light"), 2, tmp_path, "auto", progress=said)
    assert said.lines[0] == f"Features: pooled (61 KB) and activation (20 KB) kept in {tmp_path / 'store'}"


def test_every_image_and_view_runs_through_the_frozen_part_exactly_once(
    network: Network, tmp_path: Path
) -> None:
    images, frozen = views(level="light"), frozen_at(network, POINT)
    found = features_of(frozen, images, 3, tmp_path)
    for _ in range(4):
        for view in range(3):
            found.pooled_batch(EVERYTHING, view)
            found.activation_batch(EVERYTHING, view)
    assert frozen.forward_passes == 30
    said, again = Said(), frozen_at(network, POINT)
    features_of(again, images, 3, tmp_path, progress=said)
    assert again.forward_passes == 0 and any("no forward pass" in line for line in said.lines)
    more = frozen_at(network, POINT)
    features_of(more, images, 4, tmp_path)
    assert more.forward_passes == 10, "only the new view"


@pytest.mark.parametrize("count", [10, 40, 100])
def test_a_new_view_is_all_that_is_computed(network: Network, tmp_path: Path, count: int) -> None:
    images, frozen, positions = views(count, level="light"), frozen_at(network, POINT), np.arange(count)
    features_of(frozen, images, 2, tmp_path, "auto")
    assert frozen.forward_passes == 2 * count
    more = frozen_at(network, POINT)
    found = features_of(more, images, 3, tmp_path, "auto")
    assert more.forward_passes == count, "only the new view"
    plain = features_of(frozen_at(network, POINT), images, 3, tmp_path / "plain", "disk")
    for view in range(3):
        for read in ("pooled_batch", "activation_batch"):
            np.testing.assert_array_equal(
                getattr(found, read)(positions, view), getattr(plain, read)(positions, view)
            )


def full_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full after so many blocks."""
    add, count = Array.add, iter(range(10**9))

    def full(array: Array, keys: np.ndarray, rows: Any, notes: Any, on_disk: bool) -> None:
        if on_disk and next(count) >= writes:
            raise NoSpaceError("the disk is full")
        add(array, keys, rows, notes, on_disk)

    monkeypatch.setattr(Array, "add", full)


def test_a_disk_that_fills_up_in_the_middle_is_no_reason_to_stop(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, frozen, positions = views(300, level="none"), frozen_at(network, POINT), np.arange(300)
    with monkeypatch.context() as patch:
        full_after(2, patch)
        found = features_of(frozen, images, 1, tmp_path, "auto")
        with pytest.raises(NoSpaceError):
            features_of(frozen_at(network, POINT), images, 1, tmp_path / "disk", "disk")
    whole = features_of(frozen_at(network, POINT), images, 1, tmp_path / "whole", "disk")
    np.testing.assert_array_equal(found.activation_batch(positions, 0), whole.activation_batch(positions, 0))
    np.testing.assert_array_equal(found.pooled_batch(positions, 0), whole.pooled_batch(positions, 0))
    again = frozen_at(network, POINT)
    features_of(again, images, 1, tmp_path, "disk")
    assert again.forward_passes == 300 - BLOCK_ROWS, "what was written before is taken up"


# The figures that the store is for


def test_one_more_image_is_one_more_forward_pass_a_view(network: Network, tmp_path: Path) -> None:
    images, frozen = views(1001, level="light"), frozen_at(network, POINT)
    features_of(frozen, taken(images, slice(1000)), 2, tmp_path)
    assert frozen.forward_passes == 2000
    features_of(frozen, images, 2, tmp_path)
    assert frozen.forward_passes == 2000 + 1 * 2


def test_folds_thinned_sets_and_another_set_of_the_same_pictures_run_nothing(
    network: Network, tmp_path: Path
) -> None:
    images, frozen = views(100, level="light"), frozen_at(network, POINT)
    features_of(frozen, images, 2, tmp_path)
    whole = frozen.forward_passes
    fold = np.delete(np.arange(100), np.arange(20, 40))
    for part in (fold, np.arange(20, 40), np.arange(0, 100, 3)):
        found = features_of(frozen, taken(images, part), 2, tmp_path)
        assert found.count == len(part)
    elsewhere = dataclasses.replace(images, ids=np.array([f"copy-{index}" for index in range(100)], object))
    features_of(frozen, elsewhere, 1, tmp_path)
    assert frozen.forward_passes == whole
    # Views beyond the first are a function of an image's identity: under another name they are other pictures.
    features_of(frozen, elsewhere, 2, tmp_path)
    assert frozen.forward_passes == whole + 100, "the control"


def test_mixed_views_depend_on_the_whole_split_and_the_images_themselves_do_not(
    network: Network, tmp_path: Path
) -> None:
    images, frozen = views(20, level="light", mixup_alpha=0.5), frozen_at(network, POINT)
    features_of(frozen, images, 2, tmp_path)
    features_of(frozen, taken(images, slice(15)), 2, tmp_path)
    assert frozen.forward_passes == 2 * 20 + 15, "view 1 has other partners"


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({}, 0),
        ({"pooling": "avgmax"}, 0),
        ({"point": "conv_pw_11_relu"}, 20),
        ({"weights": True}, 20),
        ({"augment": {"level": "medium"}}, 10),
        ({"augment": {"level": "light", "seed": 3}}, 10),
        ({"decode": 2}, 20),
        ({"dtype": "float32"}, 20),
        ({"head_seed": 5}, 0),
    ],
    ids=str,
)
def test_the_store_is_keyed_by_what_the_features_depend_on_and_by_nothing_else(
    tmp_path: Path, changed: dict, passes: int
) -> None:
    """Two views of ten images: view 0 does not depend on the augmentation."""

    def run(point: str = POINT, weights: bool = False, augment: dict | None = None, decode: int = 1,
            dtype: str = "auto", pooling: str = "avg", head_seed: int = 0) -> int:  # fmt: skip
        keras.utils.set_random_seed(1)
        spec = get_backbone("mobilenet_025")
        backbone = build_backbone(spec, Image(SIZE).spec)
        if weights:
            kernel = backbone.get_layer("conv1").kernel
            kernel.assign(kernel + 1e-6)
        network = build_model(backbone, spec, HeadRecipe(pooling=pooling), 3, seed=head_seed)
        images = views(**(augment or {"level": "light"}))
        frozen = frozen_at(network, point)
        frozen.facts = {**frozen.facts, "decode": decode}
        found = features_of(frozen, images, 2, tmp_path, dtype=dtype, pooling=pooling)
        assert found.pooled_batch(EVERYTHING, 0).shape[1] == network.feature_count
        return frozen.forward_passes

    assert run() == 20
    assert run(**changed) == passes


def test_a_backbone_that_was_trained_is_never_kept_as_the_frozen_one(
    network: Network, tmp_path: Path
) -> None:
    frozen = frozen_at(network, POINT)
    kernel = network.backbone.get_layer("conv_pw_13").kernel
    before = kernel.numpy()
    kernel.assign(kernel * 1.01)
    with pytest.raises(RuntimeError, match="was trained"):
        features_of(frozen, views(level="none"), 1, tmp_path)
    kernel.assign(before)
    features_of(frozen, views(level="none"), 1, tmp_path)


def test_at_the_input_the_activations_are_the_pixels(network: Network, tmp_path: Path) -> None:
    images = views(level="light")
    found = features_of(frozen_at(network, "input"), images, 2, tmp_path)
    batch = found.activation_batch(np.array([3, 1]), 1)
    np.testing.assert_array_equal(batch, pixels_of(images, np.array([3, 1]), 1))


def test_sixteen_bits_are_the_bits_that_numpy_gives_and_it_is_said_where_a_value_is_too_large() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
    ordinary = bits[np.isfinite(bits) & (np.abs(bits) < np.finfo(np.float16).max)]
    below_normal = np.linspace(-7e-5, 7e-5, 100_001, dtype=np.float32)
    values = np.concatenate([ordinary, below_normal])
    stored, fits = map(np.asarray, narrowed(values))
    assert stored.dtype == np.float16 and fits
    np.testing.assert_array_equal(stored.view(np.uint16), values.astype(np.float16).view(np.uint16))
    empty, fits = narrowed(values[:0])
    assert empty.shape == (0,) and fits
    for other in (65_505, np.inf, np.nan):
        assert not narrowed(np.append(values, np.float32(other)))[1], "the store decides row by row"


@pytest.mark.parametrize(
    ("value", "engine"),
    [(np.nan, "auto"), (np.inf, "auto"), (-np.inf, "auto"), (np.nan, "tensorflow"), (np.nan, "openvino")],
)
def test_what_is_no_number_is_not_kept(tmp_path: Path, value: float, engine: str) -> None:
    keras.utils.set_random_seed(0)
    spec = get_backbone("mobilenet_025")
    network = build_model(build_backbone(spec, Image(SIZE).spec), spec, HeadRecipe(), class_count=3)
    weight = network.backbone.get_layer("conv1").kernel
    weight.assign(np.full(weight.shape, value))
    with pytest.raises(
        TrainingError, match=r"frozen part of mobilenet_025 gives .* no finite numbers.*backbone.weights"
    ):
        features_of(frozen_at(network, POINT, engine), views(level="none"), 1, tmp_path)
    assert not list(tmp_path.rglob(f"*{BLOCK}"))


def huge(network: Network, point: str = POINT, scale: float = 1e6) -> Frozen:
    """The frozen part of a network of which some activations do not fit sixteen bits."""
    parts = cut(network, point)
    outputs = {**parts.outputs, "activation": parts.outputs["activation"] * scale}
    return Frozen(dataclasses.replace(parts, outputs=outputs), network.backbone)


def test_rows_beyond_sixteen_bits_are_kept_exactly_and_live_ones_are_the_same(
    network: Network, tmp_path: Path
) -> None:
    images = views(level="none")
    exact = huge(network, scale=1.0).run(images.batch(EVERYTHING, 0), ["activation"])["activation"]
    largest = exact.reshape(10, -1).max(axis=1)
    scale = 65_504 / float(np.sort(largest)[5]) * 0.999  # about half of the images fit
    frozen = huge(network, scale=scale)
    kept = features_of(frozen, images, 1, tmp_path).activation_batch(EVERYTHING, 0)
    live = features_of(frozen, images, 1, tmp_path, "off").activation_batch(EVERYTHING, 0)
    values = frozen.run(images.batch(EVERYTHING, 0), ["activation"])["activation"]
    fits = values.reshape(10, -1).max(axis=1) <= np.finfo(np.float16).max
    assert 0 < fits.sum() < 10, "the control: some fit and some do not"
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, live)
    np.testing.assert_array_equal(kept[~fits], values[~fits])
    np.testing.assert_array_equal(kept[fits], values[fits].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(as_kept(values, "float32"), values)
    again = huge(network, scale=scale)
    features_of(again, images, 1, tmp_path)
    assert again.forward_passes == 0


def test_old_features_are_told_of_and_not_read(network: Network, tmp_path: Path) -> None:
    old = tmp_path / "store" / ("pooled-" + "a" * 24)
    old.mkdir(parents=True)
    (old / "rows.npy").write_bytes(b"x" * 5000)
    said, frozen = Said(), frozen_at(network, POINT)
    features_of(frozen, views(level="none"), 1, tmp_path, progress=said)
    assert frozen.forward_passes == 10
    assert (
        "5.0 KB" in said.lines[0]
        and "earlier version" in said.lines[0]
        and "kerastl cache prune" in said.lines[0]
    )
    features_of(frozen, views(level="none"), 1, tmp_path / "other", progress=(quiet := Said()))
    assert not any("earlier version" in line for line in quiet.lines), "the control"
