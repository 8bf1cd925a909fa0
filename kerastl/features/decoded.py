"""Splits of the data, decoded: which of their examples can be read, and the inputs of those."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import tensorflow as tf

from kerastl.data.examples import SPLIT_NAMES, Split, Splits, label_counts, listed, without
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.inputs import AGAIN, Inputs, decode_split
from kerastl.features.views import FrozenViews, Views
from kerastl.modality import Modality, modality_of
from kerastl.modality.cuts import Cutting
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.wording import counted

NAMED_UNREADABLE = 5


@dataclass(frozen=True)
class DecodedSplits:
    """Split and decoded examples.

    Attributes:
        recipe: fully resolved.
        splits: the examples of each split that could be read.
        inputs: the decoded examples of each split, read or decoded where they are asked for.
        unreadable: identity of an example -> why it was left out.
    """

    recipe: Settings
    splits: Splits
    inputs: dict[str, Inputs]
    unreadable: dict[str, str]

    @property
    def converted(self) -> dict[str, int]:
        """Format -> how many of the examples that were read so far were converted first, as TensorFlow does not decode it."""
        total: Counter[str] = Counter()
        for inputs in self.inputs.values():
            total.update(inputs.converted)
        return dict(total)

    def views(self, split: str) -> Views:
        """The examples of a split with their labels and the recipe's augmentation."""
        part: Split = getattr(self.splits, split)
        classes = len(self.splits.class_names)
        inputs = self.inputs[split]
        return Views(
            inputs,
            inputs.modality,
            part.labels,
            classes,
            part.ids,
            self.recipe.augment,
            self.recipe.task,
            groups=part.groups,
        )

    def frozen_views(self, split: str) -> FrozenViews:
        """The same with how many of them are wanted: all of the recipe's for training, else the example itself."""
        part: Split = getattr(self.splits, split)
        count = self.recipe.augment.views if split == "train" else 1
        inputs, about = self.inputs[split], {"data": part.examples.origin}
        facts = inputs.modality.facts()
        return FrozenViews(split, self.views(split), count, inputs.contents, facts, about)


def decode_splits(
    recipe: Settings,
    splits: Splits,
    cache: Cache,
    progress: Progress,
    names: Collection[str] = SPLIT_NAMES,
    reading: str = AGAIN,
) -> DecodedSplits:
    """Make examples readable, decoded; unreadable ones are left out and listed.

    Args:
        recipe: resolved.
        splits: from `open_splits`.
        cache: keeps the decoded inputs.
        progress: listens.
        names: the splits to decode; the examples of others are not even opened.
        reading: how examples are read; see `kerastl.features.inputs.decode_split`.

    Raises:
        DataError: where more than `data.max_unreadable_fraction` of the examples cannot be read, or none of
            a split or of a training class are left.
    """
    modality = modality_of(recipe)
    inputs: dict[str, Inputs] = {}
    kept: dict[str, Split] = {split.name: split for split in splits}
    unreadable: dict[str, str] = {}
    decoded = [split for split in splits if split.name in names]
    for split in decoded:
        inputs[split.name], reasons = decode_split(split, modality, cache, progress, reading)
        ids = split.ids
        unreadable |= {str(ids[position]): reason for position, reason in reasons.items()}
        kept[split.name] = without(split, reasons)
        if reasons and len(reasons) == split.count:
            raise DataError(
                f"None of the {split.count} {split.name} {modality.noun}s can be read; the first is {ids[0]}: {reasons[0]}. "
                "Mend or replace these files"
            )
    warnings = reading_warnings(unreadable.values(), {}, modality)
    for warning in warnings:
        progress.warn(warning)
    readable = dataclasses.replace(
        splits,
        train=kept["train"],
        validation=kept["validation"],
        test=kept["test"],
        warnings=(*splits.warnings, *warnings),
    )
    skipped = splits.train.examples.skipped_pictures
    _check_unreadable(unreadable, skipped, sum(split.count for split in decoded), recipe)
    if not recipe.task.per_step:  # of a tag within a type there may be none
        _check_classes(readable.train, readable.class_names, modality.noun)
    return DecodedSplits(recipe, readable, inputs, unreadable)


@contextmanager
def lost_examples_named(decoded: DecodedSplits) -> Iterator[None]:
    """While examples may be decoded within TensorFlow, which would pass on no more than words of what went wrong.

    Raises:
        DataError: an example cannot be read any more.
    """
    try:
        yield
    except tf.errors.OpError:
        for inputs in decoded.inputs.values():
            if inputs.failure:
                raise inputs.failure from None
        raise


def reading_warnings(
    reasons: Iterable[str], converted: Mapping[str, int], modality: Modality | type[Modality]
) -> tuple[str, ...]:
    """Warnings about the examples that were decoded: those left out, and those that were converted first.

    Args:
        reasons: why examples were left out.
        converted: format -> how many were converted before they were decoded.
        modality: of the examples.
    """
    left_out = Counter(reasons)
    warnings = []
    for word, kinds in (("left out, because they cannot be read", left_out), (modality.converted, converted)):
        if kinds:
            parts = ", ".join(
                f"{count:,} {kind}" for kind, count in Counter(kinds).most_common(NAMED_UNREADABLE)
            )
            more = ", ..." if len(kinds) > NAMED_UNREADABLE else ""
            warnings.append(f"{counted(sum(kinds.values()), modality.noun)} ({parts}{more}) {word}.")
    return tuple(warnings)


def cut_warnings(decoded: DecodedSplits) -> tuple[str, ...]:
    """A warning about the training examples of which the network sees a part; of words that are answered one by one there are none."""
    modality, inputs = modality_of(decoded.recipe), decoded.inputs["train"]
    if not isinstance(modality, Cutting) or decoded.recipe.task.per_step or not inputs.cut:
        return ()
    count = f"{inputs.cut:,} of {counted(len(inputs), f'training {modality.noun}')}"
    return (f"{count} {'is' if inputs.cut == 1 else 'are'} {modality.cut_words}.",)


def _check_unreadable(unreadable: dict[str, str], skipped: int, total: int, recipe: Settings) -> None:
    data = recipe.data
    lost, total = len(unreadable) + skipped, total + skipped
    share = lost / max(total, 1)
    if share <= data.max_unreadable_fraction:
        return
    named = "; ".join(f"{name} ({reason})" for name, reason in list(unreadable.items())[:NAMED_UNREADABLE])
    raise DataError(
        f"{lost} of {total} {modality_of(recipe).noun}s cannot be read, a share of {share:.1%}; "
        f"data.max_unreadable_fraction allows {data.max_unreadable_fraction:.1%}. "
        + (f"{skipped} were left out before, as the warnings say. " if skipped else "")
        + (f"The first: {named}. " if named else "")
        + "Replace or remove these files, or raise that key"
    )


def _check_classes(train: Split, class_names: tuple[str, ...], noun: str) -> None:
    counts = label_counts(train.labels, len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"No readable training {noun} is left of {listed(empty)}. Add {noun}s, or remove the class"
        )
