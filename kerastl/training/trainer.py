"""What a phase trains with: a compiled model, its optimizer and its inference, traced once and used again where they can be.

Tracing a step of ResNet50 takes as long as training on some hundreds of images. What a graph does not depend on, such as
rates and lengths, is therefore no part of it but read from variables; two phases that differ in nothing else share one graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kerastl.recipe import PhaseRecipe
from kerastl.recipe.keys import affecting, value_at
from kerastl.task import Task
from kerastl.training.optimizer import begin_anew, make_optimizer

Infer = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True, eq=False)
class Trainer:
    """A model that is ready to be trained.

    Attributes:
        model: compiled.
        form: what its step was traced for, see `form_of`.
        optimizer: of the model.
    """

    model: keras.Model
    form: dict[str, Any]
    optimizer: keras.optimizers.Optimizer


class Trainers:
    """Trainers and inferences of a network's parts, kept for as long as they are trained again and again."""

    def __init__(self) -> None:
        self._trainers: dict[int, Trainer] = {}
        self._inferences: dict[int, tuple[Callable[..., Any], Infer]] = {}

    def ready(
        self,
        model: keras.Model,
        settings: PhaseRecipe,
        factors: Callable[[Any], float],
        steps_per_epoch: int,
        task: Task,
    ) -> Trainer:
        """A trainer at its beginning, with the rates of a phase: the one that is there, or a new one.

        Args:
            model: its trainable flags are set, to the same as before where it was trained under the same form.
            settings: the phase's resolved recipe.
            factors: each trainable variable's share of the learning rate.
            steps_per_epoch: to turn epochs into steps.
            task: what the logits answer.
        """
        form, held = form_of(settings, task), self._trainers.get(id(model))
        shares = [factors(variable) for variable in model.trainable_variables]
        if held is not None and held.form == form and model.optimizer is held.optimizer:
            begin_anew(held.optimizer, settings, shares, steps_per_epoch)
            return held
        self._trainers[id(model)] = made = _make(model, task, form, settings, shares, steps_per_epoch)
        return made

    def inference(self, model: Callable[..., Any]) -> Infer:
        """`inference_of` the model, traced once."""
        if id(model) not in self._inferences:
            self._inferences[id(model)] = (model, inference_of(model))
        return self._inferences[id(model)][1]

    def forget(self, model: keras.Model) -> None:
        """Let go of what was made for a model."""
        self._trainers.pop(id(model), None)
        self._inferences.pop(id(model), None)

    @property
    def bytes(self) -> int:
        """Of what the optimizers remember."""
        every = [variable.value for held in self._trainers.values() for variable in held.optimizer.variables]
        return sum(variable.dtype.size * variable.shape.num_elements() for variable in every)


def form_of(settings: PhaseRecipe, task: Task) -> dict[str, Any]:
    """What the graph of a phase's step depends on, beside the model: the keys that affect a step; numbers are variables in it."""
    found = {name: value_at(settings, name) for name in affecting(settings.__class__, "step")}  # type: ignore[arg-type]
    return {**found, "weight_decay": bool(settings.weight_decay), "task": task.name}


def _make(
    model: keras.Model,
    task: Task,
    form: dict[str, Any],
    settings: PhaseRecipe,
    shares: Sequence[float],
    steps: int,
) -> Trainer:
    optimizer = make_optimizer(settings, model.trainable_variables, shares, steps)
    loss = task.loss(settings.label_smoothing)
    model.compile(optimizer, loss, weighted_metrics=[task.accuracy()], jit_compile=False)
    return Trainer(model, form, optimizer)


def inference_of(model: Callable[..., Any]) -> Infer:
    """A model in inference mode, traced when it is first called; it goes on with whatever its weights then are."""
    return tf.function(functools.partial(model, training=False), reduce_retracing=True)
