"""Two-phase training: the head on the frozen backbone, then the thawed blocks as well, and the better of both.

head phase       the head alone, on pooled features of the frozen backbone
fine-tune phase  head and all blocks above the unfreeze point, on the activations there
winner           whichever validates better; the fine-tune phase can only improve on the head phase
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from kerastl.errors import UserError
from kerastl.evaluation.monitors import is_better
from kerastl.features.readers import Features
from kerastl.model.build import Network
from kerastl.model.cut import Cut
from kerastl.model.freezing import blocks, depth_of, freeze_backbone, thaw
from kerastl.model.head_input import LAST
from kerastl.model.heads import rewind_dropout
from kerastl.progress import Progress
from kerastl.recipe import Asked, FinetunePhaseRecipe, PhaseRecipe, Settings
from kerastl.training.batches import PhaseData, example_weights
from kerastl.training.phase import PhaseResult, evaluation_batch, run_phase, validate
from kerastl.training.reuse import inference_of
from kerastl.training.ridge import PENALTIES
from kerastl.training.solve import Solution, solve

# Of the head that fine-tuning begins with, in parts of the mean squared length of its features.
FINETUNE_PENALTIES = np.array([30.0])
# The same by features, and by what else it follows from: trials of a search that differ in their fine-tune phase begin with one.
_SOFTENED: WeakKeyDictionary[Features, dict[tuple[Any, ...], Solution]] = WeakKeyDictionary()


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
    callbacks: Sequence[keras.callbacks.Callback] = (),
    tensorboard: Path | None = None,
    progress: Progress = Progress(),
) -> FitResult:
    """Run both phases; the network ends with the weights of the better one.

    Args:
        network: backbone with pretrained weights and a fresh head.
        cut: that network, cut at the recipe's unfreeze point.
        train: features of the training examples, one or more views.
        validation: features of the validation examples, one view.
        recipe: fully resolved.
        head_phase: how the head phase went, where it ran before on the same features: its weights are taken over.
        callbacks: of the user's own, for both phases.
        tensorboard: folder for TensorBoard logs.
        progress: listens.

    Returns:
        What each phase did, and the winner.

    Raises:
        TrainingError: where a loss is not finite.
        UserError: activations are to be mixed above a cut that carries inputs.
    """
    run = Steps(callbacks, tensorboard, progress)
    if finetunes(recipe.finetune_phase):
        check_mixing(cut, recipe.finetune_phase)
    if head_phase is None:
        head = run.head_phase(network, train, validation, recipe)
    else:
        freeze_backbone(network)
        head = head_phase
        network.head.set_weights(list(head.weights))
    if not head.best_epoch and not head.solved and head.ended != "interrupted":
        progress.warn(
            f"Nothing in the head phase was better on validation ({head.monitor}) than the shares of the classes alone: its "
            f"features may not tell the classes apart. `kerastl lr-range` and `kerastl rank` help to find out"
        )
    if head.ended == "interrupted" or not finetunes(recipe.finetune_phase):
        return result_of((head,))
    return result_of((head, run.finetune_phase(network, cut, train, validation, recipe, head)))


@dataclass(frozen=True, eq=False)
class Steps:
    """The two phases one by one, with what both have in common; see `transfer`."""

    callbacks: Sequence[keras.callbacks.Callback] = ()
    tensorboard: Path | None = None
    progress: Progress = Progress()

    def head_phase(
        self, network: Network, train: Features, validation: Features, recipe: Settings
    ) -> PhaseResult:
        """Train the head alone, on pooled features of the frozen backbone; it ends with its best weights."""
        freeze_backbone(network)
        data = _head_data(train, validation)
        began = time.perf_counter()
        solved = solve_head(network, data, recipe) if recipe.head.start == "solved" else ""
        result = self._run("head_phase", network.head, data, recipe.head_phase, recipe, solved=solved)
        return dataclasses.replace(result, seconds=time.perf_counter() - began)

    def finetune_phase(
        self,
        network: Network,
        cut: Cut,
        train: Features,
        validation: Features,
        recipe: Settings,
        before: PhaseResult,
    ) -> PhaseResult:
        """Train head and blocks above the cut, which begin with the weights of the phase before and end with the better ones."""
        settings = recipe.finetune_phase
        # Figures that weigh classes in another way do not compare.
        weighed_alike = settings.class_weights == recipe.head_phase.class_weights
        start = before.best if weighed_alike else _validated(network, train, validation, recipe)
        rewind_dropout(network.head.layers)
        factors = begin_finetuning(network, cut, train, recipe)
        if cut.unfreeze_point == "input" and train.view_count > 1:
            # Nothing is kept there, and each view is made when it is read: few of them would save nothing.
            train = dataclasses.replace(train, view_count=max(train.view_count, settings.epochs))
        data = PhaseData(train, train.activation_batch, validation, validation.activation_batch)
        result = self._run("finetune_phase", cut.suffix, data, settings, recipe, factors=factors, start=start)
        if not result.best_epoch:
            network.head.set_weights(list(before.weights))
        freeze_backbone(network)
        return result

    def _run(
        self,
        name: str,
        model: keras.Model,
        data: PhaseData,
        phase: PhaseRecipe,
        recipe: Settings,
        **more: Any,
    ) -> PhaseResult:
        return run_phase(
            name,
            model,
            data,
            phase,
            seed=recipe.seed,
            task=recipe.task,
            callbacks=self.callbacks,
            tensorboard=self.tensorboard and self.tensorboard / name,
            progress=self.progress,
            **more,
        )


def _head_data(train: Features, validation: Features) -> PhaseData:
    """Features that the head alone is trained and validated on."""
    train, validation = train.rows, validation.rows
    return PhaseData(train, train.pooled_batch, validation, validation.pooled_batch)


def _validated(network: Network, train: Features, validation: Features, recipe: Settings) -> dict[str, float]:
    """Validation metrics of the head as it is, with classes weighed as in the fine-tune phase."""
    data, batch_size = _head_data(train, validation), evaluation_batch(recipe.head_phase)
    return validate(inference_of(network.head), data, recipe.finetune_phase, recipe.task, batch_size)


def solve_head(network: Network, data: PhaseData, recipe: Settings) -> str:
    """Give a linear head the weights of its least-squares solution; says which penalty it has.

    Where validation finds that no better than the weights that the head has, the guess by the shares of the classes, they stay,
    and nothing is said.
    """
    settings = recipe.head_phase
    infer, before = inference_of(network.head), network.head.get_weights()
    guess = validate(infer, data, settings, recipe.task, evaluation_batch(settings))
    solution = _solution(network, data.train, recipe, PENALTIES)
    network.logits.set_weights([solution.kernel, solution.bias])
    found = validate(infer, data, settings, recipe.task, evaluation_batch(settings))
    if not is_better(settings.monitor, found, guess):
        network.head.set_weights(before)
        return ""
    noun = data.train.views.noun
    return (
        f"least squares, penalty {solution.penalty:.2g} (log-loss of {solution.examples:,} {noun}s left out: "
        f"{solution.log_loss:.3f})"
    )


def soften_head(network: Network, train: Features, recipe: Settings) -> None:
    """Give a linear head the weights that fine-tuning begins with: of a heavy penalty, and on the last activation alone.

    A head that fits every training example leans on small differences that the first steps of fine-tuning wipe out, and then leads
    the backbone astray. Under a heavy penalty its weights point to the means of the classes. Joins beside the last activation
    begin with weights of zero. Measured in docs/rule.md.
    """
    last = last_part(network)
    normalization, found = network.normalization, _SOFTENED.setdefault(train.rows, {})
    statistics = (np.asarray(each).tobytes() for each in (normalization.mean, normalization.variance))
    key = (recipe.task.name, recipe.head_phase.class_weights, last.start, *statistics)
    solution = found[key] = found.get(key) or _solution(network, train.rows, recipe, FINETUNE_PENALTIES, last)
    kernel = np.zeros(network.logits.kernel.shape, np.float32)
    kernel[last] = solution.kernel
    network.logits.set_weights([kernel, solution.bias])


def last_part(network: Network) -> slice:
    """The features of the last activation among all that a head reads; all of them where it does not read that one."""
    reads = network.reads
    if reads.channels is None or reads.names[-1] != LAST:
        return slice(None)
    return slice(network.feature_count - sum(reads.within((LAST,)).widths(0)), None)


def _solution(
    network: Network, train: Features, recipe: Settings, penalties: np.ndarray, part: slice = slice(None)
) -> Solution:
    normalization = network.normalization
    mean, variance = (np.ravel(each)[part] for each in (normalization.mean, normalization.variance))
    some = dataclasses.replace(train, pooled_batch=lambda at, view: train.pooled_batch(at, view)[:, part])
    weights = example_weights(recipe.head_phase, train)
    return solve(some, mean, variance, recipe.task, weights, penalties)


def result_of(phases: tuple[PhaseResult, ...]) -> FitResult:
    """The result of phases that ran one after the other: the last one wins if any of its epochs was better than what it began with."""
    last = phases[-1]
    winner = last if last.best_epoch else phases[0]
    return FitResult(phases, winner.name, winner.best, last.ended == "interrupted")


def begin_finetuning(network: Network, cut: Cut, train: Features, recipe: Settings) -> Callable[[Any], float]:
    """Give the network what the fine-tune phase begins with; gives each variable's share of the learning rate."""
    if recipe.head.start == "solved":
        soften_head(network, train, recipe)
    return thaw_for_phase(network, cut, recipe.finetune_phase)


