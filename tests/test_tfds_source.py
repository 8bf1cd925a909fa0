"""TFDS sets: a small real one is prepared offline, then opened by name as any other."""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from kerastl.data.examples import Examples
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.data.tfds_listing import prepared_datasets
from kerastl.errors import DataError
from kerastl.features.content_keys import names_of
from kerastl.recipe.schema import DataRecipe

TRAIN_COUNT, TEST_COUNT = 60, 12


class _Pictures(tfds.core.GeneratorBasedBuilder):
    """Each image is filled with its own number, so that mixed-up images are seen."""

    VERSION = tfds.core.Version("1.2.0")
    FEATURES: ClassVar[dict[str, Any]] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._rows(TRAIN_COUNT, 0), "test": self._rows(TEST_COUNT, 100)}

    def _rows(self, count: int, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            yield number, self.row(offset + number)

    def row(self, number: int) -> dict[str, Any]:
        return {"image": np.full((4, 4, 3), number, np.uint8), "label": number % 3}

    def _generate_examples(self) -> None:
        """Required by the base class; `_rows` does it."""


class KtlPictures(_Pictures):
    """Two of its three known classes plus one that no image has."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow", "unused"]),
        "id": tfds.features.Text(),
    }

    def row(self, number: int) -> dict[str, Any]:
        return {**super().row(number), "id": str(number)}


class KtlHiddenTest(_Pictures):
    """A set that does not publish the labels of its test images."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(4, 4, 3)),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
    }

    def row(self, number: int) -> dict[str, Any]:
        return {**super().row(number), "label": -1 if number >= 100 or number == 7 else number % 3}


class KtlSentences(_Pictures):
    """Not a set of images."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=2),
    }

    def row(self, number: int) -> dict[str, Any]:
        return {"text": "words", "label": number % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    for kind in (KtlPictures, KtlHiddenTest, KtlSentences):
        kind(data_dir=folder).download_and_prepare(
            # Several shards: the stored order must hold across them.
            download_config=tfds.download.DownloadConfig(num_shards=3)
        )
    return folder


def recipe(prepared: Path, name: str = "ktl_pictures", **keys: Any) -> DataRecipe:
    return DataRecipe(source=f"tfds:{name}", data_dir=str(prepared), **keys)


def numbers(examples: Examples, indices: np.ndarray) -> list[int]:
    return [int(np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0]) for data in examples.raw(indices)]


def stored_numbers(prepared: Path, split: str) -> list[int]:
    """TFDS' own reading, decoded, in its order."""
    builder = tfds.builder("ktl_pictures", data_dir=prepared)
    read = tfds.ReadConfig(interleave_cycle_length=1)
    return [int(row["image"].numpy()[0, 0, 0]) for row in builder.as_dataset(split=split, read_config=read)]


def test_whole_set_has_labels_ids_and_given_splits(prepared: Path) -> None:
    examples = open_examples(recipe(prepared))
    assert len(examples) == TRAIN_COUNT + TEST_COUNT
    assert examples.ids[0] == "train:000000" and examples.ids[-1] == f"test:{TEST_COUNT - 1:06d}"
    assert list(examples.splits) == ["train"] * TRAIN_COUNT + ["test"] * TEST_COUNT
    assert examples.class_names == ("ant", "bee", "cow")
    assert "1 of 4 class names: no image has them" in examples.skipped
    found = numbers(examples, np.arange(len(examples)))
    assert found == stored_numbers(prepared, "train") + stored_numbers(prepared, "test")
    assert [number % 3 for number in found[:TRAIN_COUNT]] == list(examples.labels[:TRAIN_COUNT])
    assert found[:TRAIN_COUNT] != sorted(found[:TRAIN_COUNT]), (
        "the control: the stored order is one of its own"
    )


def test_any_indices_give_their_own_images_across_shards_and_splits(prepared: Path) -> None:
    examples = open_examples(recipe(prepared))
    whole = numbers(examples, np.arange(len(examples)))
    for indices in ([0], [5, 19, 20, 21, 44, 59], [58, 61, 71], []):
        assert numbers(examples, np.array(indices, np.int64)) == [whole[index] for index in indices]
    with pytest.raises(ValueError, match="strictly"):
        examples.raw(np.array([2, 1]))


