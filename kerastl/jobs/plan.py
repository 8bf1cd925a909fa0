"""`plan`: which block trains in which phase, at which rate, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from kerastl.backbones import get_backbone
from kerastl.jobs.open import open_splits
from kerastl.modality import modality_of
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.freezing import Block, blocks, freeze_backbone, thaw
from kerastl.model.precision import precision_of
from kerastl.progress import Progress
from kerastl.recipe import Recipe, Settings
from kerastl.recipe.rule import view_warnings
from kerastl.training.phase import PHASE_TITLES
from kerastl.training.two_phase import finetunes
from kerastl.wording import columns, wrapped


@dataclass(frozen=True)
class PlanRow:
    """A block in a phase.

    Attributes:
        phase: `head_phase` or `finetune_phase`.
        block: `head`, or the unfreeze point at the block's lower end.
        state: `trains`, `frozen`, or `partly` (an unfrozen block whose BatchNorm stays frozen).
        parameters: weights of the block.
        trainable: those of them that train.
        learning_rate: its highest rate in the phase; 0 where nothing trains.
    """

    phase: str
    block: str
    state: str
    parameters: int
    trainable: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """The resolved recipe and what it trains.

    Attributes:
        recipe: without open keys.
        counts: examples in each split.
        rows: every block in every phase, the head first.
    """

    recipe: Settings
    counts: dict[str, int]
    rows: tuple[PlanRow, ...]

    def text(self, width: int = 80) -> str:
        """The plan as a table of at most `width` columns."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        lines = [f"{self.recipe.name}: {counts}; {modality_of(self.recipe).size}"]
        phases = dict.fromkeys(row.phase for row in self.rows)
        for phase in phases:
            settings = self.recipe.head_phase if phase == "head_phase" else self.recipe.finetune_phase
            title = (
                f"{PHASE_TITLES[phase]}: up to {settings.epochs} epochs in batches of {settings.batch_size}, "
                f"{settings.optimizer}, best {settings.monitor}"
            )
            rows = [
                (row.block, row.state, row.parameters, row.trainable,
                 f"{row.learning_rate:.1e}" if row.trainable else "-")
                for row in self.rows if row.phase == phase
            ]  # fmt: skip
            blocks_table = columns(("block", "state", "parameters", "trainable", "rate"), rows, width - 2)
            lines += ["", title, *(f"  {line}" for line in blocks_table.splitlines())]
        return "\n".join(piece for line in lines for piece in wrapped(line, width))


def plan(recipe: Recipe, *, progress: Progress = Progress()) -> Plan:
    """Returns the plan of a fit: what each phase would train. Reads the data's index, decodes and trains nothing.

    Raises:
        UserError: recipe or data cannot be used.
    """
    recipe, splits = open_splits(recipe)
    for warning in (*splits.warnings, *view_warnings(recipe)):
        progress.warn(warning)
    spec = get_backbone(recipe.backbone.name)
    with precision_of(recipe):
        backbone = build_backbone(spec, modality_of(recipe).spec)
        network = build_model(backbone, spec, recipe.head, len(splits.class_names))
    return make_plan(network, recipe, splits.counts())


def make_plan(network: Network, recipe: Settings, counts: dict[str, int]) -> Plan:
    """The plan of a network that is already built."""
    settings = recipe.finetune_phase
    point = settings.unfreeze_from if finetunes(settings) else "backbone"
    every = blocks(network, "input")
    freeze_backbone(network)
    rows = [_row("head_phase", block, recipe.head_phase.learning_rate) for block in every]
    if finetunes(settings):
        thaw(network, point, settings.batchnorm)
        decay = settings.layer_decay
        rows += [
            _row("finetune_phase", block, settings.learning_rate * decay**depth)
            for depth, block in enumerate(every)
        ]
        freeze_backbone(network)
    return Plan(recipe, counts, tuple(rows))


def _row(phase: str, block: Block, rate: float) -> PlanRow:
    parameters, trainable = block.parameters, block.trainable_parameters
    state = "trains" if trainable == parameters else "partly" if trainable else "frozen"
    return PlanRow(phase, block.name, state, parameters, trainable, rate if trainable else 0.0)
