"""Every option of every command, defined once.

An option that sets a recipe key takes its help text, its values and its checks from the key: the table
`kerastl.recipe.flags` says which words set which key, and nothing else is written twice.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from kerastl.backbones import BUNDLED_DATA
from kerastl.cli import completion
from kerastl.cli.terminal import Terminal
from kerastl.export.formats import FORMATS, SAVED_MODEL
from kerastl.recipe.flags import FLAGS
from kerastl.recipe.load import load_recipe, recipe_keys

Function = TypeVar("Function", bound=Callable[..., Any])

METAVARS = {
    "data.source": "SOURCE",
    "data.data_dir": "FOLDER",
    "backbone.name": "NAME",
    "backbone.weights": "WEIGHTS",
    "backbone.weights_dir": "FOLDER",
    "finetune_phase.unfreeze_from": "POINT",
}
COMPLETIONS = {
    "data.source": completion.words(tuple(BUNDLED_DATA), "file"),
    "data.data_dir": completion.words((), "dir"),
    "backbone.name": completion.backbones,
    "backbone.weights": completion.words(("pretrained", "imagenet", "none"), "file"),
    "backbone.weights_dir": completion.words((), "dir"),
    "finetune_phase.unfreeze_from": completion.unfreeze_points,
}


@dataclass
class Invocation:
    """State of one call of the command line, whichever command it runs."""

    debug: bool = False
    terminated: bool = False


def _set_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Invocation).debug = True


class Number(click.FloatRange):
    """A number in a range; `nan` and `inf`, which Python takes for numbers, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what is expected."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show tracebacks and TensorFlow's own messages.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV.")
runs_option = click.option(
    "--runs",
    "runs_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    metavar="FOLDER",
    show_default=True,
    help="Where the folders of runs are made.",
)
models_option = click.option(
    "--models",
    "models_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("saved_models"),
    metavar="FOLDER",
    show_default=True,
    help="Where models are exported to, as NAME/VERSION.",
)
exported_option = click.option(
    "--exported",
    "exported_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("exported"),
    metavar="FOLDER",
    show_default=True,
    help="Where the other formats are exported to, as FORMAT/NAME/VERSION.",
)


no_export_option = click.option(
    "--no-export", is_flag=True, help="Export no model; `kerastl export` can do it later."
)
tensorboard_option = click.option(
    "--tensorboard", is_flag=True, help="Write logs for TensorBoard into the run's folder."
)
run_argument = click.argument("run", type=click.Path(path_type=Path), shell_complete=completion.runs)


def format_option(**values: Any) -> Callable[[Function], Function]:
    """`--format`; what it is for, and whether it may be repeated, differs between commands."""
    words = (SAVED_MODEL, *FORMATS)
    return click.option("--format", type=click.Choice(words), metavar="|".join(words), **values)


keep_option = click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Once the model is exported, keep its N newest versions and remove the others; all stay without it.",
)
warmup_option = click.option(
    "--warmup/--no-warmup",
    default=True,
    show_default=True,
    help="Put warm-up requests for TensorFlow Serving beside the model. They hold up to eight examples of your data.",
)


def fit_options(function: Function) -> Function:
    """All that `kerastl fit` takes beside a recipe; what shows or measures something before a fit takes it as well."""
    for decorate in (
        tensorboard_option, warmup_option, keep_option, no_export_option, models_option, runs_option,
    ):  # fmt: skip
        function = decorate(function)
    return function


def progress_option(function: Function) -> Function:
    """`-q/--quiet`; the command receives the `progress` that listens accordingly."""

    @functools.wraps(function)
    def command(*args: Any, quiet: bool, **values: Any) -> Any:
        return function(*args, progress=Terminal(quiet=quiet), **values)

    quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing but results, warnings and errors.")
    return typing.cast(Function, quiet(command))


def recipe_options(function: Function) -> Function:
    """RECIPE, `--set` and the flags that set keys; the command receives the checked `recipe`."""
    keys = {name: (item.metadata, hint) for name, item, hint in recipe_keys()}

    @functools.wraps(function)
    def command(
        *args: Any, recipe: str | None, sets: tuple[str, ...], no_finetune: bool, **values: Any
    ) -> Any:
        flags = {key: _typed(values.pop(_parameter(key)), keys[key][1]) for key in FLAGS.values()}
        if no_finetune:
            if flags["finetune_phase.unfreeze_from"] not in (None, "backbone"):
                raise click.UsageError("--no-finetune unfreezes nothing: leave it out, or --unfreeze-from.")
            flags["finetune_phase.unfreeze_from"] = "backbone"
        return function(*args, recipe=load_recipe(recipe, sets, flags), **values)

    decorators = [
        click.argument("recipe", required=False, metavar="[RECIPE]", shell_complete=completion.recipes)
    ]
    for flag, key in FLAGS.items():
        metadata, hint = keys[key]
        text = f"{metadata['help']}  [{key}]"
        if hint is bool:
            decorators.append(click.option(flag, _parameter(key), is_flag=True, default=None, help=text))
        else:
            decorators.append(
                click.option(
                    flag,
                    _parameter(key),
                    metavar=_metavar(key, metadata, hint),
                    help=text,
                    shell_complete=COMPLETIONS.get(key) or completion.words(metadata["choices"] or ()),
                )
            )
    decorators += [
        click.option(
            "--no-finetune", is_flag=True, help="End after the head phase: --unfreeze-from backbone."
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="KEY=VALUE",
            shell_complete=completion.keys,
            help="Any key of the recipe, such as head.dropout=0.2; may be repeated. docs/recipes.md lists the keys. "
            "Flags win over --set, and --set over the file.",
        ),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return typing.cast(Function, command)


def _parameter(key: str) -> str:
    return key.replace(".", "__")


def _kind(hint: Any) -> type:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(kind for kind in kinds if kind is not types.NoneType)


def _metavar(key: str, metadata: typing.Mapping[str, Any], hint: Any) -> str:
    if metadata["choices"]:
        return "|".join(metadata["choices"])
    return METAVARS.get(key, {int: "N", float: "X"}.get(_kind(hint), "TEXT"))


def _typed(value: Any, hint: Any) -> Any:
    """The word as a number where the key takes one; what is none is left for the recipe to complain about."""
    kind = _kind(hint)
    if isinstance(value, str) and kind in (int, float):
        for number in (int, float):
            try:
                return number(value)
            except ValueError:
                continue
    return value
