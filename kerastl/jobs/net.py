"""A network and its data, to be trained in one call or step by step."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerastl.backbones import get_backbone
from kerastl.data.examples import Examples
from kerastl.errors import UserError
from kerastl.features.cache import Cache
from kerastl.features.decoded import lost_examples_named
from kerastl.jobs.open import open_splits
from kerastl.jobs.recipes import recipe_for, usable
from kerastl.jobs.setup import Setup, at_unfreeze_point, set_up
from kerastl.model.own_head import feature_count, load_layers
from kerastl.progress import Logging, Progress
from kerastl.recipe import Recipe, resolve
from kerastl.recipe.flags import keys_from_options
from kerastl.recipe.rule import view_warnings
from kerastl.training.phase import PhaseResult
from kerastl.training.two_phase import Steps, unfreeze_point

# What a step may still change; all else is decided when the network is built.
_OF_A_STEP = ("head_phase.", "finetune_phase.")


class Net:
    """A backbone with a fresh head and the data that it is to be trained on, as `kerastl.build` makes it.

    Attributes:
        recipe: the settings: what was asked for, and what the rule chose for these data.
        splits: the data in train, validation and test.
        phases: the phases that were run step by step.
        files: folder of networks that were handed over; None where none was.
    """

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples | None,
        files: tempfile.TemporaryDirectory[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.asked, self.examples, self.progress = recipe, examples, progress or Logging()
        self._kept = files  # is removed with this object
        self.files = None if files is None else Path(files.name)
        self.recipe, self.splits = open_splits(recipe, examples=usable(examples, recipe))
        self._started = time.perf_counter()
        self._stack = contextlib.ExitStack()
        self._setup: Setup | None = None
        self.phases: tuple[PhaseResult, ...] = ()
        if recipe.head.layers:
            channels = get_backbone(recipe.backbone.name).feature_channels
            load_layers(
                recipe.head.layers, feature_count(channels, recipe.head.pooling), len(self.splits.class_names)
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.splits.counts().items())
        return f"Net('{self.recipe.name}', {counts})"

    @property
    def unfreeze_points(self) -> tuple[str, ...]:
        """The points from which it may be unfrozen: `backbone` (nothing), unfreeze points from the output down, `input` (all)."""
        return get_backbone(self.recipe.backbone.name).unfreeze_points

    @property
    def model(self) -> keras.Model:
        """The Keras model as it is now: float32 RGB [n, side, side, 3], 0..255 -> logits [n, classes]."""
        return self.setup.network.model

    @property
    def setup(self) -> Setup:
        """Decoded examples, network and features, made when they are first needed."""
        if self._setup is None:
            for warning in (*self.splits.warnings, *view_warnings(self.recipe)):
                self.progress.warn(warning)
            scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kerastl-"))
            cache = self._stack.enter_context(Cache(self.recipe.cache, Path(scratch)))
            self._setup = set_up(self.recipe, self.splits, cache, self.progress)
        return self._setup

    def change(self, options: dict[str, Any]) -> None:
        """Set recipe keys of the phases that are still to come.

        Raises:
            RecipeError: an option does not exist, or does not take its value.
            UserError: an option is decided when the network is built.
        """
        others = [key for key in keys_from_options(options) if not key.startswith(_OF_A_STEP)]
        if others:
            raise UserError(
                f"{', '.join(others)}: a step takes keys of its phase alone, such as head_epochs, unfreeze_from or "
                "finetune_phase={...}. Pass the others to kerastl.build"
            )
        asked = recipe_for(self.asked, None, options)
        # the bits of 16-bit examples are known by now
        resolved = dataclasses.replace(asked, data=self.recipe.data)
        settings = resolve(resolved, self.splits.train.count, len(self.splits.class_names))
        moved = unfreeze_point(settings) != unfreeze_point(self.recipe)
        self.asked, self.recipe = asked, settings
        if self._setup is not None and moved:
            self._setup = at_unfreeze_point(self._setup, settings, self.progress)
        elif self._setup is not None:
            self._setup = self._setup.with_recipe(settings)

    def run_phase(self, name: str, callbacks: Sequence[keras.callbacks.Callback]) -> PhaseResult:
        """Run a phase of the training from the weights that the network now has."""
        setup, steps = self.setup, Steps(callbacks, None, self.progress)
        data = setup.train, setup.validation, self.recipe
        with lost_examples_named(setup.prepared):
            if name == "head_phase":
                return steps.head_phase(setup.network, *data)
            return steps.finetune_phase(setup.network, setup.parts, *data, self.phases[-1])

    def close(self) -> None:
        """Let go of examples and features; the next step begins anew, from pretrained weights."""
        self._stack.close()
        self._setup, self.phases, self._started = None, (), time.perf_counter()
