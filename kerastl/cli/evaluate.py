"""`kerastl evaluate`: the model of a run on its own test images, or on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kerastl.cli.options import debug_option, json_option, progress_option
from kerastl.cli.terminal import print_json, quiet_tensorflow, show, table
from kerastl.progress import Progress
from kerastl.wording import counted, share

if TYPE_CHECKING:
    from kerastl.evaluation.metrics import Metrics


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Images to evaluate on; the run's own test split without it.")
@json_option
@progress_option
@debug_option
def evaluate(run: Path, data: str | None, as_json: bool, progress: Progress) -> None:
    """Measure the model of a run on labelled images."""
    quiet_tensorflow()
    from kerastl import workflow

    metrics = workflow.evaluate(run, data, progress=progress)
    if as_json:
        print_json(metrics)
        return
    show(overview(metrics))


def overview(metrics: Metrics) -> str:
    """The figures of all images, and a line for each class."""
    low, high = metrics.accuracy_interval
    what = "all labels right" if metrics.multi_label else "accuracy"
    rows = [(c.name, c.support, share(c.precision), share(c.recall), share(c.f1)) for c in metrics.classes]
    return (
        f"{what} {metrics.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}) on {counted(metrics.count, 'image')}\n"
        f"log-loss {metrics.log_loss:.3f}\n\n" + table(("class", "images", "precision", "recall", "F1"), rows)
    )
