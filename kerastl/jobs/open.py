"""Opens the data of a recipe: its examples, split, and what follows from them for the recipe."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kerastl.data.examples import Examples, Splits, spread_positions
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.modality import bytes_of, modality_of
from kerastl.recipe import Asked, Recipe, Settings, resolve


def open_splits(
    recipe: Recipe, *written: Path | str, examples: Examples | None = None
) -> tuple[Settings, Splits]:
    """Index and split the recipe's data, and fill in what the recipe leaves to the rule.

    Args:
        recipe: what the user asks for.
        written: folders that will be written to.
        examples: those of the recipe's data, where they are open already, or were handed over in Python.

    Raises:
        DataError: the data cannot be used, are of another modality than the backbone's, or a folder to write to lies where the
            next run would take it for a class.
    """
    check_apart(recipe.data.source, *written)
    examples = open_examples(recipe.data) if examples is None else examples
    check_modality(examples, recipe)
    splits = make_splits(examples, recipe.data)
    recipe, splits = with_measured(recipe, splits)
    return resolve(recipe, splits.train.count, len(splits.class_names)), splits


def check_modality(examples: Examples, recipe: Recipe) -> None:
    """Raise DataError where the examples are of a kind that the backbone does not take."""
    takes = modality_of(recipe)
    if examples.recipe is not None and examples.recipe.modality not in (None, takes.name):
        raise DataError(
            f"The examples of the data ({examples.origin}) are {examples.noun}s, and the backbone '{recipe.backbone.name}' takes {takes.noun}s. Name "
            "other data (--data), or a backbone for these (--backbone)."
        )


def with_measured(recipe: Asked, splits: Splits) -> tuple[Asked, Splits]:
    """Fill in what follows from some training examples; the modality may have something to warn of."""
    split = splits.train

    def raw(count: int) -> Iterator[bytes]:
        if split.examples.stamps.shape[1]:
            positions = spread_positions(split.count, count)
        else:
            positions = np.arange(min(split.count, count))  # TFDS reads from the front
        for each in split.raw(positions):
            with contextlib.suppress(OSError):  # decoding tells why
                yield bytes_of(each)

    values, warning = modality_of(recipe).measure(recipe.data, raw)
    if warning:
        splits = dataclasses.replace(splits, warnings=(*splits.warnings, warning))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **values)), splits
