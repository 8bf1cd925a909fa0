"""Opens the data of a recipe: its examples, split, and what follows from them for the recipe."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.backbones import get_backbone
from kerastl.data.entity_examples import in_rows
from kerastl.data.examples import Examples, Splits, spread_positions
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.modality import bytes_of, modality_of
from kerastl.model.weights import weights_folder
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
    recipe = for_examples(recipe, examples)
    splits = make_splits(examples, recipe.data)
    recipe, splits = with_measured(with_own_keys(recipe), splits)
    settings = resolve(recipe, splits.train.count, len(splits.class_names))
    splits = in_rows(splits, modality_of(settings))
    return resolve(recipe, splits.train.count, len(splits.class_names)), splits


def for_examples(recipe: Recipe, examples: Examples) -> Recipe:
    """The recipe with the backbone for such examples, where it names none.

    Raises:
        DataError: the examples are of a kind that the backbone does not take.
    """
    takes = modality_of(recipe)
    if examples.recipe is not None and examples.recipe.modality not in (None, takes.name):
        if recipe.kind_is_open:
            unnamed: dict[str, Any] = {"name": None}
            data = dataclasses.replace(recipe.data, modality=examples.recipe.modality)
            return dataclasses.replace(
                recipe, data=data, backbone=dataclasses.replace(recipe.backbone, **unnamed)
            )
        raise DataError(
            f"The examples of the data ({examples.origin}) are {examples.noun}s, and the backbone '{recipe.backbone.name}' takes {takes.noun}s. Name "
            "other data (--data), or a backbone for these (--backbone)."
        )
    return recipe


def with_own_keys(recipe: Asked) -> Asked:
    """Fill in what follows from the files beside the backbone's weights.

    Raises:
        UserError: one that is needed is not there, or is another backbone's.
        WeightsError: the weights are in no such folder.
    """
    spec = get_backbone(recipe.backbone.name)
    found = modality_of(recipe).beside_weights(recipe.data, weights_folder(spec, recipe.backbone), spec)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **found)) if found else recipe


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
