"""The recipe of a Python call: names, data and options that are handed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerastl.backbones import backbone_names, is_own
from kerastl.data.examples import Examples
from kerastl.errors import UserError, nearest
from kerastl.modality.recipe import DataKeys
from kerastl.recipe import DataRecipe, Recipe, load_recipe, recipe_to_dict, shipped_recipes
from kerastl.recipe.flags import keys_from_options
from kerastl.recipe.load import recipe_from_dict
from kerastl.recipe.schema import HANDED
from kerastl.task import task_of_source


def recipe_for(
    recipe: Recipe | str | Path | None, examples: Examples | None, options: Mapping[str, Any]
) -> Recipe:
    """The checked recipe of a Python call.

    Args:
        recipe: as `fit` takes it.
        examples: whose source it will name.
        options: as `fit` takes them; they win over the recipe.
    """
    flags = keys_from_options(options)
    if examples is not None:
        defaults = DataRecipe()
        given = vars(examples.recipe) if examples.recipe else {}
        own = {f"data.{key}": value for key, value in given.items() if value != getattr(defaults, key)}
        flags = {"data.source": defaults.source, **own, **flags}
    if isinstance(recipe, Recipe):
        return _changed(recipe, flags)
    name = None if recipe is None else str(recipe)
    if name is not None and (is_own(name) or name in backbone_names(None)):
        return load_recipe(None, flags={"backbone.name": name, **flags})
    if name is not None and name not in shipped_recipes() and not Path(name).expanduser().exists():
        raise UserError(
            f"'{name}' is no recipe and no backbone.{nearest(name, [*shipped_recipes(), *backbone_names(None)])} Expected the name of "
            "one (`kerastl backbones` lists these), a .toml file, a .keras file or a preset (kerashub:FOLDER)"
        )
    return load_recipe(recipe, flags=flags)


def usable(examples: Examples | None, recipe: Recipe) -> Examples | None:
    """The examples where the recipe means them as they are; None where they have to be opened anew by other keys."""
    if examples is None or recipe.data.source.startswith(HANDED) or examples.recipe is None:
        return examples
    opened = dataclasses.replace(
        Recipe(data=examples.recipe).data, **{key: getattr(recipe.data, key) for key in _AFTER_OPENING}
    )
    return examples if opened == recipe.data else None


# Keys of `[data]` that are read when examples are split and decoded, not when they are opened.
_AFTER_OPENING = (
    "split_salt", "validation_fraction", "test_fraction", "examples_per_class", "max_unreadable_fraction",
    *(field.name for field in dataclasses.fields(DataKeys)),
)  # fmt: skip


def _changed(recipe: Recipe, flags: Mapping[str, Any]) -> Recipe:
    if not flags:
        return recipe
    values = recipe_to_dict(recipe)
    if recipe.names_no_backbone:
        del values["backbone"]["name"]
    if flags.get("data.source") and recipe.data.task == task_of_source(recipe.data.source):
        values.get("data", {}).pop("task", None)  # as the other data have it
    for dotted, value in flags.items():
        *table, last = dotted.split(".")
        inner = values.setdefault(table[0], {}) if table else values
        if value is not None:
            inner[last] = value
    return recipe_from_dict(values)
