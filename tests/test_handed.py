"""Examples that are handed over in Python: arrays, DataFrames and tf.data.Datasets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kerastl
from kerastl.data.duplicates import UNIQUE
from kerastl.data.examples import Examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, RecipeError
from kerastl.modality import bytes_of

X = np.random.default_rng(0).integers(0, 256, (40, 6, 9, 3)).astype(np.uint8)
Y = np.arange(40) % 2


def decoded(examples: Examples, *indices: int) -> list[np.ndarray]:
    found = examples.raw(np.array(indices))
    return [np.asarray(Image.open(io.BytesIO(bytes_of(each)))) for each in found]


class Frame:
    """As much of a DataFrame as is asked for."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns, self._values = list(columns), columns

    def __getitem__(self, name: str) -> list[Any]:
        return self._values[name]

    def __len__(self) -> int:
        return len(self._values[self.columns[0]])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, pixels in enumerate(X[:8]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X, X),
        (X.astype(np.float64), X),
        (X.astype(np.int64), X),
        (X - 0.4 * (X > 0), X),  # to the nearest level
        (X[..., :1], X[..., 0]),
        (X[..., 0], X[..., 0]),
        (list(X), X),
        ([Image.fromarray(each) for each in X], X),
        ([Image.fromarray(each[..., 0]) for each in X], X[..., 0]),
    ],
)
def test_pixels_are_kept_to_the_level(x: Any, expected: np.ndarray) -> None:
    examples = kerastl.from_arrays(x, Y)
    assert all(
        np.array_equal(a, b) for a, b in zip(decoded(examples, 0, 3, 39), expected[[0, 3, 39]], strict=True)
    )
    assert list(examples.raw(np.array([], np.int64))) == []


def test_tensors_are_arrays() -> None:
    import tensorflow as tf

    examples = kerastl.from_arrays(tf.constant(X), tf.constant(Y))
    assert np.array_equal(decoded(examples, 7)[0], X[7])


def test_images_may_have_different_sizes_and_palettes() -> None:
    palette = Image.fromarray(X[1]).convert("P")
    examples = kerastl.from_arrays([X[0][:4], palette, X[2][:, :5, :1]], [0, 1, 0])
    small, second, grey = decoded(examples, 0, 1, 2)
    assert small.shape == (4, 9, 3) and grey.shape == (6, 5)
    assert np.array_equal(second, np.asarray(palette.convert("RGB")))


WRONG = [
    (X / 255, Y, "fractions of at most 1. Expected 0..255"),
    (X / 127.5 - 1, Y, r"\(x \+ 1\) \* 127.5"),
    (X.astype(np.uint16) * 257, Y, "16 bits, pass x / 257"),
    (np.where(X > 250, np.nan, X), Y, "no finite numbers"),
    (X > 100, Y, "type bool"),
    (np.moveaxis(X, 3, 1), Y, "Channels come last"),
    (np.zeros((4, 8, 8, 4), np.uint8), Y[:4], "alpha channel"),
    (X[0], Y, "6 images and y 40 labels"),
    (X[:, 0, 0, 0], Y, r"has the shape \(40,\)"),
    ([*list(X[:3]), X[:2]], Y[:4], r"x\[3\] has the shape"),
    (X[:0], Y[:0], "0 images and y 0 labels"),
    (Image.fromarray(X[0]), Y[:1], "x is one Image"),
    ("photos", Y, "x is one str"),
    (X, Y[:39], "40 images and y 39 labels"),
    (X, Y + 0.5, r"y\[0\] = 0.5"),
    (X, [*"ab" * 19, "a", None], r"y\[39\] has no label"),
    (X, np.full((40, 3), 2), "other values than 0 and 1"),
    (X, "ab" * 20, "y is a str"),
]


