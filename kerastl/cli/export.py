"""`kerastl export`: the model of a run, for TensorFlow Serving or another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kerastl.cli.options import (
    debug_option,
    exported_option,
    format_option,
    json_option,
    keep_option,
    models_option,
    progress_option,
    run_argument,
    warmup_option,
)
from kerastl.cli.terminal import print_json, quiet_tensorflow
from kerastl.export.formats import SAVED_MODEL
from kerastl.progress import Progress


@click.command()
@run_argument
@format_option(default=SAVED_MODEL, show_default=True, help="What to write; see docs/formats.md.")
@models_option
@exported_option
@click.option("--name", metavar="TEXT", help="Of the model; the run's without it.")
@keep_option
@warmup_option
@json_option
@progress_option
@debug_option
def export(
    run: Path,
    format: str,
    models_dir: Path,
    exported_dir: Path,
    name: str | None,
    keep: int | None,
    warmup: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Export the model of a run: for TensorFlow Serving, or in a format for other runtimes.

    A SavedModel takes encoded images, or texts; the other formats take what the caller makes of these as in training: decoded and
    resized pixels, or pieces of the vocabulary that is written beside the model.
    """
    quiet_tensorflow()
    from kerastl.jobs.convert import convert
    from kerastl.jobs.export import export

    if format == SAVED_MODEL:
        exported: Any = export(
            run, models_dir=models_dir, name=name, keep=keep, warmup=warmup, progress=progress
        )
    else:
        exported = convert(run, format, exported_dir=exported_dir, name=name, keep=keep, progress=progress)
    if as_json:
        print_json(exported)
    else:
        click.echo(exported.path)
