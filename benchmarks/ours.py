"""kerastl's side of the comparisons: one fit, with the test accuracy after each phase."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits
from kerastl.jobs.measure import logits_of, metrics_of
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import network_setup
from kerastl.model.precision import make_repeatable
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.training.two_phase import transfer


def fit_and_measure(recipe_name: str | None, sets: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Run both phases and return the test accuracy after each, with the seconds and epochs."""
    recipe, splits = open_splits(load_recipe(recipe_name, sets, flags))
    with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
        prepared = decode_splits(recipe, splits, cache, Progress())
        make_repeatable(recipe)
        setup = network_setup(prepared, cache)
        network = setup.network
        before = network.backbone.get_weights()
        fitted = transfer(network, setup.parts, setup.train, setup.validation, recipe)

        def accuracy(phase: str) -> float:
            return metrics_of(logits_of(setup, phase, "test"), prepared, "test").accuracy

        result: dict[str, Any] = {"finetune_accuracy": accuracy(fitted.winner)}
        network.backbone.set_weights(before)
        network.head.set_weights(list(fitted.phases[0].weights))
        result["head_accuracy"] = accuracy("head_phase")
    result |= {f"{phase.name}_seconds": phase.seconds for phase in fitted.phases}
    result |= {"winner": fitted.winner, "validation": fitted.validation, "train_examples": splits.train.count}
    result["epochs"] = [len(phase.history) for phase in fitted.phases]
    return result
