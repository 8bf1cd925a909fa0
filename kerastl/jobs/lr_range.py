"""`lr_range`: how high the learning rate of a phase may be, before it is trained."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path

from kerastl.errors import UserError
from kerastl.features.decoded import lost_examples_named
from kerastl.jobs.artifacts import working_cache, write_rows
from kerastl.jobs.log import Log
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import Setup, set_up
from kerastl.model.freezing import freeze_backbone
from kerastl.progress import Progress
from kerastl.recipe import Recipe, recipe_to_toml
from kerastl.report.plots_choices import plot_rate_range
from kerastl.run import create_run
from kerastl.training.batches import PhaseData
from kerastl.training.lr_range import RateRange, run_rate_range
from kerastl.training.phase import PHASE_TITLES
from kerastl.training.two_phase import begin_finetuning, finetunes, transfer, without_finetuning
from kerastl.writing import write_json_atomic, write_text_atomic

PHASES = ("head", "finetune")
LINES_PER_DECADE = 2


@dataclass(frozen=True)
class RateRangeSummary:
    """Result of a range test.

    Attributes:
        run: folder with `lr_range.csv`, `lr_range.json` and `lr_range.png`.
        recipe_rate: the phase's learning rate in the resolved recipe.
        result: what was measured.
    """

    run: Path
    recipe_rate: float
    result: RateRange

    def text(self) -> str:
        """The smoothed loss at a few rates of each decade, and what follows from it."""
        found = self.result
        lines = [f"{PHASE_TITLES[found.phase]}: {len(found.rates)} steps", f"{'rate':>9}  {'loss':>8}"]
        wanted = -math.inf
        for rate, loss in zip(found.rates, found.smoothed, strict=True):
            if math.log10(rate) >= wanted:
                lines.append(f"{rate:>9.1e}  {loss:>8.4f}")
                wanted = math.log10(rate) + 1 / LINES_PER_DECADE - 1e-9
        facts = {"diverged": found.diverged_rate, "suggested": found.suggestion, "recipe": self.recipe_rate}
        words = (f"{word:<9} {'-' if rate is None else f'{rate:.1e}'}" for word, rate in facts.items())
        return "\n".join([*lines, "", *words])


def lr_range(
    recipe: Recipe,
    *,
    phase: str = "head",
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 150,
    runs_dir: Path | str = Path("runs"),
    progress: Progress = Progress(),
) -> RateRangeSummary:
    """Try growing learning rates on a phase's own batches, and suggest one.

    For the fine-tune phase the head phase is trained first, as in a fit: rates are tried from there.

    Args:
        recipe: from `kerastl.load_recipe`; its learning rate is what the suggestion is compared with.
        phase: `head` or `finetune`.
        low: the first rate.
        high: the last rate; the test ends before it where the loss diverges.
        steps: how many batches at most; the rate grows by the same factor from each to the next.
        runs_dir: where the folder for the result is made.
        progress: listens.

    Returns:
        Rates, losses, the suggestion, and the folder.

    Raises:
        UserError: recipe, data or weights cannot be used, or there is nothing to test.

    Example:
        >>> kerastl.lr_range(kerastl.load_recipe("digits"), phase="finetune").result.suggestion
    """
    _check_asked(phase, low, high, steps)
    recipe, splits = open_splits(recipe, runs_dir)
    if phase == "finetune" and not finetunes(recipe.finetune_phase):
        raise UserError(
            f"finetune_phase.unfreeze_from = '{recipe.finetune_phase.unfreeze_from}' with finetune_phase.epochs = "
            f"{recipe.finetune_phase.epochs} trains nothing, so no rate can be tried. Expected an unfreeze point below "
            "the backbone's end and at least one epoch, or --phase head"
        )
    if phase == "head":  # no activations are needed
        recipe = without_finetuning(recipe)
    run = create_run(runs_dir, f"{recipe.name}-lr-range")
    progress = log = Log(progress, run.log_txt)
    progress.note(f"Run {run.path}")
    for warning in splits.warnings:
        progress.warn(warning)
    write_text_atomic(run.recipe_toml, recipe_to_toml(recipe, f"Learning-rate range of the {phase} phase"))
    with working_cache(run, recipe) as cache:
        setup = set_up(recipe, splits, cache, progress, ("train", "validation"))
        with lost_examples_named(setup.prepared):
            result = _tested(setup, phase, low, high, steps, progress)
    settings = recipe.head_phase if phase == "head" else recipe.finetune_phase
    summary = RateRangeSummary(run.path, settings.learning_rate, result)
    columns = zip(result.rates, result.losses, result.smoothed, strict=True)
    rows = [{"learning_rate": r, "loss": loss, "smoothed_loss": mean} for r, loss, mean in columns]
    write_rows(run.path / "lr_range.csv", rows)
    write_json_atomic(run.path / "lr_range.json", dataclasses.asdict(result))
    marks = {
        "suggested": result.suggestion,
        "recipe": settings.learning_rate,
        "diverged": result.diverged_rate,
    }
    plot_rate_range(result.rates, result.losses, result.smoothed, marks, run.path / "lr_range.png")
    log.write(summary.text())
    _warn(result, low, high, progress)
    return summary


def _tested(setup: Setup, phase: str, low: float, high: float, steps: int, progress: Progress) -> RateRange:
    recipe, network, train, validation = setup.recipe, setup.network, setup.train, setup.validation
    run = functools.partial(
        run_rate_range, low=low, high=high, steps=steps, seed=recipe.seed,
        task=recipe.task, progress=progress,
    )  # fmt: skip
    if phase == "head":
        freeze_backbone(network)
        train, validation = train.rows, validation.rows
        data = PhaseData(train, train.pooled_batch, validation, validation.pooled_batch)
        return run("head_phase", network.head, data, recipe.head_phase)
    head = transfer(network, setup.parts, train, validation, without_finetuning(recipe), progress=progress)
    if head.interrupted:
        raise KeyboardInterrupt
    factors = begin_finetuning(network, setup.parts, train, recipe)
    data = PhaseData(train, train.activation_batch, validation, validation.activation_batch)
    return run("finetune_phase", setup.parts.suffix, data, recipe.finetune_phase, factors=factors)


def _check_asked(phase: str, low: float, high: float, steps: int) -> None:
    if phase not in PHASES:
        raise UserError(f"phase = '{phase}': expected one of {', '.join(PHASES)}")
    if not 0 < low < high < math.inf:
        raise UserError(f"low = {low:g} and high = {high:g}: expected two rates above 0, the lower one first")
    if steps < 2:
        raise UserError(f"steps = {steps}: expected at least 2, and about 20 for each decade of the rate")


def _warn(result: RateRange, low: float, high: float, progress: Progress) -> None:
    if result.diverged_rate is None:
        progress.warn(
            f"The loss did not diverge up to {high:.1e}, so no rate is suggested. Try a higher --high"
        )
    elif result.suggestion is None:
        progress.warn(
            f"The loss diverged at {result.diverged_rate:.1e} already, so no rate is suggested. Try a lower --low than {low:.1e}"
        )
