"""Opens the data of a recipe: its examples, split, and what follows from them for the recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from kerastl.data.examples import Examples, Splits, spread_positions
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.modality.image.convert import bits_used
from kerastl.recipe import Asked, Recipe, Settings, resolve
from kerastl.wording import counted

IMAGES_MEASURED = 64


def open_splits(
    recipe: Recipe, *written: Path | str, examples: Examples | None = None
) -> tuple[Settings, Splits]:
    """Index and split the recipe's data, and fill in what the recipe leaves to the rule.

    Args:
        recipe: what the user asks for.
        written: folders that will be written to.
        examples: those of the recipe's data, where they are open already, or were handed over in Python.

    Raises:
        DataError: the data cannot be used, or a folder to write to lies where the next run would take it for a class.
    """
    check_apart(recipe.data.source, *written)
    splits = make_splits(open_examples(recipe.data) if examples is None else examples, recipe.data)
    recipe, splits = with_significant_bits(recipe, splits)
    return resolve(recipe, splits.train.count, len(splits.class_names)), splits


def with_significant_bits(recipe: Asked, splits: Splits) -> tuple[Asked, Splits]:
    """Fill in `data.significant_bits` from some training examples; where it is less than 16, a warning says so."""
    if recipe.data.significant_bits is not None:
        return recipe, splits
    split = splits.train
    if split.examples.stamps.shape[1]:
        positions = spread_positions(split.count, IMAGES_MEASURED)
    else:
        positions = np.arange(min(split.count, IMAGES_MEASURED))  # TFDS reads from the front
    images = split.examples.encoded(split.indices[positions]).ignore_errors().as_numpy_iterator()
    bits = bits_used(images)
    if bits < 16:
        warning = (
            f"Images of 16 bits use only {bits} of them, as {counted(len(positions), 'training image')} show: {2**bits - 1:,} and "
            "more is read as white, here and by the exported model. Set data.significant_bits for another range."
        )
        splits = dataclasses.replace(splits, warnings=(*splits.warnings, warning))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, significant_bits=bits)), splits