def test_a_damaged_file_of_a_set_ends_the_reading(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "tfds")
    examples = open_examples(recipe(tmp_path / "tfds"))
    every = np.arange(len(examples))
    assert len(numbers(examples, every)) == TRAIN_COUNT + TEST_COUNT, "the control"
    file = sorted((tmp_path / "tfds").rglob("ktl_pictures-train.tfrecord-00001*"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    for read in (lambda: numbers(examples, every), lambda: open_examples(recipe(tmp_path / "tfds"))):
        with pytest.raises(
            DataError,
            match=r"ktl_pictures/1.2.0 in .* are damaged: corrupted record at [0-9]+. Prepare it again",
        ):
            read()


def test_parts_of_a_split_keep_the_ids_of_the_whole(prepared: Path) -> None:
    whole = open_examples(recipe(prepared))
    by_id = dict(zip(whole.ids, numbers(whole, np.arange(len(whole))), strict=True))
    parts = open_examples(
        recipe(
            prepared,
            train_split="train[:50%]+test[6:]",
            validation_split="train[50%:75%]",
            test_split="train[-15:]",
        )
    )
    assert list(parts.splits) == ["train"] * 36 + ["validation"] * 15 + ["test"] * 15
    assert parts.ids[36] == "train:000030" and parts.ids[-1] == "train:000059"
    found = numbers(parts, np.arange(len(parts)))
    assert found == [by_id[identity] for identity in parts.ids]


def test_a_default_split_that_was_asked_for_elsewhere_is_not_used_twice(prepared: Path) -> None:
    examples = open_examples(recipe(prepared, train_split="train+test"))
    assert set(examples.splits) == {"train"} and len(examples) == TRAIN_COUNT + TEST_COUNT


def test_images_without_a_label_are_left_out_and_listed(prepared: Path) -> None:
    examples = open_examples(recipe(prepared, "ktl_hidden_test"))
    assert set(examples.splits) == {"train"} and len(examples) == TRAIN_COUNT - 1
    assert "split 'test': its images have no labels" in examples.skipped
    assert "split 'train': 1 images without a label" in examples.skipped
    assert 7 not in numbers(examples, np.arange(len(examples)))
    with pytest.raises(DataError, match="test split 'test' of 'tfds:ktl_hidden_test' holds no labels"):
        open_examples(recipe(prepared, "ktl_hidden_test", test_split="test"))


def test_validation_is_carved_from_train_the_same_each_time(prepared: Path) -> None:
    data = recipe(prepared, "ktl_pictures:1.2.0")
    first, second = (make_splits(open_examples(data), data) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.test.count == TEST_COUNT and 0 < first.validation.count < TRAIN_COUNT / 3


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown": (
        {"name": "cifar1O"},
        ("Unknown TFDS set 'cifar1O'", "Did you mean 'cifar10'?", "kerastl datasets"),
    ),
    "prepared but misspelt": ({"name": "ktl_picture"}, ("Did you mean 'ktl_pictures'?",)),
    "not prepared": (
        {"name": "cifar10"},
        (
            "'cifar10' is not prepared in '{prepared}/cifar10",
            "download_and_prepare()",
            "data_dir='{prepared}'",
            "--data-dir",
        ),
    ),
    "unknown config": (
        {"name": "emnist/balancd"},
        ("cannot open 'emnist/balancd'", "balancd not found", "NAME/config"),
    ),
    "unknown version": ({"name": "mnist:9.9.9"}, ("cannot open 'mnist:9.9.9'",)),
    "no name": ({"name": ""}, ("cannot open ''",)),
    "no images": (
        {"name": "ktl_sentences", "modality": "image"},
        ("not one for image classification", "text: Text, label: ClassLabel"),
    ),
    "unknown split": (
        {"train_split": "trian"},
        ("data.train_split = 'trian'", "Did you mean 'train'?", "'train', 'test'", "train[:80%]"),
    ),
    "malformed split": (
        {"test_split": "test[:x%]"},
        ("data.test_split = 'test[:x%]'", "Expected one of 'train', 'test'"),
    ),
    "empty part": ({"train_split": "train[:0]"}, ("train split 'train[:0]'", "holds no labels")),
    "overlap": (
        {"train_split": "train", "test_split": "train[90%:]"},
        (
            "data.test_split and data.train_split of 'tfds:ktl_pictures'",
            "'train:000054' twice",
            "do not overlap",
        ),
    ),
}


@pytest.mark.parametrize("keys, fragments", BAD.values(), ids=BAD.keys())
def test_sets_that_cannot_be_used(prepared: Path, keys: dict[str, Any], fragments: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        open_examples(recipe(prepared, **keys))
    for fragment in fragments:
        assert fragment.format(prepared=prepared) in str(caught.value)


def test_listing_finds_what_is_prepared_and_imports_nothing_heavy(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = tmp_path / "emnist" / "balanced" / "3.1.0"
    nested.mkdir(parents=True)
    (nested / "dataset_info.json").write_text(
        '{"splits": [{"name": "train", "shardLengths": ["112000", "800"]}, {"name": "test"}]}',
        encoding="utf-8",
    )
    (tmp_path / "broken" / "1.0.0").mkdir(parents=True)
    (tmp_path / "broken" / "1.0.0" / "dataset_info.json").write_text("{", encoding="utf-8")
    (tmp_path / "downloads" / "extracted" / "x.incomplete").mkdir(parents=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert prepared_datasets() == [
        ("broken", "1.0.0: dataset_info.json cannot be read"),
        ("emnist/balanced", "3.1.0: train 112,800, test 0"),
    ]
    assert ("ktl_pictures", "1.2.0: train 60, test 12") in prepared_datasets(str(prepared))
    assert prepared_datasets(str(tmp_path / "nowhere")) == []


def test_the_data_room_imports_neither_tensorflow_nor_tfds() -> None:
    import subprocess

    code = (
        "import sys, kerastl.data.sources, kerastl.data.tfds_listing as tfds; tfds.prepared_datasets('nowhere'); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'tensorflow_datasets', 'sklearn', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (
        subprocess.run([sys.executable, "-c", "import tensorflow_datasets; " + code], check=False).returncode
        == 1
    )


class KtlRebuilt(_Pictures):
    """A set that is prepared twice under one version; some of its images are equal."""

    FEATURES: ClassVar[dict[str, Any]] = KtlHiddenTest.FEATURES
    later = 0

    def row(self, number: int) -> dict[str, Any]:
        row = super().row(number)
        shade = number % 100 // 4 * 4 + (self.later if number >= 40 else 0)
        return {**row, "image": np.full((4, 4, 3), shade, np.uint8)}


def keys_of_images(folder: Path) -> set[bytes]:
    """What the data and the rows of their images are known by."""
    data = DataRecipe(source="tfds:ktl_rebuilt", data_dir=str(folder))
    splits = make_splits(open_examples(data), data)
    return {splits.fingerprint.encode(), *(names_of(split).tobytes() for split in splits)}


def test_a_set_that_was_prepared_anew_under_its_version_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the 16 images that a feature's key looks at, only the files tell."""
    KtlRebuilt(data_dir=tmp_path).download_and_prepare()
    before = keys_of_images(tmp_path)
    assert before == keys_of_images(tmp_path), "the control: what was not touched stays"
    shutil.rmtree(tmp_path / "ktl_rebuilt")
    monkeypatch.setattr(KtlRebuilt, "later", 1)
    KtlRebuilt(data_dir=tmp_path).download_and_prepare()
    after = keys_of_images(tmp_path)
    assert len(before) == len(after) == 4 and not before & after


def test_equal_images_stay_together_or_are_named(tmp_path: Path) -> None:
    KtlRebuilt(data_dir=tmp_path).download_and_prepare()
    data = DataRecipe(source="tfds:ktl_rebuilt", data_dir=str(tmp_path))
    splits = make_splits(open_examples(data), data)
    assert any("12 test images are copies of train images" in line for line in splits.warnings)
    data = DataRecipe(
        source="tfds:ktl_rebuilt", data_dir=str(tmp_path), train_split="train+test", test_split=None
    )
    splits = make_splits(open_examples(data), data)
    seen = [set(numbers(part.examples, part.indices)) for part in splits]
    assert splits.test.count and not seen[0] & seen[2]
