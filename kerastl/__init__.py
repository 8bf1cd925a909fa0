"""Transfer learning on images with Keras: from labelled pictures to a model that TensorFlow Serving loads.

What stands in `__all__` is the public API. It is loaded at its first use, so that `import kerastl`
takes milliseconds and no TensorFlow.

Example:
    >>> import kerastl
    >>> recipe = kerastl.load_recipe(flags={"data.source": "flowers", "backbone.name": "resnet50"})
    >>> kerastl.fit(recipe).report
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec, backbone_names, get_backbone
    from kerastl.errors import KerastlError, UserError
    from kerastl.progress import Progress, Tracker
    from kerastl.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_toml, resolve, shipped_recipes
    from kerastl.tuning import tune
    from kerastl.workflow import (
        benchmark,
        check,
        convert,
        datasets,
        evaluate,
        fit,
        lr_range,
        plan,
        predict,
        rank,
    )
    from kerastl.workflow import export as export_run

__version__ = "0.1.0"

__all__ = [
    "BackboneSpec",
    "KerastlError",
    "Progress",
    "Recipe",
    "Tracker",
    "UserError",
    "__version__",
    "backbone_names",
    "benchmark",
    "check",
    "convert",
    "datasets",
    "evaluate",
    "export_run",
    "fit",
    "get_backbone",
    "load_recipe",
    "lr_range",
    "plan",
    "predict",
    "rank",
    "recipe_from_dict",
    "recipe_to_toml",
    "resolve",
    "shipped_recipes",
    "tune",
]

_HOMES = {
    "kerastl.backbones": ("BackboneSpec", "backbone_names", "get_backbone"),
    "kerastl.errors": ("KerastlError", "UserError"),
    "kerastl.progress": ("Progress", "Tracker"),
    "kerastl.recipe": (
        "Recipe",
        "load_recipe",
        "recipe_from_dict",
        "recipe_to_toml",
        "resolve",
        "shipped_recipes",
    ),
    "kerastl.tuning": ("tune",),
    "kerastl.workflow": (
        "benchmark",
        "check",
        "convert",
        "datasets",
        "evaluate",
        "fit",
        "lr_range",
        "plan",
        "predict",
        "rank",
    ),
}
_HOME_OF = {name: (home, name) for home, names in _HOMES.items() for name in names}
# Not `export`: that is a package, and importing it would hide a function of the same name.
_HOME_OF["export_run"] = ("kerastl.workflow", "export")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOME_OF[name]
    return getattr(importlib.import_module(home), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
