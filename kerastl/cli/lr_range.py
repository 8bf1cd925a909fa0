"""`kerastl lr-range`: how high the learning rate of a phase may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kerastl.cli.options import debug_option, fit_options, json_option, progress_option, recipe_options
from kerastl.cli.terminal import print_json, quiet_tensorflow, show
from kerastl.progress import Progress
from kerastl.recipe.settings import Recipe


@click.command("lr-range")
@recipe_options
@click.option(
    "--phase", type=click.Choice(["head", "finetune"]), default="head", show_default=True, help="Which phase."
)
@click.option("--low", type=float, default=1e-6, show_default=True, metavar="X", help="The first rate.")
@click.option("--high", type=float, default=10.0, show_default=True, metavar="X", help="The last rate.")
@click.option(
    "--steps", type=int, default=150, show_default=True, metavar="N", help="Batches to try, at most."
)
@fit_options
@json_option
@progress_option
@debug_option
def lr_range(
    recipe: Recipe,
    phase: str,
    low: float,
    high: float,
    steps: int,
    runs_dir: Path,
    as_json: bool,
    progress: Progress,
    **of_fit: Any,
) -> None:
    """Try growing learning rates on one phase, and suggest one.

    Takes the options of `kerastl fit`; those about export and TensorBoard have no effect. No model is saved. For the fine-tune
    phase the head is trained first.
    """
    quiet_tensorflow()
    from kerastl.jobs.lr_range import lr_range

    summary = lr_range(
        recipe, phase=phase, low=low, high=high, steps=steps, runs_dir=runs_dir, progress=progress
    )
    if as_json:
        print_json(summary)
    else:
        show(summary.text())
        click.echo(f"\nplot      {summary.run / 'lr_range.png'}")
