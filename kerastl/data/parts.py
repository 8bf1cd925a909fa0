"""Examples that are handed over in parts: some to learn from, and perhaps some to validate and to test on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from kerastl.data.examples import CARVE, TEST, TRAIN, VALIDATION, repeated
from kerastl.data.kinds import Kind
from kerastl.data.labels import labels_of
from kerastl.errors import DataError
from kerastl.wording import counted

# Labels, class names, splits and groups; see `kerastl.data.examples.Examples`.
Columns: TypeAlias = tuple[np.ndarray, tuple[str, ...], np.ndarray, np.ndarray]


def columns_of(
    kind: Kind,
    read: Callable[[Any, str], int],
    given: tuple[str, Any],
    labelled: tuple[str, Any],
    validation: tuple[Any, Any] | None,
    test: tuple[Any, Any] | None,
    groups: Sequence[Any] | None,
    class_names: Sequence[str] | None,
    task: str | None,
) -> Columns:
    """The columns of examples that are handed over with their labels, and perhaps with those to validate and test on.

    Args:
        kind: of the examples.
        read: takes the examples of an argument and its name, and counts them.
        given: name of the argument, and the examples.
        labelled: name of the argument, and their labels.
        validation: examples and labels; carved without them.
        test: examples and labels; carved without them.
        groups: for each of the first examples; None for none.
        class_names: in the order of class numbers or columns.
        task: by the labels without it.

    Raises:
        DataError: they do not fit each other, or labels cannot be read.
    """
    parts = [(given[0], labelled[0], TRAIN if validation and test else CARVE, given[1], labelled[1])]
    for name, pair in ((VALIDATION, validation), (TEST, test)):
        if pair is not None:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise DataError(
                    f"{name} is a {type(pair).__name__}; expected a pair ({given[0]}, {labelled[0]})"
                )
            parts.append((f"{name}[0]", f"{name}[1]", name, *pair))
    counts = []
    for of_examples, of_labels, _, some, some_labels in parts:
        count = read(some, of_examples)
        if not count or count != len(some_labels):
            raise DataError(
                f"{of_examples} holds {counted(count, kind.noun)} and {of_labels} {counted(len(some_labels), 'label')}. Expected as many "
                f"labels as {kind.noun}s, at least one"
            )
        counts.append(count)
    splits = np.concatenate([repeated(part[2], count) for part, count in zip(parts, counts, strict=True)])
    labels, names = labels_of([(part[1], part[4]) for part in parts], class_names, task)
    return np.concatenate(labels), names, splits, _groups(groups, counts, kind.noun, given[0])


def _groups(groups: Sequence[Any] | None, counts: Sequence[int], noun: str, given: str) -> np.ndarray:
    column = repeated("", sum(counts))
    if groups is None:
        return column
    if len(groups) != counts[0]:
        raise DataError(
            f"groups holds {len(groups):,} values for {counted(counts[0], noun)}. Expected one for each of {given}"
        )
    for row, group in enumerate(groups):
        column[row] = "" if group is None or group != group else str(group)
    return column
