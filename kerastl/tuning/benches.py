"""Where trials train: networks with all that was traced for them, kept for the next trial that differs in values alone.

To build ResNet50 and to trace its steps takes longer than an epoch on a few hundred images above a late cut. Rates, lengths, decays
and dropout are no part of what is traced (`kerastl.training.trainer`), so trials that differ in nothing else share a
bench: it is put back to the pretrained weights and a fresh head, and trains on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import keras
import numpy as np

from kerastl.backbones import get_backbone
from kerastl.model.build import Network, build_backbone
from kerastl.model.cut import Cut, cut
from kerastl.model.freezing import freeze_backbone
from kerastl.model.heads import renew_head
from kerastl.recipe import HeadRecipe, Settings
from kerastl.recipe.keys import affecting, value_at
from kerastl.training.trainer import Trainers, form_of
from kerastl.training.two_phase import unfreeze_point
from kerastl.workflow.beginning import Statistics, network_on

# Each holds a backbone, what an optimizer remembers, twice the trained weights, and some ten megabytes of graphs.
MOST = 12
MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Bench:
    """A network that is ready for a training.

    Attributes:
        network: with the pretrained weights and a fresh head, all frozen but the head.
        parts: that network, cut at the unfreeze point.
        trainers: of the network, with what they traced at this cut and at others.
    """

    network: Network
    parts: Cut
    trainers: Trainers


@dataclass(frozen=True, eq=False)
class _Base:
    """What benches at several cuts have in common, and the states of its random layers when it was new.

    No two share a backbone: its layers refer to all that was ever built on them, and would keep it.
    """

    network: Network
    random_states: list[tuple[keras.Variable, Any]]
    trainers: Trainers

    @property
    def bytes(self) -> int:
        """Of weights, and of what optimizers remember."""
        weights = [weight.value for weight in self.network.model.weights]
        return self.trainers.bytes + sum(one.dtype.size * one.shape.num_elements() for one in weights)


class Benches:
    """All benches of a search; the one that was not used for longest is let go first.

    Args:
        class_count: number of logits.

    Attributes:
        made: how many were made.
    """

    def __init__(self, class_count: int) -> None:
        self.made = 0
        self._class_count = class_count
        self._benches: OrderedDict[str, tuple[_Base, Cut]] = OrderedDict()
        # What several benches stand on lives as long as one of them does.
        self._bases: WeakValueDictionary[str, _Base] = WeakValueDictionary()

    def take(
        self, recipe: Settings, reference: keras.Model, statistics: Statistics, bias: np.ndarray | None
    ) -> Bench:
        """A bench as if new. It belongs to the caller until the next one is taken.

        Args:
            recipe: resolved; Keras' random state is that of its seed.
            reference: the pretrained backbone, which is never trained.
            statistics: by which the head standardises features.
            bias: what the logits begin with; zeros without it.
        """
        base_key = json.dumps(
            [
                dataclasses.asdict(recipe.backbone),
                keras.config.dtype_policy().name,
                # What a backbone's own layers draw follows from the seed under which they were made.
                recipe.seed if _random_states(reference) else None,
                _head_form(recipe),
                *map(_digest, statistics),
            ]
        )
        phases = [form_of(phase, recipe.task) for phase in (recipe.head_phase, recipe.finetune_phase)]
        key = json.dumps([base_key, *phases, unfreeze_point(recipe)])
        if key not in self._benches:
            self.made += 1
            base = self._bases.get(base_key) or self._base(recipe, statistics)
            self._bases[base_key] = base
            self._benches[key] = base, cut(base.network, unfreeze_point(recipe))
        self._benches.move_to_end(key)
        self._make_room()
        base, parts = self._benches[key]
        base.network.backbone.set_weights(reference.get_weights())
        for variable, value in base.random_states:
            variable.assign(value)
        renew_head(base.network.head, recipe.head.dropout, bias, recipe.seed)
        freeze_backbone(base.network)
        return Bench(base.network, parts, base.trainers)

    def _base(self, recipe: Settings, statistics: Statistics) -> _Base:
        spec = get_backbone(recipe.backbone.name)
        backbone = build_backbone(spec, recipe.backbone.image_size)
        states = [(state, state.numpy()) for state in _random_states(backbone)]
        network = network_on(backbone, recipe, self._class_count, statistics, adjustable=True)
        return _Base(network, states, Trainers())

    def _make_room(self) -> None:
        while len(self._benches) > 1 and (len(self._benches) > MOST or self._bytes() > MOST_BYTES):
            _, (base, parts) = self._benches.popitem(last=False)
            base.trainers.forget(parts.suffix)

    def _bytes(self) -> int:
        return sum(base.bytes for base in {base for base, _ in self._benches.values()})


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """States of layers that draw in training, such as stochastic depth."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _head_form(recipe: Settings) -> list[Any]:
    return [value_at(recipe.head, name) for name in affecting(HeadRecipe, "features", "head")]


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]
