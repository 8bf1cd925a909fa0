"""One trial as a function of its recipe and of the work that all trials share. It knows nothing of Keras Tuner."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np

from kerastl.evaluation.monitors import example_losses
from kerastl.jobs.prepare import precision_of
from kerastl.progress import Progress
from kerastl.recipe import Recipe, Settings, resolve
from kerastl.report.search import TrialRecord
from kerastl.search.head_phases import HeadPhases, head_key
from kerastl.search.hyperparameters import with_values
from kerastl.search.shared import Shared, Sides
from kerastl.training.batches import class_weights
from kerastl.training.phase import evaluation_batch, predict_logits
from kerastl.training.reuse import inference_of, leak_workaround
from kerastl.training.two_phase import FitResult, transfer, without_finetuning


def trial_recipe(base: Recipe, values: dict[str, Any], shared: Shared, share: float = 1.0) -> Settings:
    """The resolved recipe of a trial.

    Args:
        base: the recipe as it was given, with its keys open where a rule decides.
        values: recipe keys that the trial sets.
        shared: knows the data.
        share: of the epochs of both phases that the trial may take, above 0 and up to 1.
    """
    splits = shared.splits
    recipe = resolve(with_values(base, values), splits.train.count, len(splits.class_names))
    if share >= 1:
        return recipe
    head, finetune = recipe.head_phase, recipe.finetune_phase
    return dataclasses.replace(
        recipe,
        head_phase=dataclasses.replace(head, epochs=math.ceil(head.epochs * share)),
        finetune_phase=dataclasses.replace(finetune, epochs=math.ceil(finetune.epochs * share)),
    )


def run_trial(
    recipe: Settings,
    shared: Shared,
    heads: HeadPhases,
    *,
    monitor: str,
    repeats: int = 1,
    progress: Progress = Progress(),
) -> TrialRecord:
    """Run both phases of a recipe, once or several times, and measure it on validation images alone.

    Args:
        recipe: resolved.
        shared: images and features.
        heads: head phases that were run before.
        monitor: validation metric that is the score.
        repeats: trainings with seeds of their own, for each fold.
        progress: listens to the phases.

    Returns:
        A record of the scores and losses, without the identity of a trial and its values.

    Raises:
        TrainingError: a loss is not finite.
        KeyboardInterrupt: the user stopped the trial.
    """
    measured: list[dict[str, float]] = []
    losses: list[np.ndarray] = []
    winner = ""
    with leak_workaround(), precision_of(recipe):
        sides = shared.sides(recipe)
        for repeat in range(repeats):
            seeded = dataclasses.replace(recipe, seed=(recipe.seed + repeat) % 2**31)
            of_folds = []
            for fold, side in enumerate(sides):
                result, loss = _train(
                    seeded, side, fold if shared.folds else None, shared, heads, monitor, progress
                )
                winner = winner or result.winner
                measured.append(result.validation)
                of_folds.append(loss)
            losses.append(np.concatenate(of_folds))
    metrics = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
    return TrialRecord(
        trial_id="",
        values={},
        score=metrics[monitor],
        metrics=metrics,
        scores=tuple(one[monitor] for one in measured),
        winner=winner,
        losses=np.asarray(np.mean(losses, axis=0), np.float32),
    )


def _train(
    recipe: Settings,
    side: Sides,
    fold: int | None,
    shared: Shared,
    heads: HeadPhases,
    monitor: str,
    progress: Progress,
) -> tuple[FitResult, np.ndarray]:
    keras.utils.set_random_seed(recipe.seed)
    network, parts = shared.network(recipe, side.train, fold)
    train = functools.partial(
        transfer,
        network,
        parts,
        side.train,
        side.validation,
        progress=progress,
    )
    head = heads.get(
        head_key(recipe, shared.digest, fold), lambda: train(without_finetuning(recipe)).phases[0]
    )
    if head.ended == "interrupted":
        raise KeyboardInterrupt
    result = train(recipe, head_phase=head)
    if result.interrupted:
        raise KeyboardInterrupt
    thawed = result.winner == "finetune_phase"
    model = parts.suffix if thawed else network.head
    read = side.validation.activation_batch if thawed else side.validation.pooled_batch
    settings = recipe.finetune_phase if thawed else recipe.head_phase
    infer = inference_of(model)
    logits = predict_logits(infer, side.validation.count, read, evaluation_batch(settings))
    labels, weights = side.validation.views.classes, class_weights(settings, side.validation)
    example_weights = None if weights is None else weights[labels]
    losses = example_losses(monitor, logits, labels, recipe.task, example_weights)
    return result, losses.astype(np.float32)
