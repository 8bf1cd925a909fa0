"""Division into train, validation and test by a stable hash, so that an example never changes sides.

Why a hash of the example's identity alone (`_share`):

- An example's side depends on nothing but itself: adding, removing or reordering others moves none,
  and no seed does. A shuffle, or scikit-learn's stratified split, moves nearly all when one is added;
  then last week's test examples are in this week's training.
- The class is left out of the hash, so that mending a wrong label in a manifest does not move the
  example either. The division is stratified all the same: the hash knows nothing of classes, so each
  class has the same share in expectation, n·p examples give or take √(n·p·(1−p)). Classes of few
  examples need ranks, and a rank changes with every example that is added: see `kerastl.data.carving`.
- In a group (all pictures of one patient, say) the group's name is hashed in place of the identity.

The idea is TensorFlow's own for retraining (`which_set`, Speech Commands, P. Warden 2018).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from kerastl.data.carving import LEAST_PER_CLASS, TEST_SIDE, TRAIN_SIDE, VALIDATION_SIDE, Wanted, carve
from kerastl.data.examples import (
    CARVE,
    SPLIT_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    Examples,
    Split,
    Splits,
    fingerprint,
    label_counts,
    listed,
    some_examples,
    whole_labels,
)
from kerastl.data.grouping import check_groups, copies_held_out, keep_copies_together
from kerastl.errors import DataError, nearest
from kerastl.modality.recipe import fewest_key
from kerastl.recipe.schema import DataRecipe
from kerastl.wording import counted

_NOT_GIVEN = -1


def make_splits(examples: Examples, data: DataRecipe) -> Splits:
    """Divide examples into train, validation and test.

    A split that the source gives is kept as it is. One that it lacks is carved from the examples
    whose split is left open, or, where none is, from the given train split; what remains is train.
    `data.examples_per_class` then thins the train split alone: fewer examples to learn from must not
    change what they are measured on. The examples kept for 10 a class are among those kept for 20.

    Args:
        examples: from `open_examples`.
        data: `validation_fraction`, `test_fraction`, `split_salt`, `fewest_per_class` and `examples_per_class`
            are read.

    Raises:
        DataError: if there are too few classes, examples of a class, or examples in a split, or if a
            group lies in two given splits.
    """
    try:
        check_groups(examples, data)
        if data.fewest_per_class is not None:
            examples = _without_small_classes(examples, data.fewest_per_class)
        _check_given(examples)
        examples = keep_copies_together(examples)
        sides = _sides(examples, data)
        left_out, warnings = copies_held_out(examples, sides)
        sides[left_out] = _NOT_GIVEN
        examples = replace(examples, warnings=(*examples.warnings, *warnings))
        _check_sides(examples, sides, data)
    except DataError as error:
        # What was left out, or counts as one example, is often why.
        raise DataError("\n  - ".join([str(error), *examples.warnings])) from error
    train = np.flatnonzero(sides == TRAIN_SIDE)
    if data.examples_per_class is not None:
        train = _thinned(examples, train, data.examples_per_class)
    rows = (train, np.flatnonzero(sides == VALIDATION_SIDE), np.flatnonzero(sides == TEST_SIDE))
    splits = [Split(name, examples, indices) for name, indices in zip(SPLIT_NAMES, rows, strict=True)]
    return Splits(
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        class_names=examples.class_names,
        fingerprint=fingerprint((), rows, examples.fingerprint),
        warnings=(*examples.warnings, *_warnings(splits)),
    )


def _share(text: str, purpose: bytes, salt: bytes) -> bytes:
    """Eight bytes that are as good as random, but the same for the same text, on any machine."""
    encoded = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=8, person=purpose, salt=salt).digest()


def _shares(texts: np.ndarray, purpose: bytes, salt: int = 0) -> np.ndarray:
    """float64 [n] in [0, 1), a pure function of each text and the salt."""
    salt_bytes = salt.to_bytes(8, "little")
    digests = b"".join(_share(text, purpose, salt_bytes) for text in texts)
    # The upper 53 bits are what a float64 holds: rounding up to 1.0 cannot happen.
    return (np.frombuffer(digests, dtype=">u8") >> 11) * 2.0**-53


def _sides(examples: Examples, data: DataRecipe) -> np.ndarray:
    """int8 [n]: which split each example belongs to."""
    sides = np.full(len(examples), _NOT_GIVEN, dtype=np.int8)
    for code, name in enumerate(SPLIT_NAMES):
        sides[examples.splits == name] = code
    has_open = bool((sides == _NOT_GIVEN).any())
    has_validation, has_test = bool((sides == VALIDATION_SIDE).any()), bool((sides == TEST_SIDE).any())
    grouped = np.flatnonzero(examples.groups != "")
    if len(grouped):
        _keep_groups_together(examples, sides, grouped)
    pool = np.flatnonzero(sides == (_NOT_GIVEN if has_open else TRAIN_SIDE))
    identities = examples.ids[pool]
    in_group = examples.groups[pool] != ""
    identities[in_group] = examples.groups[pool][in_group]
    units = np.arange(len(pool))
    units[in_group] = len(pool) + np.unique(identities[in_group], return_inverse=True)[1]
    test = 0.0 if has_test else data.test_fraction
    wanted = Wanted(test, 0.0 if has_validation else data.validation_fraction * (1 - test))
    fixed = np.zeros(len(examples.class_names), np.int64)
    if has_open:
        fixed += label_counts(examples.labels[sides == TRAIN_SIDE], len(fixed))
    shares = _shares(identities, b"kerastl split", data.split_salt)
    sides[pool] = carve(units, shares, whole_labels(examples)[pool], fixed, wanted)
    return sides


def _keep_groups_together(examples: Examples, sides: np.ndarray, grouped: np.ndarray) -> None:
    """Members of a group whose split is open follow those whose split is given."""
    given: dict[str, int] = {}
    torn: dict[str, str] = {}
    for row in grouped[sides[grouped] != _NOT_GIVEN]:
        group, side = examples.groups[row], int(sides[row])
        first = given.setdefault(group, side)
        if first != side:
            torn.setdefault(group, f"{SPLIT_NAMES[min(first, side)]} and {SPLIT_NAMES[max(first, side)]}")
    if torn:
        group, where = next(iter(torn.items()))
        more = f" (and {len(torn) - 1:,} more groups)" if len(torn) > 1 else ""
        raise DataError(
            f"Group '{group}' is in both {where}{more} in the {examples.origin}. "
            "A group must lie in one split: mend the split column, or leave it empty to have it carved by group."
        )
    for row in grouped[sides[grouped] == _NOT_GIVEN]:
        sides[row] = given.get(examples.groups[row], _NOT_GIVEN)


def _without_small_classes(examples: Examples, at_least: int) -> Examples:
    """The examples less the classes that have fewer examples to learn from, with a warning of them."""
    held_out = np.isin(examples.splits, (VALIDATION, TEST))
    counts = label_counts(examples.labels[~held_out], len(examples.class_names))
    small = np.flatnonzero(counts < at_least)
    if not len(small):
        return examples
    kept = some_examples(examples, np.flatnonzero(counts >= at_least))
    lost = len(examples) - len(kept)
    named = listed([examples.class_names[code] for code in small])
    warning = (
        f"{len(small):,} of {len(counts):,} classes have fewer than {at_least} {examples.noun}s to learn from "
        f"({fewest_key(examples.noun)}) and are left out, with {counted(lost, examples.noun)}: {named}."
    )
    return replace(kept, warnings=(*kept.warnings, warning))


def _check_given(examples: Examples) -> None:
    """Checks that no division could mend: too few classes, or classes that cannot be learnt."""
    names, class_count = examples.class_names, len(examples.class_names)
    counts = label_counts(examples.labels, class_count)
    present = [name for name, count in zip(names, counts, strict=True) if count]
    if len(present) < 2 and examples.task.exclusive:
        found = f"one class only: {listed(present)}" if present else f"no labelled {examples.noun}s"
        raise DataError(
            f"The {examples.origin} has {found}. Expected at least 2 classes to tell apart.{_folders_within(examples)}"
        )
    held_out = np.isin(examples.splits, (VALIDATION, TEST))
    learnable = label_counts(examples.labels[~held_out], class_count)
    for split in (TEST, VALIDATION):
        there = label_counts(examples.labels[examples.splits == split], class_count)
        missing = [
            name for name, here, learnt in zip(names, there, learnable, strict=True) if here and not learnt
        ]
        if missing:
            known = [name for name, learnt in zip(names, learnable, strict=True) if learnt]
            hint = nearest(missing[0], known) if len(missing) == 1 else ""
            raise DataError(
                f"{_classes(missing)} in {split} but not in train in the {examples.origin}.{hint} "
                f"Add training {examples.noun}s, or take {'it' if len(missing) == 1 else 'them'} out of {split}."
            )
    _raise_if_few(examples, learnable, "")


def _folders_within(examples: Examples) -> str:
    """A hint, where the only class is a folder that holds others: archives often unpack so."""
    paths = [identity.split("/") for identity in examples.ids[examples.splits == CARVE]]
    within = sorted({parts[1] for parts in paths if len(parts) > 2})
    if len(within) < 2 or not examples.origin.startswith("folder "):
        return ""
    return f" '{paths[0][0]}' holds the folders {listed(within)}: if these are the classes, set data.source to '{paths[0][0]}' there."


def _raise_if_few(examples: Examples, counts: np.ndarray, after: str) -> None:
    few = [
        f"{name}' ({count}"
        for name, count in zip(examples.class_names, counts, strict=True)
        if count < LEAST_PER_CLASS
    ]
    if few:
        shown = ", ".join(f"'{text})" for text in few[:5]) + (
            f" and {len(few) - 5:,} more" if len(few) > 5 else ""
        )
        raise DataError(
            f"Too few training {examples.noun}s in the {examples.origin}{after}: {shown}; at least {LEAST_PER_CLASS} needed in "
            f"each class. Add {examples.noun}s, or leave {'this class' if len(few) == 1 else 'such classes'} out "
            f"(--set {fewest_key(examples.noun)}={LEAST_PER_CLASS})"
            + (
                ", or lower data.test_fraction or data.validation_fraction, or give the splits yourself."
                if after
                else "."
            )
        )


def _check_sides(examples: Examples, sides: np.ndarray, data: DataRecipe) -> None:
    given = set(np.unique(examples.splits))
    pool_name = "train" if "" not in given else "unassigned"
    pool_count = int((examples.splits == ("" if "" in given else TRAIN)).sum())
    for code, split in ((VALIDATION_SIDE, VALIDATION), (TEST_SIDE, TEST)):
        if not (sides == code).any():
            fraction = getattr(data, f"{split}_fraction")
            grouped = examples.groups[examples.groups != ""]
            what = "groups" if len(grouped) else f"{examples.noun}s"
            within = f" (in {len(set(grouped)):,} groups)" if len(grouped) else ""
            raise DataError(
                f"The {split} split came out empty: data.{split}_fraction = {fraction:g} of {pool_count:,} {pool_name} "
                f"{examples.noun}s{within} in the {examples.origin}. Add {what}, raise data.{split}_fraction, or give a {split} split "
                f"yourself ({split}/ folder, manifest column or TFDS split)."
            )
    learnt = label_counts(examples.labels[sides == TRAIN_SIDE], len(examples.class_names))
    _raise_if_few(examples, learnt, " after validation and test were carved off")


def _thinned(examples: Examples, train: np.ndarray, per_class: int) -> np.ndarray:
    """Of each class the `per_class` examples with the smallest hash; all where there are fewer.

    With several labels an example is kept if any of its classes keeps it; those without a label count
    as a class of their own.
    """
    order = train[np.argsort(_shares(examples.ids[train], b"kerastl thin"), kind="stable")]
    labels = whole_labels(examples)[order]
    if examples.task.exclusive:
        by_class = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[by_class], np.arange(len(examples.class_names)))
        rank = np.arange(len(labels)) - starts[labels[by_class]]
        return np.sort(order[by_class[rank < per_class]])
    none = labels.sum(axis=1, keepdims=True) == 0
    member = np.concatenate([labels.astype(bool), none], axis=1)
    keep = (member & (np.cumsum(member, axis=0) <= per_class)).any(axis=1)
    return np.sort(order[keep])


def _classes(names: list[str]) -> str:
    return f"Class {listed(names)} is" if len(names) == 1 else f"Classes {listed(names)} are"


def _warnings(splits: list[Split]) -> tuple[str, ...]:
    lines = []
    for split in splits[1:]:
        names = split.examples.class_names
        counts = label_counts(split.labels, len(names))
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if absent:
            lines.append(f"{_classes(absent)} absent from {split.name}: its figures say nothing of them.")
    return tuple(lines)