@pytest.mark.parametrize(("x", "y", "message"), WRONG)
def test_what_is_no_image_or_label_is_refused_with_what_to_do(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kerastl.from_arrays(x, y)


def test_black_images_of_fractions_are_images() -> None:
    assert len(kerastl.from_arrays(np.zeros((4, 8, 8, 3)), [0, 1, 0, 1])) == 4
    assert kerastl.from_arrays(X[:4] % 2, [0, 1, 0, 1]).warnings == (
        "No image holds a value above 1: expected 0..255.",
    )


@pytest.mark.parametrize(
    ("y", "names", "labels"),
    [
        ([3, 10, 3], ("3", "10"), [0, 1, 0]),
        (np.array([[3], [10], [3]]), ("3", "10"), [0, 1, 0]),
        ([3.0, 10.0, 3.0], ("3", "10"), [0, 1, 0]),
        (["dog", " cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (np.eye(3)[[2, 0, 2]], ("0", "1", "2"), [2, 0, 2]),
        (np.array([[1, 1], [0, 0], [0, 1]]), ("0", "1"), [[1, 1], [0, 0], [0, 1]]),
        ([["sea", "sky"], [], ["sky"]], ("sea", "sky"), [[1, 1], [0, 0], [0, 1]]),
    ],
)  # fmt: skip
def test_labels_are_numbers_names_or_rows(y: Any, names: tuple[str, ...], labels: list[Any]) -> None:
    examples = kerastl.from_arrays(X[:3], y)
    assert examples.class_names == names and examples.labels.tolist() == labels
    assert examples.labels.dtype == (np.int32 if examples.labels.ndim == 1 else np.uint8)
    assert examples.recipe is not None and examples.recipe.task == examples.task.name


def test_names_of_classes_may_be_given() -> None:
    named = {"class_names": ["cat", "dog", "owl"]}
    assert kerastl.from_arrays(X[:3], [0, 2, 0], **named).labels.tolist() == [0, 2, 0]
    assert kerastl.from_arrays(X[:3], ["owl", "cat", "cat"], **named).labels.tolist() == [2, 0, 0]
    with pytest.raises(DataError, match=r"y\[1\] = 3, but there are 3 class_names"):
        kerastl.from_arrays(X[:3], [0, 3, 0], **named)
    with pytest.raises(DataError, match=r"'dgo'.*Did you mean 'dog'"):
        kerastl.from_arrays(X[:2], ["dgo", "cat"], **named)
    with pytest.raises(DataError, match="each of them once"):
        kerastl.from_arrays(X[:2], [0, 1], class_names=["cat", "cat"])


def test_the_task_says_what_rows_mean() -> None:
    one_each = np.eye(2, dtype=int)[Y]
    assert kerastl.from_arrays(X, one_each, task="multi_label").labels.shape == (40, 2)
    with pytest.raises(DataError, match="task = 'multi_label'"):
        kerastl.from_arrays(X, Y, task="multi_label")
    with pytest.raises(DataError, match="several 1, or none"):
        kerastl.from_arrays(X, np.ones((40, 2)), task="classification")
    with pytest.raises(DataError, match="Did you mean 'multi_label'"):
        kerastl.from_arrays(X, Y, task="multilabel")


def test_a_split_depends_on_neither_order_nor_other_images() -> None:
    def test_images(x: np.ndarray, y: np.ndarray) -> set[bytes]:
        examples = kerastl.from_arrays(x, y)
        assert examples.recipe is not None
        return {x[index].tobytes() for index in make_splits(examples, examples.recipe).test.indices}

    more = np.random.default_rng(1).integers(0, 256, (400, 6, 9, 3)).astype(np.uint8)
    labels = np.arange(400) % 2
    whole = test_images(more, labels)
    assert test_images(more[::-1], labels[::-1]) == whole
    assert test_images(more[100:], labels[100:]) == whole & {each.tobytes() for each in more[100:]}


def test_equal_images_are_copies_and_keep_names_of_their_own() -> None:
    examples = kerastl.from_arrays(np.concatenate([X, X[:2]]), [*Y, *Y[:2]])
    assert len(set(examples.ids)) == 42 and (examples.contents != UNIQUE).sum() == 4
    assert examples.recipe is not None
    splits = make_splits(examples, examples.recipe)
    assert any("2 of 42 images are copies" in warning for warning in splits.warnings)


def test_other_pixels_are_other_examples() -> None:
    changed = X.copy()
    changed[3, 0, 0, 0] ^= 1
    first, second = kerastl.from_arrays(X, Y), kerastl.from_arrays(changed, Y)
    assert first.fingerprint != second.fingerprint == kerastl.from_arrays(changed, Y).fingerprint
    assert np.flatnonzero(first.ids != second.ids).tolist() == [3]
    assert np.flatnonzero((first.stamps != second.stamps).any(axis=1)).tolist() == [3]


def test_what_is_handed_over_is_copied() -> None:
    mine = X.copy()
    examples = kerastl.from_arrays(mine, Y)
    mine[:] = 0
    assert np.array_equal(decoded(examples, 5)[0], X[5])


def test_splits_and_groups_are_kept() -> None:
    examples = kerastl.from_arrays(
        X[:20], Y[:20], validation=(X[20:30], Y[20:30]), test=(X[30:], Y[30:]), groups=["a", None, *"b" * 18]
    )
    assert examples.splits.tolist() == ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
    assert examples.groups[:3].tolist() == ["a", "", "b"] and not examples.groups[20:].any()
    carved = kerastl.from_arrays(X[:30], Y[:30], test=(X[30:], Y[30:]))
    assert carved.splits.tolist() == [""] * 30 + ["test"] * 10
    with pytest.raises(DataError, match="groups holds 3 values"):
        kerastl.from_arrays(X, Y, groups=["a", "b", "c"])
    with pytest.raises(DataError, match=r"test is a ndarray; expected a pair"):
        kerastl.from_arrays(X, Y, test=X)


@pytest.mark.parametrize("batched", [False, True])
def test_a_dataset_is_read_batched_or_not(batched: bool) -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    dataset = dataset.batch(16) if batched else dataset
    examples = kerastl.from_dataset(dataset, test=dataset.take(1), class_names=["a", "b"])
    same = kerastl.from_arrays(X, Y, class_names=["a", "b"])
    assert examples.ids[:40].tolist() == same.ids.tolist() and examples.labels[:40].tolist() == Y.tolist()
    assert set(examples.splits) == {"", "test"}


def test_grey_batches_of_a_dataset_are_several_images() -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X[..., 0], np.eye(2)[Y])).batch(16)
    assert kerastl.from_dataset(dataset).ids.tolist() == kerastl.from_arrays(X[..., 0], Y).ids.tolist()


def test_a_dataset_that_does_not_end_or_gives_no_pairs_is_refused() -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    with pytest.raises(DataError, match="does not end"):
        kerastl.from_dataset(dataset.repeat())
    with pytest.raises(DataError, match=r"no tf.data.Dataset of \(image, label\) pairs"):
        kerastl.from_dataset(dataset.map(lambda image, label: image))
    with pytest.raises(DataError, match="is empty"):
        kerastl.from_dataset(dataset.take(0))
    with pytest.raises(DataError, match=r"no tf\.data\.Dataset"):
        kerastl.from_dataset([(X[0], 0)])  # type: ignore[arg-type]


def test_a_frame_names_files(pictures: Path) -> None:
    columns = {
        "file": [pictures / f"{n}.png" for n in range(7)] + ["7.png"],
        "kind": ["a", "b"] * 4,
        "patient": [1, 1, 2, 2, 3, 3, None, 4],
    }
    examples = kerastl.from_frame(
        Frame(columns), pictures, path_column="file", label_column="kind", group_column="patient"
    )
    assert examples.ids.tolist() == [f"{n}.png" for n in range(8)] and examples.class_names == ("a", "b")
    assert (
        examples.groups.tolist() == ["1", "1", "2", "2", "3", "3", "", "4"] and examples.origin == "DataFrame"
    )
    assert np.array_equal(decoded(examples, 6)[0], X[6])


def test_a_frame_is_checked_as_a_manifest_is(pictures: Path) -> None:
    columns = {"path": [f"{n}.png" for n in range(8)], "label": ["a", "b"] * 3 + ["a", None]}
    with pytest.raises(
        DataError, match=r"The DataFrame has rows that cannot be used:\n  - row 7: no label in column 'label'"
    ):
        kerastl.from_frame(Frame(columns), pictures)
    with pytest.raises(
        DataError, match="The DataFrame has the columns 'path', 'label':\n  - no column 'file'"
    ):
        kerastl.from_frame(Frame(columns), pictures, path_column="file")
    with pytest.raises(DataError, match="None of the 8 files in the DataFrame exists"):
        kerastl.from_frame(Frame({**columns, "label": ["a", "b"] * 4}), pictures / "elsewhere")
    with pytest.raises(DataError, match="is no DataFrame"):
        kerastl.from_frame([1, 2])
    several = Frame({**columns, "label": [["x", "y"], [], ["x"], "x|y", "y", "x", "y", None]})
    assert kerastl.from_frame(several, pictures, task="multi_label").labels.sum(axis=0).tolist() == [4, 4]


def test_a_folder_takes_the_keys_of_a_recipe(solid_colours: Path) -> None:
    examples = kerastl.from_folder(solid_colours, group_pattern="([0-9])[0-9][.]png")
    assert examples.class_names == ("blue", "green", "red") and set(examples.groups) == {"0", "1", "2"}
    assert examples.recipe is not None and examples.recipe.source == str(solid_colours)
    with pytest.raises(
        RecipeError, match=r"Unknown key 'data.group_patern'. Did you mean 'data.group_pattern'"
    ):
        kerastl.from_folder(solid_colours, group_patern="x")
    with pytest.raises(DataError, match="does not exist"):
        kerastl.from_folder("no such folder")
