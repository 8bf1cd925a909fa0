"""Names of classes and labels: how they are read, which cannot be used, and which look like a mistake."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from kerastl.data.examples import Examples, label_counts, listed
from kerastl.errors import DataError

# What spreadsheets, pandas, NumPy and databases write where there is no value. Not "none": many a class is called so.
NO_VALUE = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "nat", "null"})
SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""Names of the splits, as folders or in a manifest, in lower case."""
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_MARKS = (",", ";", "|", "\t", "/", " ")
# Signs that few names hold otherwise; a blank or a slash has to be seen in several names that share a word.
_PLAIN_MARKS = ",;|\t"
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def class_name(text: str) -> str:
    """The text without blanks around it and in Unicode's composed form (NFC, Unicode Annex 15).

    macOS writes é as e and an accent, everybody else as one character: the two look alike and are not equal.
    """
    return unicodedata.normalize("NFC", text.strip())


def words_of(cell: str, separator: str) -> list[str]:
    """The labels of a multi-label cell, sorted and without repeats; none for an empty cell.

    Args:
        cell: labels with the separator between them, or a JSON, Python or NumPy list of them.
        separator: `data.label_separator`.

    Example:
        >>> words_of("['sea', 'sky']", "|"), words_of("sky | sea", "|")
        (['sea', 'sky'], ['sea', 'sky'])
    """
    words = listed_words(cell)
    return sorted({class_name(word) for word in (cell.split(separator) if words is None else words)} - {""})


def listed_words(cell: str) -> list[str] | None:
    """The items of a list that is written out, as text; None where the cell is no list of words or numbers."""
    cell = cell.strip()
    if len(cell) < 2 or _BRACKETS.get(cell[0]) != cell[-1]:
        return None
    try:
        items = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            # NumPy puts no comma between its items, and Python would join them to one word.
            items = ast.literal_eval(re.sub(r"(['\"])\s+(?=['\"])", r"\1, ", cell))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(items, (list, tuple, set)) or not all(
        isinstance(item, (str, int, float, type(None))) for item in items
    ):
        return None
    return [str(item) for item in items if item is not None and item == item]


def has_one_line(name: str) -> bool:
    """True if a name is valid Unicode without a line break: `labels.txt` beside a model holds a name a line."""
    return "\n" not in name and "\r" not in name and name.encode("utf-8", "replace").decode("utf-8") == name


def check_names(class_names: Sequence[str], origin: str) -> None:
    """Refuse class names that no model could be exported with, before anything is trained.

    Raises:
        DataError: there are some.
    """
    bad = [ascii(name) for name in class_names if not has_one_line(name)]
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5:,} more" if len(bad) > 5 else "")
        raise DataError(
            f"The {origin} has class names with a line break, or that are not valid Unicode: {shown}. An exported model "
            "could not name them: rename the class."
        )


def checked_names(examples: Examples) -> Examples:
    """The examples with warnings of doubtful class names.

    Raises:
        DataError: a class has a name that no model can be exported with.
    """
    check_names(examples.class_names, examples.origin)
    counts = label_counts(examples.labels, len(examples.class_names)).tolist()
    doubts = doubtful_names(dict(zip(examples.class_names, counts, strict=True)))
    return replace(examples, warnings=(*examples.warnings, *doubts))


def doubtful_names(counts: Mapping[str, int]) -> list[str]:
    """Warnings of classes that look like one class written in two ways, or like no class.

    Args:
        counts: class name -> number of examples.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in counts:
        alike[_likeness(name)].append(name)
    twins = [sorted(names) for names in alike.values() if len(names) > 1]
    lines = []
    if twins:
        shown = "; ".join(
            " and ".join(f"'{name}' ({counts[name]:,})" for name in names) for names in sorted(twins)[:3]
        )
        more = f"; and {len(twins) - 3:,} more" if len(twins) > 3 else ""
        lines.append(
            "Class names that differ only in letter case, blanks, sign or form of a number stand for different classes "
            f"here (examples): {shown}{more}. If they mean the same, write them alike."
        )
    return lines


def empty_words(counts: Mapping[str, int], what: str, cure: str) -> list[str]:
    """A warning of words that often stand for no value at all, such as nan.

    Args:
        counts: word -> number of rows.
        what: they are, such as 'label'.
        cure: what to do where no value is meant.
    """
    found = sorted(word for word in counts if word.lower() in NO_VALUE)
    if not found:
        return []
    rows = sum(counts[word] for word in found)
    return [f"{rows:,} rows have the {what} {listed(found)}, which often stands for no value. If so, {cure}."]


def doubtful_separators(names: Sequence[str], separator: str, single: bool) -> list[str]:
    """Warnings of labels that look like several labels in one.

    Args:
        names: the distinct labels.
        separator: that they were split at; '' for data of one label an example.
        single: whether no cell held more than one label.
    """
    for mark in _MARKS:
        if mark == separator or (not single and mark not in _PLAIN_MARKS):
            continue
        if not separator and mark != "|":
            continue
        holding = [name for name in names if mark in name]
        parts = Counter(part.strip() for name in holding for part in set(name.split(mark)))
        shared = any(count > 1 for part, count in parts.items() if part) or bool(parts.keys() & set(names))
        if not holding or not (shared or (single and separator and mark in _PLAIN_MARKS)):
            continue
        found = f"{len(holding):,} of {len(names):,} labels hold {mark!r}, such as {listed(holding, 1)}"
        if not separator:
            return [
                f"{found}: each combination is a class of its own. If one example may have several, set "
                "data.task = 'multi_label'."
            ]
        return [
            f"{found}: each combination is a label of its own. If {mark!r} separates labels, set data.label_separator "
            f"(--set 'data.label_separator=\"{mark}\"')."
        ]
    if not separator and any(listed_words(name) is not None for name in names):
        return [
            "Labels that are lists are classes of their own. If one example may have several, set data.task = 'multi_label'."
        ]
    return []


def _likeness(name: str) -> str:
    """A form that is equal for names that mean the same to a reader."""
    text = unicodedata.normalize("NFKC", name)
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf").strip()
    if _NUMBER.fullmatch(text):
        return str(Fraction(text))
    # Of single letters, a and A are often two classes: letters to be read.
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text.casefold() if len(text) > 1 else text)
