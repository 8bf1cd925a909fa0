"""`kerastl evaluate`: the model of a run on its own test examples, or on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kerastl.cli.options import debug_option, json_option, progress_option, run_argument
from kerastl.cli.terminal import print_csv, print_json, quiet_tensorflow, show, table
from kerastl.modality import FIRST, modality_named
from kerastl.progress import Progress
from kerastl.task import task_named
from kerastl.wording import counted, interval, share

if TYPE_CHECKING:
    from kerastl.evaluation.metrics import Metrics

# More classes than a terminal scrolls back are not printed one by one, only the weakest.
MOST_CLASSES, FEW_CLASSES = 200, 20


@click.command()
@run_argument
@click.option(
    "--data", metavar="SOURCE", help="Examples to evaluate on; the run's own test split without it."
)
@json_option
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print what the model answers to each example as CSV, the largest loss first.",
)
@progress_option
@debug_option
def evaluate(run: Path, data: str | None, as_json: bool, as_csv: bool, progress: Progress) -> None:
    """Measure the model of a run on labelled examples."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    quiet_tensorflow()
    from kerastl.jobs.evaluate import evaluate_each

    metrics, answers = evaluate_each(run, data, progress=progress)
    if as_csv:
        columns = ("split", "id", "true", "predicted", "probability", "loss")
        print_csv(columns, [[getattr(each, column) for column in columns] for each in answers])
        return
    if as_json:
        print_json(metrics)
        return
    from kerastl.jobs.trained import TrainedRun

    show(overview(metrics, TrainedRun(run).recipe.modality))


def overview(metrics: Metrics, modality: str = FIRST) -> str:
    """The figures of all examples, and a line for each class."""
    noun = modality_named(modality).noun
    between = interval(*metrics.accuracy_interval, metrics.groups)
    what = task_named(metrics.task).accuracy_title
    classes, note = list(metrics.classes), ""
    if len(classes) > MOST_CLASSES:
        known = [each for each in classes if each.f1 is not None]
        classes = sorted(known, key=lambda each: each.f1 or 0.0)[:FEW_CLASSES]
        note = f"\nThe {len(classes)} weakest of {counted(len(metrics.classes), 'class', 'classes')}; --json has them all."
    rows = [(c.name, c.support, share(c.precision), share(c.recall), share(c.f1)) for c in classes]
    counted_in, whole = f"{noun}s", ""
    if metrics.entities:
        counted_in = "entities"
        whole = "".join(f"{name} {value}\n" for name, value in metrics.entities.figures())
    return (
        whole + f"{what} {metrics.accuracy:.3f} ({between}) on {counted(metrics.count, noun)}\n"
        f"log-loss {metrics.log_loss:.3f}\n\n"
        + table(("type" if metrics.entities else "class", counted_in, "precision", "recall", "F1"), rows)
        + note
    )
