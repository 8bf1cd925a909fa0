"""`kerastl plan`: what each phase would train, without training."""

from __future__ import annotations

from typing import Any

import click

from kerastl.cli.options import debug_option, fit_options, json_option, progress_option, recipe_options
from kerastl.cli.terminal import print_json, quiet_tensorflow, terminal_width
from kerastl.progress import Progress
from kerastl.recipe.settings import Recipe


@click.command()
@recipe_options
@fit_options
@json_option
@progress_option
@debug_option
def plan(recipe: Recipe, as_json: bool, progress: Progress, **of_fit: Any) -> None:
    """Print what each phase would train, without training.

    Takes the options of `kerastl fit`; `--runs` and those about export and TensorBoard have no effect. Prints blocks,
    parameters and learning rates; no folder is made.
    """
    quiet_tensorflow()
    from kerastl.jobs.plan import plan

    planned = plan(recipe, progress=progress)
    if as_json:
        print_json(planned)
    else:
        click.echo(planned.text(terminal_width()))
