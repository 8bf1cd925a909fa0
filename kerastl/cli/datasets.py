"""`kerastl datasets`: what `--data` can name, and what of it lies ready on this machine."""

from __future__ import annotations

import click

from kerastl.cli.options import debug_option, json_option
from kerastl.cli.terminal import print_json, table


@click.command()
@click.option("--data-dir", metavar="FOLDER", help="Where TFDS keeps its prepared data. [data.data_dir]")
@json_option
@debug_option
def datasets(data_dir: str | None, as_json: bool) -> None:
    """List what --data can name, and what is prepared here."""
    from kerastl.jobs.datasets import datasets

    lines = datasets(data_dir)
    if as_json:
        print_json(lines)
    else:
        rows = [(line.name, "yes" if line.prepared else "no", line.detail) for line in lines]
        click.echo(table(("data", "ready", "detail"), rows))
