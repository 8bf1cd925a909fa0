"""The Python way into a fit: recipes, data and networks that are handed over, and options by name."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerastl.backbones import get_backbone
from kerastl.data.examples import Examples
from kerastl.jobs.fit import fit as fit_recipe
from kerastl.jobs.fitted import Fitted
from kerastl.jobs.net import Net
from kerastl.jobs.recipes import recipe_for, usable
from kerastl.model.own import save_own
from kerastl.model.own_head import save_layers
from kerastl.progress import Logging, Progress
from kerastl.recipe import Recipe, load_recipe
from kerastl.wording import safe_name


def build(
    backbone: keras.Model | Recipe | str | Path,
    data: Examples | str | Path | None = None,
    *,
    head: Sequence[keras.Layer] = (),
    progress: Progress | None = None,
    **options: Any,
) -> Net:
    """A pretrained backbone with a fresh head for some data; nothing is trained or decoded yet.

    Args:
        backbone: a functional Keras model of RGB 0..255 [n, side, side, 3], with its weights; a `.keras` file of one; the
            name of a backbone; or a recipe. What stands on its last activation is left out, its cut points are found on its graph.
        data: as `fit` takes it.
        head: layers between the pooled, standardised features and the last one, which gives a logit for each class: that is
            added, unless the last of these is a Dense layer without activation that has as many units as there are classes.
        progress: listens; without it warnings go to `logging`.
        **options: as `fit` takes them.

    Returns:
        The network, for `kerastl.fit`, `features`, or the phases step by step. Models and layers that were handed over are copied,
        and runs keep them as `backbone.keras` and `head.keras`.

    Raises:
        UserError: the model is no functional one of such inputs, or has layers of one's own that Keras cannot load again; or recipe,
            options or data cannot be used.

    Example:
        >>> net = kerastl.build("resnet50", data, head=[keras.layers.Dense(256, "relu"), keras.layers.Dropout(0.3)])
        >>> kerastl.fit(net, unfreeze_from="conv4_block6_out")
    """
    examples = data if isinstance(data, Examples) else None
    if data is not None and examples is None:
        options["data.source"] = str(data)
    files = (
        tempfile.TemporaryDirectory(prefix="kerastl-") if head or isinstance(backbone, keras.Model) else None
    )
    if isinstance(backbone, keras.Model):
        assert files is not None
        file = save_own(backbone, Path(files.name) / "backbone.keras")
        named = recipe_for(file, examples, {"name": None, **options})
        if named.name is None:
            source = named.data.source.removeprefix("tfds:").rpartition(":")[2].rstrip("/").rpartition("/")[2]
            options["name"] = safe_name(f"{source}-{backbone.name}".lower())
        backbone = file
    recipe = recipe_for(backbone, examples, options)
    if head:
        assert files is not None
        file = save_layers(
            head, get_backbone(recipe.backbone.name), recipe.head, Path(files.name) / "head.keras"
        )
        recipe = recipe_for(recipe, examples, {"head.layers": file})
    return Net(recipe, examples, files, progress)


def fit(
    recipe: Net | Recipe | str | Path | None = None,
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
    """Transfer a pretrained network to labelled examples: train both phases, keep the better one, and test it once.

    Args:
        recipe: a network from `kerastl.build`, which stays as it is: each fit of it begins from its pretrained weights; or a
            recipe, the name of a shipped one or its TOML file; or the name of a backbone, or a `.keras` file with one. The
            defaults without it.
        data: examples (`kerastl.from_folder`, `from_arrays`, `from_texts`, `from_frame`, `from_dataset`, `from_tfds`), or what `--data`
            takes; those that the recipe names without it.
        callbacks: Keras callbacks for both phases: the head's, whose model takes pooled features, then that of the blocks above
            the unfreeze point. Logs of an epoch hold the validation metrics. One that sets `model.stop_training` ends its phase.
        runs_dir: where the run's folder is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the winner there; without it that is done where no data are handed over.
        tensorboard: also write TensorBoard logs into the run's folder.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model; they hold some examples of the data.
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
    asked, examples, files = handed_over(recipe, data, options)
    handed = data is not None or isinstance(recipe, Net)
    summary = fit_recipe(
        asked,
        runs_dir=runs_dir,
        models_dir=models_dir,
        export_model=not handed if export_model is None else export_model,
        tensorboard=tensorboard,
        keep=keep,
        warmup=warmup,
        progress=progress or Logging(),
        examples=usable(examples, asked),
        files=files,
        callbacks=callbacks,
    )
    return Fitted(summary.run, summary.report, summary.exported, examples)


def handed_over(
    recipe: Net | Recipe | str | Path | None, data: Examples | str | Path | None, options: dict[str, Any]
) -> tuple[Recipe, Examples | None, Path | None]:
    """The recipe of a Python call, the examples that were handed over, and the folder of networks that were.

    Args:
        recipe: as `fit` takes it.
        data: as `fit` takes it.
        options: as `fit` takes them.
    """
    net = recipe if isinstance(recipe, Net) else None
    examples = data if isinstance(data, Examples) else None
    if data is not None and examples is None:
        options = {**options, "data.source": str(data)}
    elif net is not None and data is None:
        examples = net.examples
    asked = recipe_for(recipe.asked if isinstance(recipe, Net) else recipe, examples, options)
    return asked, examples, net.files if net else None


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