def thaw_for_phase(network: Network, cut: Cut, settings: FinetunePhaseRecipe) -> Callable[[Any], float]:
    """Thaw what the fine-tune phase trains; gives each variable's share of the learning rate by its depth."""
    check_mixing(cut, settings)
    thaw(network, cut.unfreeze_point, settings.batchnorm)
    thawed = blocks(network, cut.unfreeze_point)
    decay = settings.layer_decay
    return lambda variable: decay ** depth_of(variable, thawed)


def check_mixing(cut: Cut, settings: FinetunePhaseRecipe) -> None:
    """Raise UserError where rows are to be blended of which a part cannot be: a mask, a length, ids."""
    if settings.mixup_alpha and len(cut.suffix.inputs) > 1:
        raise UserError(
            f"finetune_phase.mixup_alpha = {settings.mixup_alpha:g}: above '{cut.unfreeze_point}' the network also takes "
            f"{', '.join(cut.carried)}, which cannot be blended. Expected 0, or an unfreeze point above which it takes the "
            "activation alone"
        )


def without_finetuning(recipe: Asked) -> Asked:
    """The same recipe with a head phase alone."""
    thaws_nothing = dataclasses.replace(recipe.finetune_phase, unfreeze_from="backbone")
    return dataclasses.replace(recipe, finetune_phase=thaws_nothing)


def finetunes(settings: FinetunePhaseRecipe) -> bool:
    """True where the fine-tune phase has anything to train."""
    return settings.unfreeze_from != "backbone" and settings.epochs != 0


def unfreeze_point(settings: Settings) -> str:
    """The join above which a recipe trains; `backbone` where no fine-tune phase follows."""
    return settings.finetune_phase.unfreeze_from if finetunes(settings.finetune_phase) else "backbone"
