"""Two-phase training: the head on the frozen backbone, then the thawed blocks as well, and the better of both.

head phase       the head alone, on pooled features of the frozen backbone
fine-tune phase  head and all blocks above the unfreeze point, on the activations there
winner           whichever validates better; the fine-tune phase can only improve on the head phase
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.features.readers import Features
from kerastl.model.build import Network
from kerastl.model.cut import Cut
from kerastl.model.freezing import blocks, depth_of, freeze_backbone, thaw
from kerastl.model.heads import rewind_dropout
from kerastl.progress import Progress
from kerastl.recipe import Asked, FinetunePhaseRecipe, Settings
from kerastl.training.batches import PhaseData
from kerastl.training.phase import PhaseResult, run_phase
from kerastl.training.trainer import Trainers


@dataclass(frozen=True)
class FitResult:
    """Both phases and which of them the network now holds.

    Attributes:
        phases: the phases that ran, in order.
        winner: name of the phase whose weights were kept.
        validation: validation metrics of those weights.
        interrupted: whether the user stopped the training.
    """

    phases: tuple[PhaseResult, ...]
    winner: str
    validation: dict[str, float]
    interrupted: bool


def transfer(
    network: Network,
    cut: Cut,
    train: Features,
    validation: Features,
    recipe: Settings,
    *,
    head_phase: PhaseResult | None = None,
    trainers: Trainers | None = None,
    tensorboard: Path | None = None,
    progress: Progress = Progress(),
) -> FitResult:
    """Run both phases; the network ends with the weights of the better one.

    Args:
        network: backbone with pretrained weights and a fresh head.
        cut: that network, cut at the recipe's unfreeze point.
        train: features of the training images, one or more views.
        validation: features of the validation images, one view.
        recipe: fully resolved.
        head_phase: how the head phase went, where it ran before on the same features: its weights are taken over.
        trainers: of this network and cut, from earlier trainings; what they traced is not traced again.
        tensorboard: folder for TensorBoard logs.
        progress: listens.

    Returns:
        What each phase did, and the winner.

    Raises:
        TrainingError: where a loss is not finite.
    """
    run = functools.partial(
        run_phase,
        seed=recipe.seed,
        task=recipe.task,
        trainers=trainers,
        progress=progress,
    )
    freeze_backbone(network)
    if head_phase is None:
        head = run(
            "head_phase",
            network.head,
            PhaseData(train, train.pooled_batch, validation, validation.pooled_batch),
            recipe.head_phase,
            tensorboard=tensorboard and tensorboard / "head_phase",
        )
    else:
        head = head_phase
        network.head.set_weights(list(head.weights))
    settings = recipe.finetune_phase
    if not head.best_epoch and head.ended != "interrupted":
        progress.warn(
            f"No epoch of the head phase was better on validation ({head.monitor}) than the shares of the classes alone: its "
            f"features may not tell the classes apart. `kerastl lr-range` and `kerastl rank` help to find out"
        )
    if head.ended == "interrupted" or not finetunes(settings):
        return FitResult((head,), head.name, head.best, head.ended == "interrupted")

    rewind_dropout(network.head.layers)
    factors = thaw_for_phase(network, cut, settings)
    if cut.unfreeze_point == "input" and train.view_count > 1:
        # Nothing is kept there, and each view is made when it is read: few of them would save nothing.
        train = dataclasses.replace(train, view_count=max(train.view_count, settings.epochs))
    finetune = run(
        "finetune_phase",
        cut.suffix,
        PhaseData(train, train.activation_batch, validation, validation.activation_batch),
        settings,
        factors=factors,
        # Figures that weigh classes in another way do not compare.
        start=head.best if settings.class_weights == recipe.head_phase.class_weights else None,
        tensorboard=tensorboard and tensorboard / "finetune_phase",
    )
    freeze_backbone(network)
    winner = finetune if finetune.best_epoch else head
    return FitResult((head, finetune), winner.name, winner.best, finetune.ended == "interrupted")


def thaw_for_phase(network: Network, cut: Cut, settings: FinetunePhaseRecipe) -> Callable[[Any], float]:
    """Thaw what the fine-tune phase trains; gives each variable's share of the learning rate by its depth."""
    thaw(network, cut.unfreeze_point, settings.batchnorm)
    thawed = blocks(network, cut.unfreeze_point)
    decay = settings.layer_decay
    return lambda variable: decay ** depth_of(variable, thawed)


def without_finetuning(recipe: Asked) -> Asked:
    """The same recipe with a head phase alone."""
    thaws_nothing = dataclasses.replace(recipe.finetune_phase, unfreeze_from="backbone")
    return dataclasses.replace(recipe, finetune_phase=thaws_nothing)


def finetunes(settings: FinetunePhaseRecipe) -> bool:
    """Whether there is anything to do in the fine-tune phase."""
    return settings.unfreeze_from != "backbone" and settings.epochs != 0


def unfreeze_point(settings: Settings) -> str:
    """The join above which a recipe trains; `backbone` where no fine-tune phase follows."""
    return settings.finetune_phase.unfreeze_from if finetunes(settings.finetune_phase) else "backbone"
