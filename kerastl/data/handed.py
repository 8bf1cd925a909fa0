"""Examples that are handed over in Python: arrays, texts, DataFrames, `tf.data.Dataset`s; folders and TFDS sets by their names.

Arrays become lossless PNG files in memory, once, so that the one decoder, the identity of contents and the check of an
export are the same for them as for all other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastl.data.contents import examples_in_memory
from kerastl.data.duplicates import digest_of
from kerastl.data.examples import TEST, VALIDATION, Examples
from kerastl.data.kinds import IMAGE, TEXT, Kind
from kerastl.data.manifest import examples_of_table
from kerastl.data.manifest_rows import Table
from kerastl.data.names import checked_names
from kerastl.data.parts import Columns, columns_of
from kerastl.data.pixels import images_of, pixels_of
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.texts import utf8_texts
from kerastl.errors import DataError
from kerastl.recipe import recipe_from_dict
from kerastl.recipe.schema import HANDED, DataRecipe
from kerastl.wording import counted

if TYPE_CHECKING:
    import tensorflow as tf

# Level 6 makes files a tenth smaller and takes three times as long.
_PNG_LEVEL = 1
# A value for each row of an image's rightful range; what stays below was hardly meant.
_DARK = 1


def from_folder(folder: Path | str, **keys: Any) -> Examples:
    """The labelled images or texts of a folder with one folder a class, or of a .csv, .parquet or .jsonl manifest.

    Args:
        folder: what `data.source` of a recipe names.
        **keys: other keys of `[data]`, such as `group_subfolders=True` or `path_column="file"`; see docs/recipes.md.

    Returns:
        The examples, in the order of their paths; no file of them is read yet.

    Raises:
        DataError: it does not exist, or is not laid out as expected.
        RecipeError: a key does not exist, or does not take its value.

    Example:
        >>> kerastl.from_folder("photos").class_names
        ('daisy', 'rose')
    """
    return open_examples(_data_recipe(str(folder), keys))


def from_tfds(name: str, **keys: Any) -> Examples:
    """The images or texts of a TensorFlow Datasets set that is prepared on this machine; nothing is downloaded.

    Args:
        name: of the set, such as `cifar10`, `NAME/config` or `NAME:version`.
        **keys: other keys of `[data]`, such as `data_dir` or `train_split="train[:80%]"`.

    Raises:
        DataError: the set is unknown, not prepared, or not for classification of images or texts.
        RecipeError: a key does not exist, or does not take its value.
    """
    return open_examples(_data_recipe(f"tfds:{name.removeprefix('tfds:')}", keys))


def from_frame(frame: Any, folder: Path | str = ".", **keys: Any) -> Examples:
    """The images whose paths and labels, or the texts and labels that are columns of a pandas or polars DataFrame.

    Args:
        frame: with the columns `path` (or `text`) and `label`, and perhaps `split` and `group`; anything with `columns` and
            `frame[name]` will do.
        folder: where relative paths start from.
        **keys: other keys of `[data]`, such as `path_column="file"`, `label_column="species"` or `task="multi_label"`.

    Returns:
        The examples, in the order of their paths, or of digests of the texts.

    Raises:
        DataError: columns, paths, texts or labels are missing, or rows contradict each other.
        RecipeError: a key does not exist, or does not take its value.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
        raise DataError(f"A {type(frame).__name__} is no DataFrame: expected `columns` and `frame[name]`")
    data = _data_recipe(f"{HANDED}frame", keys)
    return checked_names(examples_of_table(Table(Path(folder) / "rows", data, "DataFrame", frame)))


