"""How long until kerastl's defaults classify the test images as well as the guide's loop does at its end.

The guide's time is one epoch of each phase with the network in the loop, times its epochs (10 with the head alone, 5
with all layers); the accuracy to reach is what its runs in `results/accuracy.jsonl` ended with. kerastl runs
whole, from the first image read; after each epoch the clock stops while the model that it would keep so far is measured on
the test images. Both sides in one process; imports are left out.

    python benchmarks/time_to_accuracy.py --data DIR --weights DIR [--seeds 0 1 2] [--set augment.views=2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from speed import add_arguments, guide_seconds, weights_of

from kerastl.features.cache import Cache
from kerastl.features.decoded import DecodedSplits, decode_splits
from kerastl.features.extract import extract
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import Setup, network_setup
from kerastl.model.precision import make_repeatable
from kerastl.progress import Progress, Tracker
from kerastl.recipe import load_recipe
from kerastl.training.phase import EVALUATION_BATCH, PHASE_TITLES, predict_logits
from kerastl.training.reuse import inference_of
from kerastl.training.start import wanted_features
from kerastl.training.two_phase import Steps, finetunes

EPOCHS = {"head": 10, "finetune": 5}


class Clock:
    """Seconds since it was made, without those in which it stood."""

    def __init__(self) -> None:
        self._began, self._stood = time.perf_counter(), 0.0

    def read(self) -> float:
        return time.perf_counter() - self._began - self._stood

    def stand(self, seconds: float) -> None:
        self._stood += seconds


class EpochEnds(Progress):
    """Measures the network after each epoch, while the clock stands."""

    def __init__(self, clock: Clock, measure: Any) -> None:
        self.clock, self.measure = clock, measure
        self.points: list[dict[str, Any]] = []

    def track(self, label: str, total: int, unit: str = "images") -> Tracker:
        ends, phase = self, {title: name for name, title in PHASE_TITLES.items()}.get(label)

        class OfPhase(Tracker):
            def advance(self, count: int = 1, detail: str = "") -> None:
                if phase and detail:  # only the end of an epoch has something to tell
                    ends.point(phase)

        return OfPhase()

    def point(self, phase: str) -> None:
        """Measure the network as it is in a phase."""
        now = time.perf_counter()
        seconds = self.clock.read()
        self.points.append({"phase": phase, "seconds": seconds, "accuracy": self.measure(phase)})
        self.clock.stand(time.perf_counter() - now)


def our_points(arguments: argparse.Namespace, seed: int, goal: float) -> list[dict[str, Any]]:
    """Seconds and test accuracy after every epoch of a run with an empty store."""
    flags = {
        "data.source": str(arguments.data),
        "backbone.name": arguments.backbone,
        "backbone.weights": str(weights_of(arguments)),
        "backbone.image_size": arguments.image_size,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as store, tempfile.TemporaryDirectory() as scratch:
        recipe = load_recipe(None, arguments.sets, flags | {"cache.directory": store})
        clock = Clock()
        recipe, splits = open_splits(recipe)
        with Cache(recipe.cache, Path(scratch)) as cache:
            prepared = decode_splits(recipe, splits, cache, Progress(), ("train", "validation"))
            make_repeatable(recipe)
            setup = network_setup(prepared, cache)
            now = time.perf_counter()
            measure = accuracy_on_test(arguments, setup, recipe, splits, cache)
            clock.stand(time.perf_counter() - now)
            ends = EpochEnds(clock, measure)
            recipe, sides = setup.recipe, (setup.train, setup.validation)
            steps = Steps(progress=ends)
            head = steps.head_phase(setup.network, *sides, recipe)
            if not head.history:  # it was solved
                ends.point("head_phase")
            reached = arguments.until_reached and any(each["accuracy"] >= goal for each in ends.points)
            if finetunes(recipe.finetune_phase) and not reached:
                steps.finetune_phase(setup.network, setup.parts, *sides, recipe, head)
    return ends.points


def accuracy_on_test(
    arguments: argparse.Namespace, setup: Setup, recipe: Any, splits: Any, cache: Cache
) -> Any:
    """A function of the phase that measures the network as it is now."""
    prepared: DecodedSplits = decode_splits(recipe, splits, cache, Progress(), ("test",))
    wanted = wanted_features(recipe, setup.network.reads)
    (test,) = extract(setup.frozen, [prepared.frozen_views("test")], cache, wanted)

    def measure(phase: str) -> float:
        thawed = phase == "finetune_phase"
        model = setup.parts.suffix if thawed else setup.network.head
        read = test.activation_batch if thawed else test.pooled_batch
        logits = predict_logits(inference_of(model), test.count, read, EVALUATION_BATCH)
        return float(np.mean(logits.argmax(axis=1) == test.views.classes))

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, image_size=128)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="recipe key for kerastl's side"
    )
    parser.add_argument(
        "--until-reached", action="store_true", help="do not fine-tune a head that is as good already"
    )
    parser.add_argument("--accuracy", type=Path, default=Path("benchmarks/results/accuracy.jsonl"))
    arguments = parser.parse_args()
    rows = map(json.loads, arguments.accuracy.read_text().splitlines())
    theirs = [
        row["finetune_accuracy"]
        for row in rows
        if row["side"] == "guide"
        and (row["backbone"], row["image_size"]) == (arguments.backbone, arguments.image_size)
        and row["weights"]
        and not row["per_class"]
    ]
    if not theirs:
        parser.error(
            f"{arguments.accuracy} holds no run of the guide with {arguments.backbone}; run accuracy.py"
        )
    goal = statistics.median(theirs)
    ratios = []
    for seed in arguments.seeds:
        seconds = guide_seconds(arguments, None, EPOCHS)
        points = our_points(arguments, seed, goal)
        reached = next((point for point in points if point["accuracy"] >= goal), None)
        head = [point for point in points if point["phase"] == "head_phase"]
        row = {
            "seed": seed, "goal": goal, "guide_seconds": seconds, "reached": reached,
            "head_seconds": head[-1]["seconds"], "head_accuracy": [point["accuracy"] for point in head[-1:]],
            "end": points[-1], "sets": arguments.sets,
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        ratios.append(sum(seconds.values()) / reached["seconds"] if reached else float("nan"))
    print(
        f"{arguments.backbone}: {goal:.3f} is reached in 1/{statistics.median(ratios):.1f} of the guide's time"
    )
    print(f"  ({', '.join(f'1/{ratio:.1f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
