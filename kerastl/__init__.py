"""Transfer learning with Keras: from labelled examples to a model that TensorFlow Serving loads.

What stands in `__all__` is the public API. It is loaded at its first use, so that `import kerastl`
takes milliseconds and no TensorFlow.

Example:
    >>> import kerastl
    >>> fitted = kerastl.fit("resnet50", kerastl.from_folder("flowers"), unfreeze_from="conv4_block6_out")
    >>> fitted.report.metrics.accuracy, fitted.predict("rose.jpg").label
    >>> fitted.export("saved_models/flowers")
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec, backbone_names, get_backbone
    from kerastl.data.entities import from_entities
    from kerastl.data.handed import (
        from_arrays,
        from_dataset,
        from_folder,
        from_frame,
        from_texts,
        from_tfds,
    )
    from kerastl.errors import KerastlError, UserError
    from kerastl.jobs.benchmark import benchmark
    from kerastl.jobs.check import check
    from kerastl.jobs.convert import convert
    from kerastl.jobs.datasets import datasets
    from kerastl.jobs.evaluate import evaluate
    from kerastl.jobs.export import export as export_run
    from kerastl.jobs.fitted import Fitted, load
    from kerastl.jobs.lr_range import lr_range
    from kerastl.jobs.net import Net
    from kerastl.jobs.plan import plan
    from kerastl.jobs.predict import predict
    from kerastl.jobs.python import build, fit, run
    from kerastl.jobs.rank import rank
    from kerastl.jobs.steps import FeatureArrays, features, finetune, finish, train_head, unfreeze
    from kerastl.progress import Progress, Tracker
    from kerastl.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_toml, resolve, shipped_recipes
    from kerastl.search import tune

__version__ = "0.1.0"

__all__ = [
    "BackboneSpec",
    "FeatureArrays",
    "Fitted",
    "KerastlError",
    "Net",
    "Progress",
    "Recipe",
    "Tracker",
    "UserError",
    "__version__",
    "backbone_names",
    "benchmark",
    "build",
    "check",
    "convert",
    "datasets",
    "evaluate",
    "export_run",
    "features",
    "finetune",
    "finish",
    "fit",
    "from_arrays",
    "from_dataset",
    "from_entities",
    "from_folder",
    "from_frame",
    "from_texts",
    "from_tfds",
    "get_backbone",
    "load",
    "load_recipe",
    "lr_range",
    "plan",
    "predict",
    "rank",
    "recipe_from_dict",
    "recipe_to_toml",
    "resolve",
    "run",
    "shipped_recipes",
    "train_head",
    "tune",
    "unfreeze",
]

_HOMES = {
    "kerastl.backbones": ("BackboneSpec", "backbone_names", "get_backbone"),
    "kerastl.data.handed": (
        "from_arrays",
        "from_dataset",
        "from_folder",
        "from_frame",
        "from_texts",
        "from_tfds",
    ),
    "kerastl.data.entities": ("from_entities",),
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
    "kerastl.search": ("tune",),
    "kerastl.jobs.benchmark": ("benchmark",),
    "kerastl.jobs.check": ("check",),
    "kerastl.jobs.convert": ("convert",),
    "kerastl.jobs.datasets": ("datasets",),
    "kerastl.jobs.evaluate": ("evaluate",),
    "kerastl.jobs.lr_range": ("lr_range",),
    "kerastl.jobs.plan": ("plan",),
    "kerastl.jobs.predict": ("predict",),
    "kerastl.jobs.rank": ("rank",),
    "kerastl.jobs.fitted": ("Fitted", "load"),
    "kerastl.jobs.net": ("Net",),
    "kerastl.jobs.python": ("build", "fit", "run"),
    "kerastl.jobs.steps": (
        "FeatureArrays",
        "features",
        "finetune",
        "finish",
        "train_head",
        "unfreeze",
    ),
}
_HOME_OF = {name: (home, name) for home, names in _HOMES.items() for name in names}
# Not `export`: that is a package, and importing it would hide a function of the same name.
_HOME_OF["export_run"] = ("kerastl.jobs.export", "export")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOME_OF[name]
    return getattr(importlib.import_module(home), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps a function of the public API callable that has the name of a module, which importing that module would hide."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME_OF and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


class _CallableModule(ModuleType):
    def __call__(self, *values: Any, **named: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*values, **named)


sys.modules[__name__].__class__ = _Package
