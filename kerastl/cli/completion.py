"""Shell completion: names that kerastl knows, and files.

Click writes the scripts for bash, zsh and fish; README.md says how they are switched on. An item of the type `file` or
`dir` leaves the word to the shell where no name fits. It stands first, because bash's script forgets what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from kerastl.backbones import backbone_names, get_backbone
from kerastl.errors import KerastlError
from kerastl.export.versions import model_names
from kerastl.recipe.load import recipe_keys, shipped_recipes

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def words(names: Iterable[str], otherwise: str = "") -> Complete:
    """Offer fixed names, and `file` or `dir` where none fits."""
    return lambda context, parameter, begun: _fitting(names, begun, otherwise)


def backbones(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the names of networks; after a comma the next one."""
    before, comma, _ = begun.rpartition(",")
    return _fitting((before + comma + name for name in backbone_names()), begun, "file")


def unfreeze_points(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the unfreeze points of the backbone that was named, or what every network has."""
    try:
        points = get_backbone(context.params.get("backbone__name") or "").unfreeze_points
    except KerastlError:
        points = ("backbone", "input")
    return _fitting(points, begun)


def recipes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer shipped recipes, and files."""
    return _fitting(shipped_recipes(), begun, "file")


def spaces(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer shipped search spaces, and files."""
    from kerastl.search import shipped_spaces

    return _fitting(shipped_spaces(), begun, "file")


def keys(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer KEY= of every recipe key, and behind it its choices."""
    key, equals, _ = begun.partition("=")
    known = {name: item.metadata["choices"] or () for name, item, _ in recipe_keys()}
    if equals:
        return _fitting((f"{key}={choice}" for choice in known.get(key, ())), begun)
    return _fitting((f"{name}=" for name in known), begun)


def runs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the folders of runs in runs/, the newest first, and folders."""
    found = sorted(Path("runs").glob("*/recipe.toml"), reverse=True)
    return _fitting((str(recipe.parent) for recipe in found), begun, "dir")


def models(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the names of exported models."""
    return _fitting(model_names(context.params["models_dir"]), begun)


def _fitting(names: Iterable[str], begun: str, otherwise: str = "") -> list[CompletionItem]:
    shell = [CompletionItem(begun, type=otherwise)] if otherwise else []
    return shell + [CompletionItem(name) for name in names if name.startswith(begun)]
