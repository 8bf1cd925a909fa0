"""Groups that have to stay in one split: those that the recipe names, and examples of equal content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kerastl.data.duplicates import UNIQUE
from kerastl.data.examples import (
    CARVE,
    SPLIT_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    Examples,
    listed,
    text_column,
    whole_labels,
)
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe
from kerastl.wording import counted

_SHOWN = 2


def group_by_pattern(examples: Examples, pattern: str) -> Examples:
    """The examples with the groups that `data.group_pattern` finds in their identities.

    Args:
        examples: without groups of their own.
        pattern: a regular expression; what its parentheses match is the group, without any the whole match.

    Raises:
        DataError: the source names groups itself.
    """
    if (examples.groups != "").any():
        raise DataError(
            f"The {examples.origin} names groups itself, and data.group_pattern = '{pattern}' would name others. Leave "
            "out data.group_pattern, or set data.group_column to a column that is not there."
        )
    search = re.compile(pattern).search
    shared: dict[str, str] = {}
    groups = []
    for identity in examples.ids:
        found = search(identity)
        parts = [part or "" for part in found.groups()] or [found[0]] if found else []
        group = "/".join(parts) if any(parts) else ""
        groups.append(shared.setdefault(group, group))
    column = text_column(groups)
    alone = examples.ids[column == ""]
    warning = (
        f"data.group_pattern = '{pattern}' finds no group in {len(alone):,} of {len(groups):,} paths, such as "
        f"{listed(list(alone[:_SHOWN]))}: each of them stands for itself."
    )
    warnings = (*examples.warnings, warning) if len(alone) else examples.warnings
    return replace(examples, groups=column, warnings=warnings)


def check_groups(examples: Examples, data: DataRecipe) -> None:
    """Refuse keys that ask for groups where there is none.

    Raises:
        DataError: they match nothing.
    """
    if (examples.groups != "").any():
        return
    if data.group_pattern is not None:
        raise DataError(
            f"data.group_pattern = '{data.group_pattern}' matches none of the paths of the {examples.origin}, such as "
            f"{listed(list(examples.ids[:_SHOWN]), _SHOWN)}. Expected a regular expression such as '(patient[0-9]+)_'."
        )
    if data.group_subfolders:
        raise DataError(
            f"data.group_subfolders = true, but no {examples.noun} of the {examples.origin} lies in a folder below the folder of "
            "its class (FOLDER/cat/monday/1.jpg). Lay them so, or set data.group_subfolders = false."
        )


def keep_copies_together(examples: Examples) -> Examples:
    """The examples with all of equal content in one group, as far as given splits allow.

    Copies get the name of the smallest group among them, or else of the smallest identity, so that an example
    without copies, and the first of several, lie where they would lie alone. Groups that share a content become
    one. Copies in different given splits stay where the source put them, and a warning says so. So do sentences of documents:
    short ones that many documents repeat would make one group of all; see `copies_held_out`.
    """
    if examples.contents is None or not (examples.contents != UNIQUE).any():
        return examples
    rows = np.flatnonzero(examples.contents != UNIQUE)
    rows = rows[np.argsort(examples.contents[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(examples.contents[rows])) + 1
    copies = sorted(np.split(rows, bounds), key=lambda members: int(members[0]))
    joined = _Joined(examples)
    for members in copies:
        joined.join(members if examples.annotated is None else members[examples.groups[members] == ""])
    warnings = (*examples.warnings, *_warnings(examples, copies))
    return replace(examples, groups=joined.groups(), warnings=warnings)


def copies_held_out(examples: Examples, sides: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Sentences of carved splits that training, or validation for those of the test, has in another document.

    Args:
        examples: after `keep_copies_together`.
        sides: int8 [n], the number of each one's split among train, validation and test.

    Returns:
        Positions, int64, increasing, and a warning where there are some.
    """
    if examples.annotated is None or examples.contents is None:
        return np.zeros(0, np.int64), ()
    rows = np.flatnonzero(examples.contents != UNIQUE)
    order = rows[np.argsort(sides[rows], kind="stable")]
    first = np.zeros(len(examples), np.int64)
    first[examples.contents[order[::-1]]] = order[::-1]
    first = first[examples.contents[rows]]
    is_copy = (sides[rows] > sides[first]) & (
        examples.splits[rows] != np.array(SPLIT_NAMES, object)[sides[rows]]
    )
    rows, first = rows[is_copy], first[is_copy]
    if not len(rows):
        return rows, ()
    numbers = [f"{(sides[rows] == code).sum():,} {SPLIT_NAMES[code]}" for code in np.unique(sides[rows])]
    warning = (
        f"{' and '.join(numbers)} {examples.noun}s are left out, as they are copies of {examples.noun}s of other documents that are "
        f"learnt from or validated on, such as {_pair(examples, (rows[0], first[0]))}."
    )
    return rows, (warning,)


