"""The Python way into a fit: recipes, data and networks that are handed over, and options by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerastl.backbones import backbone_names, is_file_name
from kerastl.data.examples import Examples
from kerastl.errors import UserError, nearest
from kerastl.progress import Logging, Progress
from kerastl.recipe import DataRecipe, Recipe, load_recipe, recipe_to_dict, shipped_recipes
from kerastl.recipe.flags import keys_from_options
from kerastl.recipe.load import recipe_from_dict
from kerastl.recipe.schema import HANDED
from kerastl.workflow.fitted import Fitted
from kerastl.workflow.fitting import fit as fit_recipe


def fit(
    recipe: Recipe | str | Path | None = None,
    data: Examples | str | Path | None = None,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    runs_dir: Path | str = Path("runs"),
    models_dir: Path | str = Path("saved_models"),
    export_model: bool | None = None,
    tensorboard: bool = False,
    keep: int | None = None,
    warmup: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Fitted:
    """Transfer a pretrained network to labelled images: train both phases, keep the better one, and test it once.

    Args:
        recipe: a recipe, the name of a shipped one or its TOML file; or the name of a backbone, or a `.keras` file with one.
            The defaults without it.
        data: examples (`kerastl.from_folder`, `from_arrays`, `from_frame`, `from_dataset`, `from_tfds`), or what `--data`
            takes; those that the recipe names without it.
        callbacks: Keras callbacks for both phases: the head's, whose model takes pooled features, then that of the blocks above
            the unfreeze point. Logs of an epoch hold the validation metrics. One that sets `model.stop_training` ends its phase.
        runs_dir: where the run's folder is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there; without it that is done where no data are handed over.
        tensorboard: also write TensorBoard logs into the run's folder.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some images of the data.
        progress: listens; without it warnings go to `logging`.
        **options: keys of the recipe, as `kerastl.recipe.flags.keys_from_options` reads them: `unfreeze_from="conv4_block6_out"`,
            `dropout=0.2`, `finetune_phase={"epochs": 3}`.

    Returns:
        The trained model with its report.

    Raises:
        UserError: recipe, options, data or weights cannot be used; nothing was trained.
        TrainingError: a loss is not finite.
        ExportError: the exported model does not agree with the trained one; nothing was published.
        Interrupted: the user stopped the training; the best model so far lies in the run's folder.

    Example:
        >>> kerastl.fit("resnet50", kerastl.from_arrays(x, y), unfreeze_from="conv4_block6_out").report.metrics.accuracy
        0.93
    """
    examples = data if isinstance(data, Examples) else None
    if data is not None and examples is None:
        options["data.source"] = str(data)
    asked = recipe_for(recipe, examples, options)
    summary = fit_recipe(
        asked,
        runs_dir=runs_dir,
        models_dir=models_dir,
        export_model=data is None if export_model is None else export_model,
        tensorboard=tensorboard,
        keep=keep,
        warmup=warmup,
        progress=progress or Logging(),
        examples=usable(examples, asked),
        callbacks=callbacks,
    )
    return Fitted(summary.run, summary.report, summary.exported, examples)


def run(recipe: Recipe | str | Path | None = None, sets: Sequence[str] = (), **options: Any) -> Fitted:
    """Do what `kerastl fit RECIPE` does.

    Args:
        recipe: TOML file, or the name of a shipped recipe.
        sets: `key=value` strings, as `--set` takes them.
        **options: flags of the command line and arguments of `fit`.

    Example:
        >>> kerastl.run("digits", ["seed=1"], head_epochs=5).run
        PosixPath('runs/20260731-120000-digits')
    """
    return fit(load_recipe(recipe, sets) if not isinstance(recipe, Recipe) else recipe, **options)


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
    if name is not None and (is_file_name(name) or name in backbone_names()):
        return load_recipe(None, flags={"backbone.name": name, **flags})
    if name is not None and name not in shipped_recipes() and not Path(name).expanduser().exists():
        raise UserError(
            f"'{name}' is no recipe and no backbone.{nearest(name, [*shipped_recipes(), *backbone_names()])} Expected the name of "
            "one (`kerastl backbones` lists these), a .toml file or a .keras file"
        )
    return load_recipe(recipe, flags=flags)


def usable(examples: Examples | None, recipe: Recipe) -> Examples | None:
    """The examples where the recipe means them as they are; None where they have to be opened anew by other keys."""
    if examples is None or recipe.data.source.startswith(HANDED) or examples.recipe is None:
        return examples
    opened = dataclasses.replace(
        examples.recipe, **{key: getattr(recipe.data, key) for key in _AFTER_OPENING}
    )
    return examples if opened == recipe.data else None


# Keys of `[data]` that are read when examples are split and decoded, not when they are opened.
_AFTER_OPENING = (
    "split_salt", "validation_fraction", "test_fraction", "examples_per_class", "min_images_per_class",
    "max_unreadable_fraction", "resize", "significant_bits",
)  # fmt: skip


def _changed(recipe: Recipe, flags: Mapping[str, Any]) -> Recipe:
    if not flags:
        return recipe
    values = recipe_to_dict(recipe)
    for dotted, value in flags.items():
        *table, last = dotted.split(".")
        inner = values.setdefault(table[0], {}) if table else values
        if value is not None:
            inner[last] = value
    return recipe_from_dict(values)
