"""Learning-rate range test: how high a rate may be, from one short run after which the model is as before.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (WACV, arXiv:1506.01186), section 3.3: the rate
grows from step to step while the loss is watched. Here it grows geometrically, because useful rates lie decades
apart. Batches, loss, optimizer and shares of the rate are those of the phase, so what is tested is what is trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastl.progress import Progress
from kerastl.recipe import PhaseRecipe
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION
from kerastl.training.batches import PhaseData, batches
from kerastl.training.optimizer import make_optimizer
from kerastl.training.phase import PHASE_TITLES

# A mean over this share of the steps: batches differ by more than a step changes.
SMOOTHING_SHARE = 0.05
# As in fastai's range test: from there the loss comes back only by chance.
DIVERGED_FACTOR = 4.0
# Of the rate at which the loss diverges. That rate repeats from seed to seed and for fewer or more steps; the rate of
# the lowest loss, the usual choice, moved over three decades in a fine-tune phase. A tenth was best on a small network
# and far too high for a head on 2,048 features of 1,824 examples, which overfits: docs/ranking.md has the figures.
SUGGESTED_SHARE = 1 / 30


@dataclass(frozen=True)
class RateRange:
    """Result of a range test.

    Attributes:
        phase: the recipe's table, `head_phase` or `finetune_phase`.
        rates: the learning rate of each step.
        losses: each batch's loss before its step.
        smoothed: a running mean of them.
        diverged_rate: the last rate, where the loss left for good; None where the highest rate was reached before.
        suggestion: a learning rate for the phase's recipe, a thirtieth of that; None where the loss did not
            diverge, or where that lies below the first rate.
    """

    phase: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged_rate: float | None
    suggestion: float | None


class GeometricRate(keras.optimizers.schedules.LearningRateSchedule):
    """Grows by the same factor in each step, from `low` to `high`."""

    def __init__(self, low: float, high: float, steps: int) -> None:
        self.low, self.high, self.steps = low, high, steps

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, a float32 scalar."""
        share = ops.cast(step, "float32") / max(self.steps - 1, 1)
        return self.low * ops.exp(share * math.log(self.high / self.low))

    def get_config(self) -> dict[str, Any]:
        """Plain values that make the same schedule."""
        return {"low": self.low, "high": self.high, "steps": self.steps}


def run_rate_range(
    name: str,
    model: keras.Model,
    data: PhaseData,
    settings: PhaseRecipe,
    *,
    low: float,
    high: float,
    steps: int,
    seed: int,
    task: Task = CLASSIFICATION,
    factors: Callable[[Any], float] = lambda variable: 1.0,
    progress: Progress = Progress(),
) -> RateRange:
    """Train for some steps at growing rates, and put the model back.

    Args:
        name: the recipe's table, `head_phase` or `finetune_phase`.
        model: inputs as `data` reads them, float32 logits [b, classes] out; its trainable flags are set.
        data: features of the train and validation splits; validation is not looked at.
        settings: the phase's resolved recipe; its rate, warm-up and epochs are not used.
        low: the first step's rate.
        high: the last step's rate.
        steps: how many there are at most.
        seed: decides the order of the examples, as in training.
        task: what the logits answer.
        factors: each trainable variable's share of the learning rate.
        progress: listens.

    Returns:
        Rates, losses and a suggestion.
    """
    steps_per_epoch = math.ceil(data.train.count / settings.batch_size)
    settings = _for_steps(settings, math.ceil(steps / steps_per_epoch))
    variables = model.trainable_variables
    losses: list[float] = []
    with untouched(model), progress.track(f"rates of the {PHASE_TITLES[name]}", steps, "steps") as tracker:
        optimizer = make_optimizer(settings, variables, [factors(v) for v in variables], steps_per_epoch)
        optimizer.learning_rate = GeometricRate(low, high, steps)
        step = _training_step(model, task.loss(settings.label_smoothing), optimizer)
        for batch in batches(data, settings, steps_per_epoch, seed, model.input).take(steps):
            losses.append(float(step(*batch)))
            tracker.advance(1, f"loss {losses[-1]:.3f}")
            if has_diverged(losses, steps):
                break
    rates = [low * (high / low) ** (number / max(steps - 1, 1)) for number in range(len(losses))]
    return _judged(name, rates, losses, steps)


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Put the model's variables back after the body, also after an error: weights, moving statistics and seeds of dropout.

    The model's own optimizer is not among them: train with another one.
    """
    values = [variable.numpy() for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)


def _for_steps(settings: PhaseRecipe, epochs: int) -> PhaseRecipe:
    # The schedule is replaced, but has to be made; batches end with the epochs.
    return dataclasses.replace(settings, epochs=epochs, learning_rate=1.0, warmup_epochs=0.0)


def _training_step(
    model: keras.Model, loss: keras.losses.Loss, optimizer: keras.optimizers.Optimizer
) -> Callable[..., tf.Tensor]:
    """The step of `fit`, without compiling, which would replace the model's own optimizer."""
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(inputs: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(labels, model(inputs, training=True), sample_weight=weights)
            total = tf.add_n([value, *model.losses])
        optimizer.apply(tape.gradient(total, variables), variables)
        return total

    return step


def smooth(losses: Sequence[float], steps: int) -> list[float]:
    """Exponential running mean without the pull of its start, over a fixed share of the planned steps."""
    keep = math.exp(-1 / max(1.0, SMOOTHING_SHARE * steps))
    mean, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def has_diverged(losses: Sequence[float], steps: int) -> bool:
    """True where the loss is no number, or its running mean far above both the lowest it was and its start."""
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses, steps)
    return smoothed[-1] > max(DIVERGED_FACTOR * min(smoothed), smoothed[0])


def _judged(name: str, rates: Sequence[float], losses: Sequence[float], steps: int) -> RateRange:
    diverged_rate = rates[-1] if has_diverged(losses, steps) else None
    if not math.isfinite(losses[-1]):
        rates, losses = rates[:-1], losses[:-1]
    suggestion = None
    if diverged_rate is not None and rates and SUGGESTED_SHARE * diverged_rate >= rates[0]:
        suggestion = float(f"{SUGGESTED_SHARE * diverged_rate:.1e}")
    smoothed = tuple(smooth(losses, steps))
    return RateRange(name, tuple(rates), tuple(losses), smoothed, diverged_rate, suggestion)
