"""Memory of a search over many trials, in one process.

Trials of few epochs on a part of the embedded digits, at four unfreeze points in turn, each with a rate, a dropout and an
L2 penalty of its own. No two trials share a network by that, since the penalty is part of what is traced: the most that a search can
ask for. With `--alike` all have one penalty, and four networks serve them all. After every few trials the memory that the
process holds for itself (`RssAnon`), and how many traced graphs it holds. `--remember` leaves out what the search does about
graphs that nobody needs any more.

    python benchmarks/search_memory.py --trials 50
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from memory import memory_of

from kerastl.features.cache import Cache
from kerastl.jobs.open import open_splits
from kerastl.recipe import load_recipe
from kerastl.search import trial
from kerastl.search.head_phases import HeadPhases
from kerastl.search.shared import Shared

POINTS = ("conv_pw_12_relu", "backbone", "conv_pw_11_relu", "input")


def graphs() -> int:
    """How many traced graphs are alive."""
    from tensorflow.python.framework.func_graph import FuncGraph

    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--alike", action="store_true", help="one penalty for all trials")
    parser.add_argument("--remember", action="store_true", help="the control: let TensorFlow keep its graphs")
    arguments = parser.parse_args()
    if arguments.remember:
        trial.leak_workaround = contextlib.nullcontext
    with tempfile.TemporaryDirectory() as folder:
        search(arguments, Path(folder))


def search(arguments: argparse.Namespace, folder: Path) -> None:
    """Run the trials and say what they leave."""
    flags = {
        "data.examples_per_class": arguments.per_class,
        "augment.views": 2,
        "head_phase.epochs": 3,
        "finetune_phase.epochs": 1,
        "cache.directory": str(folder / "store"),
        "cache.mode": "disk",
    }
    recipe = load_recipe("digits", flags=flags)
    heads = HeadPhases(folder / "heads")
    print(f"{'trials':>7}{'own MB':>9}{'graphs':>8}{'seconds a trial':>17}")
    with Cache(recipe.cache, folder / "scratch") as cache:
        shared = Shared(open_splits(recipe)[1], cache, 0, arguments.trials)
        began = time.perf_counter()
        for number in range(arguments.trials):
            point = POINTS[number % len(POINTS)]
            values = {"finetune_phase.unfreeze_from": point, "head.dropout": 0.5 * number / arguments.trials}
            if not arguments.alike:
                values["head.l2"] = 1e-6 * (number + 1)
            if point != "backbone":
                values["finetune_phase.learning_rate"] = 1e-4 * (number + 1)
            asked = trial.trial_recipe(recipe, values, shared)
            trial.run_trial(asked, shared, heads, monitor="val_calibrated_loss")
            if (number + 1) % arguments.every == 0:
                seconds = (time.perf_counter() - began) / arguments.every
                own = memory_of(os.getpid())[0]
                print(f"{number + 1:>7}{own:>9,}{graphs():>8,}{seconds:>17.1f}", flush=True)
                began = time.perf_counter()


if __name__ == "__main__":
    main()