def from_arrays(
    x: Any,
    y: Any,
    *,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    groups: Sequence[Any] | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """Labelled images in arrays.

    Args:
        x: whole numbers or fractions 0..255, [n, height, width, 3] (RGB), [n, height, width, 1] or [n, height, width];
            or a list of images of any sizes, of Pillow's as well. Fractions are rounded to the next level.
        y: for each image a class number or name, or one-hot rows; for several labels a 0/1 matrix [n, classes], or a list
            of names for each image.
        validation: images and labels to validate on, (x, y); carved from the others without it.
        test: images and labels for the test; carved without it.
        groups: for each of `x` what it belongs to, such as a patient: equal values stay in one split; None for none.
        class_names: in the order of class numbers or columns.
        task: `classification` or `multi_label`; by the labels without it.

    Returns:
        The examples: those of `x` in their order, then validation and test. An image's identity is a digest of its pixels,
        so that neither order nor other images decide which split it falls into.

    Raises:
        DataError: images or labels cannot be read so.

    Example:
        >>> data = kerastl.from_arrays(x_train, y_train, test=(x_test, y_test), class_names=["cat", "dog"])
    """
    stored: list[tuple[bytes, int, int]] = []

    def read(part: Any, name: str) -> int:
        before = len(stored)
        stored.extend(_stored(pixels) for pixels in pixels_of(images_of(part, name), name))
        return len(stored) - before

    columns = columns_of(IMAGE, read, ("x", x), ("y", y), validation, test, groups, class_names, task)
    dark = max(brightest for _, _, brightest in stored) <= _DARK
    return _examples(
        IMAGE,
        [file for file, _, _ in stored],
        [digest for _, digest, _ in stored],
        columns,
        "arrays",
        ("No image holds a value above 1: expected 0..255.",) * dark,
    )


def from_texts(
    texts: Sequence[str],
    labels: Any,
    *,
    validation: tuple[Sequence[str], Any] | None = None,
    test: tuple[Sequence[str], Any] | None = None,
    groups: Sequence[Any] | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """Labelled texts.

    Args:
        texts: a list, array or column of str.
        labels: for each text a class number or name, or one-hot rows; for several labels a 0/1 matrix [n, classes], or a list of
            names for each text.
        validation: texts and labels to validate on; carved from the others without it.
        test: texts and labels for the test; carved without it.
        groups: for each of `texts` what it belongs to, such as an author: equal values stay in one split; None for none.
        class_names: in the order of class numbers or columns.
        task: `classification` or `multi_label`; by the labels without it.

    Returns:
        The examples: those of `texts` in their order, then validation and test. A text's identity is a digest of its bytes in
        UTF-8, so that neither order nor other texts decide which split it falls into; equal texts fall into one.

    Raises:
        DataError: texts or labels cannot be read so, or a text is empty.

    Example:
        >>> kerastl.from_texts(["a great film", "two lost hours"], ["good", "bad"]).class_names
        ('bad', 'good')
    """
    raw: list[bytes] = []

    def read(part: Any, name: str) -> int:
        found = utf8_texts(part, name)
        raw.extend(found)
        return len(found)

    columns = columns_of(
        TEXT, read, ("texts", texts), ("labels", labels), validation, test, groups, class_names, task
    )
    return _examples(TEXT, raw, [digest_of(text) for text in raw], columns, "texts")


def from_dataset(
    dataset: tf.data.Dataset,
    *,
    validation: tf.data.Dataset | None = None,
    test: tf.data.Dataset | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
) -> Examples:
    """The (image, label) pairs of a finite `tf.data.Dataset`, batched or not; it is read once.

    Args:
        dataset: what Keras' `fit` would take: images as `from_arrays` takes them, unscaled and without augmentation.
        validation: pairs to validate on; carved from the others without it.
        test: pairs for the test; carved without it.
        class_names: in the order of class numbers; where the dataset has `class_names` of its own (as
            `keras.utils.image_dataset_from_directory` makes them), these without it.
        task: `classification` or `multi_label`; by the labels without it.

    Raises:
        DataError: it does not end, does not give pairs, or images or labels cannot be read so.
    """
    names = class_names or getattr(dataset, "class_names", None)
    pairs = [
        _pairs(each, name)
        for name, each in (("dataset", dataset), (VALIDATION, validation), (TEST, test))
        if each is not None
    ]
    return from_arrays(
        *pairs[0],
        validation=pairs[1] if validation is not None else None,
        test=pairs[-1] if test is not None else None,
        class_names=names,
        task=task,
    )


def _data_recipe(source: str, keys: dict[str, Any]) -> DataRecipe:
    return recipe_from_dict({"data": {**keys, "source": source}}, origin="from_...()").data


def _pairs(dataset: tf.data.Dataset, name: str) -> tuple[list[Any], Any]:
    """Images and labels of all elements, one by one."""
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) != 2 or not hasattr(dataset, "as_numpy_iterator"):
        raise DataError(f"{name} is no tf.data.Dataset of (image, label) pairs; its elements are {spec}")
    if int(dataset.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise DataError(f"{name} does not end. Leave out repeat(), or cut it with take(n)")
    images, labels = [], []
    for image, label in dataset.as_numpy_iterator():
        batched = np.ndim(image) == 4 or (
            np.ndim(image) == 3 and np.ndim(label) > 0 and len(label) == len(image)
        )
        images += list(image) if batched else [image]
        labels += list(label) if batched else [label]
    if not images:
        raise DataError(f"{name} is empty. Expected (image, label) pairs")
    return images, np.stack(labels)


def _stored(pixels: np.ndarray) -> tuple[bytes, int, int]:
    """PNG, digest of the pixels, and the brightest of them."""
    content = f"{pixels.shape} ".encode() + pixels.tobytes()
    return encode_png(pixels, _PNG_LEVEL), digest_of(content), int(pixels.max())


def _examples(
    kind: Kind,
    raw: Sequence[bytes],
    digests: Sequence[int],
    columns: Columns,
    what: str,
    warnings: tuple[str, ...] = (),
) -> Examples:
    task = "classification" if columns[0].ndim == 1 else "multi_label"
    return checked_names(
        examples_in_memory(
            raw,
            np.array(digests, np.int64),
            *columns,
            noun=kind.noun,
            origin=f"{counted(len(raw), kind.noun)} in {what}"
            if kind is IMAGE
            else counted(len(raw), kind.noun),
            place=HANDED,
            recipe=DataRecipe(source=f"{HANDED}{what}", task=task, modality=kind.modality),
            warnings=warnings,
        )
    )
