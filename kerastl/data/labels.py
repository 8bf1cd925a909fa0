"""Labels that are handed over in Python: class numbers, names, one-hot and 0/1 matrices, and lists of names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerastl.data.examples import listed
from kerastl.data.names import class_name
from kerastl.errors import DataError, nearest
from kerastl.task import TASKS

EXPECTED = (
    "Expected a class number or name for each example; for several labels each a matrix of 0 and 1 [n, classes], or a list of "
    "names for each example"
)


_ROWS = (list, tuple, set, frozenset)


def labels_of(
    parts: Sequence[tuple[str, Any]], class_names: Sequence[str] | None = None, task: str | None = None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The labels of several sets of examples in one numbering.

    Args:
        parts: name of the argument, for messages, and the labels.
        class_names: in the order of class numbers or columns; without them the names are the numbers, or the labels
            themselves, sorted.
        task: `classification` or `multi_label`; without it a matrix whose rows hold a single 1 is one-hot, and any other one
            means several labels.

    Returns:
        For each part int32 [n] or, for several labels, uint8 [n, classes]; and the class names.

    Raises:
        DataError: they cannot be read so.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"task = {task!r}.{nearest(str(task), TASKS)} Expected one of {', '.join(TASKS)}")
    if class_names is not None:
        class_names = _names(class_names)
    read = [_read(name, y) for name, y in parts]
    kinds = {kind for kind, _ in read}
    if len(kinds) > 1:
        found = ", ".join(f"{name}: {kind}" for (name, _), (kind, _) in zip(parts, read, strict=True))
        raise DataError(f"Labels of different kinds ({found}). Expected the same for all examples")
    (kind,) = kinds
    values = [value for _, value in read]
    arguments = [name for name, _ in parts]
    if kind == "numbers":
        labels, names = _from_numbers(arguments, values, class_names)
    elif kind == "names":
        labels, names = _from_names(arguments, values, class_names)
    elif kind == "lists of names":
        labels, names = _from_lists(arguments, values, class_names)
    else:
        labels, names = _from_matrices(arguments, values, class_names)
        one_hot = all(bool((matrix.sum(axis=1) == 1).all()) for matrix in labels)
        if task == "classification" and not one_hot:
            raise DataError(
                "Rows of the labels hold several 1, or none, where task = 'classification' takes one"
            )
        if one_hot and task != "multi_label":
            labels = [matrix.argmax(axis=1).astype(np.int32) for matrix in labels]
    several = labels[0].ndim == 2
    if task is not None and several != (task == "multi_label"):
        raise DataError(f"The labels are {kind}, and task = '{task}'. {EXPECTED}")
    return labels, names


def _names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_name(str(name)) for name in class_names)
    if isinstance(class_names, str) or len(set(names)) < len(names):
        raise DataError(f"class_names = {class_names!r}: expected a list of names, each of them once")
    return names


def _read(name: str, y: Any) -> tuple[str, Any]:
    """Kind of the labels, and these as integers, names, lists of names or a matrix."""
    if isinstance(y, str) or not (hasattr(y, "__len__") or hasattr(y, "__array__")):
        raise DataError(f"{name} is a {type(y).__name__}. {EXPECTED}")
    nested = not hasattr(y, "dtype") and any(isinstance(each, _ROWS) for each in y)
    if nested and not all(isinstance(each, (int, float, np.number)) for row in y for each in row):
        return "lists of names", [_list_of_names(name, row, each) for row, each in enumerate(y)]
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]  # as Keras' own data sets have them
    if values.ndim == 2:
        if values.dtype.kind not in "iufb" or not np.isin(values, (0, 1)).all():
            raise DataError(f"{name} is a matrix {values.shape} with other values than 0 and 1. {EXPECTED}")
        return "a matrix", values.astype(np.uint8)
    if values.ndim != 1:
        raise DataError(f"{name} has the shape {values.shape}. {EXPECTED}")
    if values.dtype == object:
        if any(isinstance(each, (*_ROWS, np.ndarray)) for each in values):
            return "lists of names", [_list_of_names(name, row, each) for row, each in enumerate(values)]
        missing = [row for row, each in enumerate(values) if each is None or each != each]
        if missing:
            raise DataError(f"{name}[{missing[0]}] has no label. {EXPECTED}")
        if all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in values):
            values = values.astype(np.int64)
    if values.dtype.kind in "iu":
        return "numbers", values.astype(np.int64)
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values) | (values != np.rint(values)))
        if len(bad):
            raise DataError(f"{name}[{bad[0]}] = {values[bad[0]]}. {EXPECTED}")
        return "numbers", values.astype(np.int64)
    texts = [
        each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values.tolist()
    ]
    texts = [class_name(text) for text in texts]
    if "" in texts:
        raise DataError(f"{name}[{texts.index('')}] is an empty name. {EXPECTED}")
    return "names", texts


def _list_of_names(name: str, row: int, each: Any) -> list[str]:
    if (
        isinstance(each, str)
        or not hasattr(each, "__iter__")
        or not all(isinstance(word, str) for word in each)
    ):
        raise DataError(f"{name}[{row}] = {each!r}. Expected a list of names, as the others are")
    return [class_name(word) for word in each]


def _from_numbers(
    arguments: Sequence[str], values: Sequence[np.ndarray], class_names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    if class_names is None:
        present = np.unique(np.concatenate(values))
        labels = [np.searchsorted(present, each).astype(np.int32) for each in values]
        return labels, tuple(map(str, present.tolist()))
    for name, each in zip(arguments, values, strict=True):
        bad = np.flatnonzero((each < 0) | (each >= len(class_names)))
        if len(bad):
            raise DataError(
                f"{name}[{bad[0]}] = {each[bad[0]]}, but there are {len(class_names)} class_names. Expected 0 to {len(class_names) - 1}"
            )
    return [each.astype(np.int32) for each in values], class_names


def _from_names(
    arguments: Sequence[str], values: Sequence[Sequence[str]], class_names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    names = class_names or tuple(sorted(set().union(*values)))
    place = _places(arguments, [[each] for part in values for each in part], names)
    return [np.array([place[each] for each in part], np.int32) for part in values], names


def _from_lists(
    arguments: Sequence[str], values: Sequence[Sequence[Sequence[str]]], class_names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    names = class_names or tuple(sorted({word for part in values for row in part for word in row}))
    place = _places(arguments, [row for part in values for row in part], names)
    matrices = []
    for part in values:
        matrix = np.zeros((len(part), len(names)), np.uint8)
        for row, words in enumerate(part):
            matrix[row, [place[word] for word in words]] = 1
        matrices.append(matrix)
    return matrices, names


def _from_matrices(
    arguments: Sequence[str], values: Sequence[np.ndarray], class_names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    width = values[0].shape[1] if class_names is None else len(class_names)
    for name, each in zip(arguments, values, strict=True):
        if each.shape[1] != width:
            raise DataError(f"{name} is a matrix {each.shape}. Expected a column for each of {width} classes")
    return list(values), class_names or tuple(map(str, range(width)))


def _places(
    arguments: Sequence[str], rows: Sequence[Sequence[str]], names: tuple[str, ...]
) -> dict[str, int]:
    place = {name: position for position, name in enumerate(names)}
    unknown = next((word for words in rows for word in words if word not in place), None)
    if unknown is not None:
        raise DataError(
            f"A label of {listed(list(arguments))} is '{unknown}', which is none of the class_names.{nearest(unknown, names)} "
            f"These are: {listed(names, 20)}"
        )
    return place
