"""Reuse of traced steps and built networks, from phase to phase and from trial to trial.

Building ResNet50 and tracing its steps takes longer than an epoch on a few hundred examples above a late cut. Rates, lengths, decays and
dropout are variables that a traced step reads, so phases that differ in nothing else share one graph: that of the compiled
model. A `NetworkPool` keeps networks for the trials of a search, each put back to the pretrained weights and a fresh head before it is
trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.backbones import get_backbone
from kerastl.modality import modality_of
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import Cut, cut
from kerastl.model.freezing import freeze_backbone
from kerastl.model.head_input import HeadInput
from kerastl.model.heads import renew_head
from kerastl.recipe import HeadRecipe, PhaseRecipe, Settings
from kerastl.recipe.keys import affecting, value_at
from kerastl.task import Task
from kerastl.training.optimizer import begin_anew, make_optimizer

Infer = Callable[[tf.Tensor], tf.Tensor]
# Each holds a backbone, what an optimizer remembers, twice the trained weights, and some ten megabytes of graphs.
MOST = 12
MOST_BYTES = 1 << 30
LEAKED = "CustomGradient-"


def step_signature(settings: PhaseRecipe, task: Task) -> str:
    """All that the graph of a phase's step depends on beside the model: the keys that affect a step; numbers are variables in it."""
    values = {name: value_at(settings, name) for name in affecting(settings.__class__, "step")}  # type: ignore[arg-type]
    return json.dumps({**values, "weight_decay": bool(settings.weight_decay), "task": task.name})


def compile_for(
    model: keras.Model,
    settings: PhaseRecipe,
    factors: Callable[[Any], float],
    steps_per_epoch: int,
    task: Task,
) -> None:
    """Compile a model for a phase; where its last step has the same graph, only its optimizer begins anew.

    Args:
        model: its trainable flags are set.
        settings: the phase's resolved recipe.
        factors: each trainable variable's share of the learning rate.
        steps_per_epoch: to turn epochs into steps.
        task: what the logits answer.
    """
    variables = model.trainable_variables
    signature = f"{step_signature(settings, task)} {[id(variable) for variable in variables]}"
    shares = [factors(variable) for variable in variables]
    optimizer = getattr(model, "optimizer", None)
    if getattr(optimizer, "signature", None) == signature:
        begin_anew(optimizer, settings, shares, steps_per_epoch)
        return
    optimizer = make_optimizer(settings, variables, shares, steps_per_epoch)
    optimizer.signature = signature
    loss = task.loss(settings.label_smoothing)
    model.compile(optimizer, loss, weighted_metrics=[task.accuracy()], jit_compile=False)


def inference_of(model: Callable[..., Any]) -> Infer:
    """A model in inference mode, traced when it is first called; it reads whatever weights the model then has."""
    kept: Infer | None = getattr(model, "_kept_inference", None)
    if kept is not None:
        return kept
    infer: Infer = tf.function(functools.partial(model, training=False), reduce_retracing=True)
    if isinstance(model, keras.Model):
        object.__setattr__(model, "_kept_inference", infer)  # past Keras: it is no part of the model
    return infer


@dataclass(frozen=True, eq=False)
class _Pooled:
    """A network with one of its cuts, and the states of its random layers when it was new.

    Cuts of one network share it, but no two networks a backbone: its layers refer to all that was ever built on them, and would
    keep it.
    """

    base: str
    network: Network
    random_states: list[tuple[keras.Variable, Any]]
    parts: Cut

    @property
    def models(self) -> tuple[keras.Model, keras.Model]:
        """Models that are compiled."""
        return self.network.head, self.parts.suffix


