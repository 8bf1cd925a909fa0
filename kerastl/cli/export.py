"""`kerastl export`: the model of a run, for TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path

import click

from kerastl.cli.options import (
    debug_option,
    json_option,
    keep_option,
    models_option,
    progress_option,
    warmup_option,
)
from kerastl.cli.terminal import print_json, quiet_tensorflow
from kerastl.progress import Progress


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@models_option
@click.option("--name", metavar="TEXT", help="Of the model; the run's without it.")
@keep_option
@warmup_option
@json_option
@progress_option
@debug_option
def export(
    run: Path,
    models_dir: Path,
    name: str | None,
    keep: int | None,
    warmup: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Export the model of a run for TensorFlow Serving."""
    quiet_tensorflow()
    from kerastl import workflow

    exported = workflow.export(
        run, models_dir=models_dir, name=name, keep=keep, warmup=warmup, progress=progress
    )
    if as_json:
        print_json(exported)
    else:
        click.echo(exported.path)
