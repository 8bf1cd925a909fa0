"""Strict entity F1 on Wikigold: the head alone, both phases, and a head on the last layer alone as a control.

A seed draws sentences to learn from, of which kerastl holds a part back for validation, and others to test on; it is also the run's
seed. Frozen states are shared by the fits of a seed.

    python benchmarks/entities.py wikigold.conll --weights DIR
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import kerastl
from kerastl.data.conll import read_conll

WAYS = {
    "head on the last layer": ["head.features=last", "finetune_phase.epochs=0"],
    "head": ["finetune_phase.epochs=0"],
    "both phases": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", type=Path, help="file of words and tags")
    parser.add_argument("--weights", required=True, help="Hugging Face folder of the backbone")
    parser.add_argument("--backbone", default="minilm_l6")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=300)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    found = {
        each.text: [(span.start, span.end, span.label) for span in each.spans]
        for each in read_conll(asked.sentences).documents
    }
    pairs = list(found.items())
    figures: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in asked.seeds:
        order = np.random.default_rng(seed).permutation(len(pairs))[: asked.train + asked.tests]
        train, test = ([pairs[at] for at in part] for part in (order[: asked.train], order[asked.train :]))
        examples = kerastl.from_entities(train, test=test)
        with tempfile.TemporaryDirectory() as scratch:
            for name, sets in WAYS.items():
                began = time.perf_counter()
                flags = {
                    "backbone.name": asked.backbone,
                    "backbone.weights": asked.weights,
                    "data.task": "entities",
                    "cache.directory": f"{scratch}/cache",
                    "seed": seed,
                }
                recipe = kerastl.load_recipe(sets=[*asked.sets, *sets], flags=flags)
                fitted = kerastl.fit(recipe, examples, runs_dir=scratch, export_model=False)
                entities = fitted.report.metrics.entities
                assert entities is not None and entities.f1 is not None
                figures[name].append(entities.f1)
                print(
                    f"seed {seed}, {name}: F1 {entities.f1:.3f}, macro {entities.macro_f1 or 0:.3f} ({fitted.report.winner}, "
                    f"{fitted.recipe.head.features}, unfrozen from {fitted.recipe.finetune_phase.unfreeze_from}, "
                    f"{time.perf_counter() - began:.0f} s)",
                    flush=True,
                )
    for name, values in figures.items():
        print(f"{name}: {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