_Node = tuple[int, str]  # (0, a group) or (1, an identity): the smallest gives the name


class _Joined:
    """Groups and single examples that were joined, none of them across two given splits."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._above: dict[_Node, _Node] = {}
        self._given = {
            (0, group): split
            for group, split in zip(examples.groups, examples.splits, strict=True)
            if group and split != CARVE
        }

    def join(self, rows: np.ndarray) -> None:
        """Join copies, those of each given split by themselves; open ones go with the first of these."""
        tops: dict[str, _Node] = {}
        open_ones: list[_Node] = []
        for row in rows:
            node = self._node(row)
            top = self._top(node)
            given = self._given.get(top) or (self._examples.splits[row] if node[0] else CARVE)
            if given == CARVE:
                open_ones.append(top)
            else:
                tops[given] = self._unite(top, tops.get(given, top), given)
        given, first = next(iter(tops.items()), (CARVE, None))
        for node in open_ones:
            first = self._unite(self._top(node), self._top(first or node), given)

    def groups(self) -> np.ndarray:
        """Object [n]: the group of each example."""
        column = self._examples.groups.copy()
        for row in range(len(column)):
            node = self._node(row)
            if node in self._above:
                column[row] = self._top(node)[1]
        return column

    def _node(self, row: int) -> _Node:
        group = self._examples.groups[row]
        return (0, group) if group else (1, self._examples.ids[row])

    def _top(self, node: _Node) -> _Node:
        while (above := self._above.get(node, node)) != node:
            self._above[node] = self._above.get(above, above)
            node = above
        return node

    def _unite(self, one: _Node, other: _Node, given: str) -> _Node:
        top = min(one, other)
        self._above[one] = self._above[other] = self._above[top] = top
        if given != CARVE:
            self._given[top] = given
        return top


def _warnings(examples: Examples, copies: list[np.ndarray]) -> Iterator[str]:
    is_joined = examples.annotated is None or not (examples.groups != "").any()
    extra = sum(len(members) for members in copies) - len(copies)
    yield (
        f"{extra:,} of {len(examples):,} {examples.noun}s are copies of others, byte for byte, such as "
        f"{_pair(examples, copies[0][:2])}. {'Copies stay in one split' if is_joined else 'Each stays with its document'}."
    )
    mixed = [members for members in copies if _differ(whole_labels(examples)[members])]
    if mixed:
        yield (
            f"{counted(len(mixed), f'{examples.noun} has', f'{examples.noun}s have')} copies with another label, such as {_pair(examples, _unlike(examples, mixed[0]))}. "
            f"One of the labels is wrong, or the {examples.noun} has both."
        )
    for split, others in ((TEST, (TRAIN, VALIDATION)), (VALIDATION, (TRAIN,))):
        for other in others:
            pairs = [
                (here, there[0])
                for members in copies
                if len(there := members[examples.splits[members] == other])
                for here in members[examples.splits[members] == split]
            ]
            if pairs:
                yield (
                    f"{len(pairs):,} {split} {examples.noun}s are copies of {other} {examples.noun}s, byte for byte, such as "
                    f"{_pair(examples, pairs[0])}. The {examples.origin} gives these splits, so they stay, but the figures "
                    f"of {split} are too good: take the copies out."
                )


def _pair(examples: Examples, rows: np.ndarray | tuple[int, ...]) -> str:
    return " and ".join(f"'{examples.ids[row]}'" for row in rows)


def _differ(labels: np.ndarray) -> bool:
    return bool((labels != labels[0]).any())


def _unlike(examples: Examples, members: np.ndarray) -> tuple[int, int]:
    """Two of the copies whose labels differ."""
    first = members[0]
    labels = whole_labels(examples)
    return first, next(row for row in members if np.any(labels[row] != labels[first]))
