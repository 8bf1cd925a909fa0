"""`kerastl benchmark`: what each format of a run's model costs and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kerastl.cli.options import debug_option, format_option, json_option, progress_option, run_argument
from kerastl.cli.terminal import print_json, quiet_tensorflow, show, table
from kerastl.progress import Progress
from kerastl.wording import counted

if TYPE_CHECKING:
    from kerastl.jobs.benchmark import Benchmark, BenchmarkRow


@click.command()
@run_argument
@click.option("--data", metavar="SOURCE", help="Examples to measure on; the run's own test split without it.")
@format_option(
    multiple=True,
    help="Only these beside the Keras model; may be repeated. Without it, all whose packages are installed.",
)
@json_option
@progress_option
@debug_option
def benchmark(
    run: Path, data: str | None, format: tuple[str, ...], as_json: bool, progress: Progress
) -> None:
    """Compare the formats of a run's model: size, latency, accuracy.

    Nothing is published. Each format answers in a process of its own, and they have turns of some calls each.
    """
    quiet_tensorflow()
    from kerastl.jobs.benchmark import benchmark

    measured = benchmark(run, data, formats=format, progress=progress)
    if as_json:
        print_json(measured)
        return
    show(overview(measured))
    for name, reason in measured.left_out.items():
        progress.warn(f"left out {name}: {reason}")


def overview(measured: Benchmark) -> str:
    """A line for each format, and how it was measured."""
    sizes = [each.batch_size for each in measured.rows[0].latencies]
    header = (
        "format",
        "size",
        *(f"ms, batch {size}" for size in sizes),
        "accuracy",
        "points lost",
        "labels changed",
    )
    lines = [table(header, [_cells(row) for row in measured.rows])]
    lines.append(
        f"\nmedian (lowest to highest) of {measured.rounds} turns each, {measured.threads} threads, decoded {measured.noun}s in; "
        f"accuracy on {counted(measured.example_count, measured.noun)}"
    )
    return "\n".join(lines)


def _cells(row: BenchmarkRow) -> tuple[object, ...]:
    times = (
        f"{_milliseconds(each.median_milliseconds)} ({_milliseconds(each.lowest_milliseconds)} to "
        f"{_milliseconds(each.highest_milliseconds)})"
        for each in row.latencies
    )
    lost = f"{row.points_lost:.1f}"
    return (row.format, f"{row.bytes / 1e6:.1f} MB", *times, f"{row.accuracy:.3f}", lost, row.labels_changed)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
