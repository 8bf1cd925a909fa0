"""`kerastl predict`: what a model says about images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kerastl.cli.options import debug_option, json_option, progress_option
from kerastl.cli.terminal import print_json, quiet_tensorflow, table
from kerastl.progress import Progress


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many labels to print for each image.",
)
@json_option
@progress_option
@debug_option
def predict(model: Path, images: tuple[str, ...], top: int, as_json: bool, progress: Progress) -> None:
    """Classify images with a trained model.

    MODEL is the folder of a run or of an exported model. An IMAGE is a file, a folder or a pattern such as 'photos/**/*.jpg'. Images that cannot be read are
    named and left out; the command then ends with 1.
    """
    quiet_tensorflow()
    from kerastl import workflow

    predictions = workflow.predict(model, images, top=top, progress=progress)
    if as_json:
        print_json(predictions)
    else:
        readable = [each for each in predictions if not each.error]
        rows = [
            (each.path if rank == 0 else "", label, f"{probability:.3f}")
            for each in readable
            for rank, (label, probability) in enumerate(each.top)
        ]
        click.echo(table(("image", "label", "probability"), rows))
    for each in predictions:
        if each.error:
            progress.warn(f"{each.path}: {each.error}")
    if any(each.error for each in predictions):
        sys.exit(1)
