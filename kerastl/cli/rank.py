"""`kerastl rank`: which pretrained backbone suits your images or texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kerastl.cli import completion
from kerastl.cli.options import debug_option, fit_options, json_option, progress_option, recipe_options
from kerastl.cli.terminal import print_json, quiet_tensorflow, show, table
from kerastl.progress import Progress
from kerastl.recipe.settings import Recipe

if TYPE_CHECKING:
    from kerastl.report.ranking import Ranking


@click.command()
@recipe_options
@click.option(
    "--backbones",
    default="all",
    show_default=True,
    metavar="NAME,NAME",
    shell_complete=completion.backbones,
    help="Which to compare; all means those whose weights are on this machine, and downloads nothing.",
)
@fit_options
@json_option
@progress_option
@debug_option
@click.pass_context
def rank(
    context: click.Context,
    recipe: Recipe,
    backbones: str,
    runs_dir: Path,
    as_json: bool,
    progress: Progress,
    **of_fit: Any,
) -> None:
    """Compare pretrained backbones on your images or texts, without training them.

    Takes the options of `kerastl fit` but `--backbone`; those about export and TensorBoard have no effect. Each backbone runs
    once over the training and validation examples, and a later fit reads these features from the store.
    """
    if context.get_parameter_source("backbone__name") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--backbone names one network: expected --backbones NAME,NAME.")
    quiet_tensorflow()
    from kerastl.jobs.rank import rank

    names = [name.strip() for name in backbones.split(",") if name.strip()]
    ranking = rank(recipe, backbones=names, runs_dir=runs_dir, progress=progress)
    if as_json:
        print_json(ranking)
    else:
        show(overview(ranking))
        click.echo(f"\nplot  {ranking.run / 'ranking.png'}")


def overview(ranking: Ranking) -> str:
    """A line for each backbone, the best first, and those that were left out."""
    short = {"mean average precision": "mAP"}.get(ranking.metric, ranking.metric)
    header = ("backbone", f"{short} ±", "LogME", f"{ranking.noun}s/s", "weights", "pixels", "features")
    rows = [
        (
            row.name,
            f"{row.accuracy:.3f} ± {row.spread:.3f}",
            f"{row.log_evidence:.3f}",
            f"{row.examples_per_second:,.0f}"
            if row.examples_per_second >= 10
            else f"{row.examples_per_second:.1f}",
            f"{row.parameters / 1e6:.1f} M",
            row.image_size or "-",
            row.features,
        )
        for row in ranking.rows
    ]
    lines = [table(header, rows)]
    by_reason: dict[str, list[str]] = {}
    for each in ranking.left_out:
        by_reason.setdefault(each.reason, []).append(each.name)
    lines += [f"left out {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return "\n\n".join(lines)
