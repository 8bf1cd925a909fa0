"""Which views training shows: at the input one for each epoch, elsewhere those that are kept, with a warning where they are few."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_backbone_file

from kerastl.features.cache import Cache
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import set_up
from kerastl.recipe import AugmentRecipe, Recipe, load_recipe, resolve
from kerastl.recipe.rule import view_warnings
from kerastl.training.two_phase import transfer

LATER = "block1_out"


def recipe_with(**changes: Any) -> Recipe:
    flags = {
        "backbone.name": small_backbone_file(), "head_phase.epochs": 1, "cache.mode": "memory",
        "finetune_phase.patience_epochs": 0,
    }  # fmt: skip
    return load_recipe(flags=flags | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize(("point", "views", "shown"), [("input", 2, 5), (LATER, 2, 2), ("input", 1, 1)])
def test_at_the_input_each_epoch_has_a_view_of_its_own(
    solid_colours: Path, tmp_path: Path, point: str, views: int, shown: int
) -> None:
    recipe, splits = open_splits(
        recipe_with(
            data__source=str(solid_colours), finetune_phase__epochs=5, finetune_phase__unfreeze_from=point,
            augment__views=views,
        )
    )  # fmt: skip
    seen: set[int] = set()
    with Cache(recipe.cache, tmp_path) as cache:
        start = set_up(recipe, splits, cache)
        read = start.train.activations
        assert read is not None

        def watched(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
            seen.update(np.unique(view).tolist())
            return read(positions, view)

        train = dataclasses.replace(start.train, activations=watched)
        transfer(start.network, start.parts, train, start.validation, recipe)
    assert seen == set(range(shown))


@pytest.mark.parametrize(
    ("views", "epochs", "point", "warned"),
    [
        (2, 7, LATER, True),
        (2, 6, LATER, False),
        (2, 60, "input", False),
        (2, 60, "backbone", False),
        (1, 60, LATER, False),
    ],
)
def test_few_views_in_many_epochs_are_warned_of(views: int, epochs: int, point: str, warned: bool) -> None:
    found = view_warnings(
        recipe_with(augment__views=views, finetune_phase__epochs=epochs, finetune_phase__unfreeze_from=point)
    )
    assert bool(found) is warned
    if warned:
        assert "7 fine-tune epochs show the same 2 views" in found[0] and "(to 3 or more" in found[0]


@pytest.mark.parametrize(
    ("augment", "warned"),
    [
        (AugmentRecipe(level="none"), False),
        (AugmentRecipe(level="none", crop_min_area=0.7), True),
        (AugmentRecipe(level="none", crop_min_area=0.7, views=1), False),
        (AugmentRecipe(level="light", crop_min_area=0.7), False),
    ],
)
def test_a_level_of_none_beside_changes_of_its_own_is_warned_of(augment: AugmentRecipe, warned: bool) -> None:
    found = view_warnings(resolve(Recipe(augment=augment), 1000, 10))
    assert any("crop_min_area" in line for line in found) == warned
