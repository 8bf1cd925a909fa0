"""`kerastl fit`: from a recipe to a tested and exported model."""

from __future__ import annotations

from pathlib import Path

import click

from kerastl.cli.options import debug_option, fit_options, json_option, progress_option, recipe_options
from kerastl.cli.terminal import print_json, quiet_tensorflow, terminal_width
from kerastl.progress import Progress
from kerastl.recipe.settings import Recipe

# What to try after a demo, by the data that it is on.
NEXT = {
    "definitions": (
        'kerastl predict {run} "a small bird that sings at night"',
        "kerastl fit texts --weights none    # without transfer: the same from random embeddings",
        "kerastl fit --data FILE.csv --backbone minilm_static    # texts of your own: columns text and label",
    ),
}


@click.command()
@recipe_options
@fit_options
@json_option
@progress_option
@debug_option
def fit(
    recipe: Recipe,
    runs_dir: Path,
    models_dir: Path,
    no_export: bool,
    keep: int | None,
    warmup: bool,
    tensorboard: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Train on your images or texts, test once, and export the model.

    RECIPE is a TOML file or the name of a shipped one, such as digits; without it the flags say all.
    """
    quiet_tensorflow()
    from kerastl.jobs.fit import fit
    from kerastl.report.page import report_text

    summary = fit(
        recipe,
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
    click.echo(report_text(summary.report, terminal_width()))
    click.echo(f"\nrun    {summary.run}")
    if summary.exported is not None:
        click.echo(f"model  {summary.exported.path}")
    if recipe.data.source in NEXT:
        click.echo("\nnext")
        click.echo("\n".join(f"  {line.format(run=summary.run)}" for line in NEXT[recipe.data.source]))
