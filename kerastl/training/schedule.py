"""Learning rate over time, and from block to block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastl.recipe import PhaseRecipe


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then half a cosine to zero (Loshchilov & Hutter 2017).

    Args:
        peak: the highest learning rate.
        warmup_steps: steps of linear growth; the first step already trains.
        total_steps: steps until the rate is zero.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, a float32 scalar."""
        step = ops.cast(step, "float32")
        warmup = self.peak * (step + 1.0) / max(self.warmup_steps, 1)
        rest = max(self.total_steps - self.warmup_steps, 1)
        done = ops.clip((step - self.warmup_steps) / rest, 0.0, 1.0)
        return ops.where(step < self.warmup_steps, warmup, self.peak * 0.5 * (1.0 + ops.cos(math.pi * done)))

    def get_config(self) -> dict[str, Any]:
        """Plain values that make the same schedule."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class PerVariable:
    """Gives each variable its own share of the learning rate, and decays only those that should.

    The decay is decoupled (Loshchilov & Hutter 2019) and follows the variable's own rate; Keras' built-in
    one follows the global rate, which would undo layer decay.
    """

    def plan_variables(self, rates: Mapping[int, float], decays: Mapping[int, float]) -> None:
        """Set the factor and the decay of each variable, keyed by `_unique_id` of its backend variable."""
        self._rates, self._decays = dict(rates), dict(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's update."""
        # Keras hands over the bare tf.Variable, which has no path: its unique id is what remains.
        identity = _bare(variable)._unique_id
        rate = learning_rate * self._rates[identity]
        decay = self._decays[identity]
        if decay:
            self.assign_sub(variable, variable * ops.cast(rate * decay, variable.dtype))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]


class _FusedAdam(keras.optimizers.Adam):
    """Adam in TensorFlow's own kernel, which goes over a variable once; Keras' operations go over it ten times.

    Of a training step above ResNet50's `conv4_block6_out`, batch 32, it takes 24 of 659 ms.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's update."""
        place = self._get_variable_index(variable)
        momentum, velocity = self._momentums[place].value, self._velocities[place].value
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_bare(variable).handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.constant(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class AdamPerVariable(PerVariable, _FusedAdam):
    """Adam with a rate and a decay for each variable: AdamW with layer decay."""


class MomentumPerVariable(PerVariable, keras.optimizers.SGD):
    """SGD with a rate and a decay for each variable."""


def _bare(variable: Any) -> Any:
    """The tf.Variable behind a variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def make_optimizer(
    settings: PhaseRecipe, variables: Sequence[Any], factors: Sequence[float], steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """The optimizer of a phase.

    Args:
        settings: the phase's resolved recipe.
        variables: all variables that train.
        factors: each variable's share of the learning rate, 0..1.
        steps_per_epoch: to turn epochs into steps.

    Returns:
        AdamW, or SGD with Nesterov momentum 0.9. Weight decay spares biases and norms, that is, all
        variables with fewer than two axes.
    """
    assert settings.epochs and settings.learning_rate and settings.warmup_epochs is not None
    total = settings.epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total // 2)
    schedule = WarmupCosine(settings.learning_rate, warmup, total)
    clip = settings.gradient_clip_norm or None
    optimizer = (
        MomentumPerVariable(schedule, momentum=0.9, nesterov=True, global_clipnorm=clip)
        if settings.optimizer == "sgd"
        else AdamPerVariable(schedule, global_clipnorm=clip)
    )
    identities = [variable.value._unique_id for variable in variables]
    decay = settings.weight_decay or 0.0
    optimizer.plan_variables(
        dict(zip(identities, factors, strict=True)),
        {key: decay if len(v.shape) > 1 else 0.0 for key, v in zip(identities, variables, strict=True)},
    )
    return optimizer
