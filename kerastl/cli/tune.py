"""`kerastl tune`: search a recipe's keys, train the winner, and test it once."""

from __future__ import annotations

import re
from pathlib import Path

import click

from kerastl.cli import completion
from kerastl.cli.options import debug_option, fit_options, json_option, progress_option, recipe_options
from kerastl.cli.terminal import print_json, quiet_tensorflow, show
from kerastl.progress import Progress
from kerastl.recipe.settings import Recipe

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType):
    """A length of time such as 90s, 30m or 1.5h."""

    name = "time"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        if not found or not float(found[1]):
            self.fail(
                f"{value!r} is no length of time. Expected one such as 90s, 30m or 1.5h.", parameter, context
            )
        return float(found[1]) * UNITS[found[2]]


@click.command()
@recipe_options
@click.option(
    "--space",
    metavar="FILE",
    shell_complete=completion.spaces,
    help="What to search: a TOML file, or one of default, head, finetune, augment, wide.  [default: default]",
)
@click.option(
    "--tuner",
    type=click.Choice(["bayesian", "hyperband", "random", "grid"]),
    default="bayesian",
    show_default=True,
    help="Who chooses the trials.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many; 20 without it, or what hyperband and grid take.",
)
@click.option("--budget", type=Duration(), help="Begin no trial after so long, such as 30m.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Seeds for each trial; its score is their mean.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Measure on K folds of training and validation examples instead of the validation split, for small data.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes on this machine that run trials.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the search, in which the same command goes on.  [default: tuning/NAME, or with a number where another "
    "search is there]",
)
@fit_options
@json_option
@progress_option
@debug_option
def tune(
    recipe: Recipe,
    space: str | None,
    tuner: str,
    trials: int | None,
    budget: float | None,
    repeats: int,
    folds: int | None,
    workers: int,
    directory: Path | None,
    runs_dir: Path,
    models_dir: Path,
    no_export: bool,
    keep: int | None,
    warmup: bool,
    tensorboard: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Search a recipe's keys on validation, train the winner and test it once.

    RECIPE is a TOML file or the name of a shipped one, such as digits. Trials share decoded examples, features and
    head phases. Stopped at any moment, the same command goes on.
    """
    quiet_tensorflow()
    from kerastl.search import SearchSettings
    from kerastl.search import tune as search

    settings = SearchSettings(tuner, trials, budget, repeats, folds or 0, workers)
    summary = search(
        recipe,
        space=space,
        settings=settings,
        directory=directory,
        runs_dir=runs_dir,
        models_dir=models_dir,
        export_model=not no_export,
        tensorboard=tensorboard,
        keep=keep,
        warmup=warmup,
        progress=progress,
    )
    if as_json:
        print_json(summary)
        return
    show(summary.text)
    click.echo(f"\n{summary.winner.read_text(encoding='utf-8').strip()}\n")
    click.echo(f"recipe {summary.winner}\npage   {summary.page}\nrun    {summary.run}")
    if summary.model is not None:
        click.echo(f"model  {summary.model}")
