"""kerastl's side of the comparisons: one fit, with the test accuracy after each phase."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.features.cache import Cache
from kerastl.jobs import setup as start
from kerastl.jobs.prepare import decode_splits, make_repeatable, open_splits
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.training.two_phase import transfer


def fit_and_measure(recipe_name: str | None, sets: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Run both phases and return the test accuracy after each, with the seconds and epochs."""
    recipe, splits = open_splits(load_recipe(recipe_name, sets, flags))
    with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
        prepared = decode_splits(recipe, splits, cache, Progress())
        make_repeatable(recipe)
        beginning = start.begin(prepared, cache)
        network = beginning.network
        before = network.backbone.get_weights()
        fitted = transfer(network, beginning.parts, beginning.train, beginning.validation, recipe)

        def accuracy(phase: str) -> float:
            logits = start.logits_of(beginning, prepared, phase, "test", cache)
            return start.metrics_of(logits, prepared, "test").accuracy

        result: dict[str, Any] = {"finetune_accuracy": accuracy(fitted.winner)}
        network.backbone.set_weights(before)
        network.head.set_weights(list(fitted.phases[0].weights))
        result["head_accuracy"] = accuracy("head_phase")
    result |= {f"{phase.name}_seconds": phase.seconds for phase in fitted.phases}
    result |= {"winner": fitted.winner, "validation": fitted.validation, "train_examples": splits.train.count}
    result["epochs"] = [len(phase.history) for phase in fitted.phases]
    return result
