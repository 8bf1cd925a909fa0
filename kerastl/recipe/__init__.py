"""Recipes: their keys, the sources of values, and the rule that fills in the rest."""

from kerastl.recipe.load import (
    load_recipe,
    recipe_from_dict,
    recipe_keys,
    recipe_to_dict,
    recipe_to_toml,
    settings_from_dict,
    shipped_recipes,
)
from kerastl.recipe.rule import resolve
from kerastl.recipe.schema import (
    AugmentRecipe,
    BackboneRecipe,
    CacheRecipe,
    DataRecipe,
    FinetunePhaseRecipe,
    HeadPhaseRecipe,
    HeadRecipe,
    PhaseRecipe,
)
from kerastl.recipe.settings import Asked, Recipe, Settings

__all__ = [
    "Asked",
    "AugmentRecipe",
    "BackboneRecipe",
    "CacheRecipe",
    "DataRecipe",
    "FinetunePhaseRecipe",
    "HeadPhaseRecipe",
    "HeadRecipe",
    "PhaseRecipe",
    "Recipe",
    "Settings",
    "load_recipe",
    "recipe_from_dict",
    "recipe_keys",
    "recipe_to_dict",
    "recipe_to_toml",
    "resolve",
    "settings_from_dict",
    "shipped_recipes",
]