class NetworkPool:
    """Pool of built networks with their traced steps; the one that was not used for longest is let go first.

    Args:
        class_count: number of logits.

    Attributes:
        made: how many cuts of networks were made.
    """

    def __init__(self, class_count: int) -> None:
        self.made = 0
        self._class_count = class_count
        self._pooled: OrderedDict[str, _Pooled] = OrderedDict()

    def take(
        self,
        recipe: Settings,
        unfreeze_point: str,
        reference: keras.Model,
        reads: HeadInput,
        statistics: tuple[np.ndarray, np.ndarray],
        bias: np.ndarray | None,
    ) -> tuple[Network, Cut]:
        """A network and its cut as if new; they belong to the caller until the next call.

        Args:
            recipe: resolved; Keras' random state is that of its seed.
            unfreeze_point: where the network is cut.
            reference: the pretrained backbone, which is never trained.
            reads: what the head reads.
            statistics: mean and variance by which the head standardises features.
            bias: initial bias of the logits; zeros without it.
        """
        # What a backbone's own layers draw follows from the seed under which they were made.
        drawn = [recipe.seed] if _random_states(reference) else []
        head = [value_at(recipe.head, name) for name in affecting(HeadRecipe, "features", "head")]
        policy, digests = keras.config.dtype_policy().name, list(map(_digest, statistics))
        base = json.dumps(
            [dataclasses.asdict(recipe.backbone), policy, drawn, head, reads.pooling, reads.names, digests]
        )
        phases = (recipe.head_phase, recipe.finetune_phase)
        signatures = [step_signature(phase, recipe.task) for phase in phases]
        key = json.dumps([base, *signatures, unfreeze_point])
        if key not in self._pooled:
            self.made += 1
            alike = next((one for one in self._pooled.values() if one.base == base), None)
            network, states = (
                (alike.network, alike.random_states) if alike else self._build(recipe, reads, statistics)
            )
            self._pooled[key] = _Pooled(base, network, states, cut(network, unfreeze_point))
        self._pooled.move_to_end(key)
        while len(self._pooled) > 1 and (len(self._pooled) > MOST or self._bytes() > MOST_BYTES):
            self._pooled.popitem(last=False)
        taken = self._pooled[key]
        network = taken.network
        network.backbone.set_weights(reference.get_weights())
        for variable, value in taken.random_states:
            variable.assign(value)
        renew_head(network.head, recipe.head, self._class_count, bias, recipe.seed)
        freeze_backbone(network)
        return network, taken.parts

    def _build(
        self, recipe: Settings, reads: HeadInput, statistics: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Network, list[tuple[keras.Variable, Any]]]:
        spec = get_backbone(recipe.backbone.name)
        backbone = build_backbone(spec, modality_of(recipe).spec)
        states = [(state, state.numpy()) for state in _random_states(backbone)]
        network = build_model(
            backbone,
            spec,
            recipe.head,
            self._class_count,
            *statistics,
            seed=recipe.seed,
            adjustable=True,
            reads=reads,
        )
        return network, states

    def _bytes(self) -> int:
        """Bytes of all weights, and of what the optimizers remember."""
        models = {id(model): model for one in self._pooled.values() for model in one.models}
        optimizers = filter(None, (getattr(model, "optimizer", None) for model in models.values()))
        networks = {id(one.network): one.network.model.weights for one in self._pooled.values()}
        owners = [*networks.values(), *(optimizer.variables for optimizer in optimizers)]
        values = [variable.value for variables in owners for variable in variables]
        return sum(value.dtype.size * value.shape.num_elements() for value in values)


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """States of layers that draw in training, such as stochastic depth."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@contextlib.contextmanager
def leak_workaround() -> Iterator[None]:
    """Let go of the graphs that are traced inside, once nothing else refers to them.

    TensorFlow registers the gradient of each call of a `tf.custom_gradient` inside a traced function under a name of its own and never
    removes it; it holds the graph. Keras' optimizers sum gradients with such a function, and activations like swish are others: about
    4.5 MB a trial stay (`benchmarks/search_memory.py --remember`). What is traced inside may still be called afterwards, but not be
    differentiated any more: gradients that are part of a traced function stay, the recipe for new ones goes.
    """
    registry: dict[str, Any] = {}
    # It has no public name: where it moved, a search only takes more memory.
    with contextlib.suppress(ImportError, AttributeError):
        from tensorflow.python.framework import ops

        registry = ops.gradient_registry._registry
    before = set(registry)
    try:
        yield
    finally:
        leaked = [name for name in registry if name.startswith(LEAKED) and name not in before]
        for name in leaked:
            del registry[name]
        if leaked:
            gc.collect()  # a network refers to itself
