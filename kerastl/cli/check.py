"""`kerastl check`: whether this machine has what a run needs."""

from __future__ import annotations

import sys

import click

from kerastl.cli.options import debug_option, json_option, progress_option
from kerastl.cli.terminal import print_json, quiet_tensorflow, table
from kerastl.progress import Progress


@click.command()
@json_option
@progress_option
@debug_option
def check(as_json: bool, progress: Progress) -> None:
    """Test whether this machine has what a run needs."""
    quiet_tensorflow()
    from kerastl.jobs.check import check

    lines = check(progress=progress)
    if as_json:
        print_json(lines)
    else:
        click.echo(
            table(("check", "", "detail"), [(x.name, "ok" if x.ok else "FAILED", x.detail) for x in lines])
        )
    if not all(line.ok for line in lines):
        sys.exit(1)
