"""Rates of the engines that the frozen part is computed by, how far their features differ, and what `extract` keeps of the rate.

TensorFlow with weights in variables is what the others are compared with. All take turns on the same batches, in rounds, because a
machine's speed drifts within minutes. `extract` then computes pooled features and activations of all images into an empty store,
from decoded images and with a compiled engine, between two measurements of that engine's bare rate for the same outputs.

    python benchmarks/engines.py --data DIR --weights DIR --networks resnet50:224 mobilenet_v2:128
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows

from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits
from kerastl.features.engines import Engine, difference_of, in_constants, in_openvino, in_variables
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import BATCH_SIZE, Frozen, weights_digest
from kerastl.jobs.open import open_splits
from kerastl.modality import Batch
from kerastl.model.cut import POOLED
from kerastl.model.pretrained import load_backbone
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.training.start import frozen_part, reads_of, wanted_features

NETWORKS = ("resnet50:224", "resnet50:128", "mobilenet_v2:128", "inception_v3:299", "vgg16:224")
POINTS = {
    "resnet50": "conv4_block6_out",
    "mobilenet_v2": "block_13_project_BN",
    "inception_v3": "mixed7",
    "vgg16": "block4_pool",
}
ENGINES = ("tensorflow", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and test/, one folder a class"
    )
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME:SIZE", help=f"of {', '.join(NETWORKS)}"
    )
    parser.add_argument("--per-class", type=int, default=96, help="images of each class")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=2, help="of each engine in a round")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/engines.jsonl"))
    words = parser.parse_args()
    rows = Rows(words.output)
    for network in words.networks:
        asked = {
            "network": network,
            "per_class": words.per_class,
            "rounds": words.rounds,
            "batches": words.batches,
        }
        print(table(rows.row(asked, lambda network=network: measured(network, words))), flush=True)


def measured(network: str, words: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network."""
    name, size = network.split(":")
    flags = {
        "data.source": str(words.data), "data.examples_per_class": words.per_class, "backbone.name": name,
        "backbone.image_size": int(size), "backbone.weights_dir": str(words.weights),
        "finetune_phase.unfreeze_from": POINTS[name], "augment.views": 1, "cache.mode": "memory",
    }  # fmt: skip
    recipe, splits = open_splits(load_recipe(flags=flags))
    with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch) / "inputs") as cache:
        prepared = decode_splits(recipe, splits, cache, Progress(), ("train",))
        backbone, _ = load_backbone(recipe)
        parts = frozen_part(backbone, recipe, len(splits.class_names)).cut
        wanted = wanted_features(recipe, reads_of(backbone, recipe))
        views = prepared.views("train")
        places = [
            np.arange(start, start + BATCH_SIZE)
            for start in range(0, views.count - BATCH_SIZE + 1, BATCH_SIZE)
        ]
        batches = [views.batch(each, 0) for each in places]
        model = parts.prefix(POOLED)
        engines = {
            "variables": in_variables(model),
            "constants": in_constants(model, batches[0]),
            "openvino": in_openvino(model, batches[0]),
        }
        rates = taking_turns(engines, batches, words)
        features = {
            each: np.concatenate([engine.run(b)[POOLED] for b in batches]) for each, engine in engines.items()
        }
        differences = {
            each: [
                difference_of(found, features["variables"]),
                float(np.abs(found - features["variables"]).max() / np.abs(features["variables"]).max()),
            ]
            for each, found in features.items()
        }
        engines.clear()
        shares = {}
        for asked in ENGINES:
            frozen = Frozen(parts, backbone, asked)
            with tempfile.TemporaryDirectory() as folder:
                shares[asked] = share_kept(
                    frozen, prepared.frozen_views("train"), wanted, batches, Path(folder)
                )
    return {
        "images": len(batches) * BATCH_SIZE, "weights": weights_digest(backbone)[:12], "rates": rates,
        "differences": differences, "extract": shares,
    }  # fmt: skip


def taking_turns(
    engines: dict[str, Engine], batches: list[Batch], words: argparse.Namespace
) -> dict[str, list[float]]:
    """Images a second of each engine in each round, after one batch that is not looked at."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(words.rounds + 1):
        for name, engine in engines.items():
            chosen = [
                batches[(number * words.batches + each) % len(batches)] for each in range(words.batches)
            ]
            rate = rate_of(engine, chosen)
            if number:
                rates[name].append(rate)
    return rates


def rate_of(engine: Engine, batches: list[Batch]) -> float:
    """Images a second, bare: no input is made and no output kept."""
    began = time.perf_counter()
    for batch in batches:
        engine.run(batch)
    return len(batches) * BATCH_SIZE / (time.perf_counter() - began)


def share_kept(
    frozen: Frozen, views: Any, wanted: Wanted, batches: list[Batch], folder: Path
) -> dict[str, float]:
    """The rate of `extract` into an empty store on disk, and that of its engine before and after it."""
    frozen.run(batches[0], wanted.outputs)
    engine = frozen._compiled[1]  # type: ignore[index]
    flags = {"cache.mode": "disk", "cache.directory": str(folder / "store")}
    with Cache(load_recipe(flags=flags).cache, folder / "scratch") as cache:
        before = rate_of(engine, batches)
        began = time.perf_counter()
        extract(frozen, [views], cache, wanted)
        rate = views.views.count / (time.perf_counter() - began)
        bare = statistics.harmonic_mean([before, rate_of(engine, batches)])
    return {"rate": rate, "bare": bare, "share": rate / bare}


def table(row: dict[str, Any]) -> str:
    """A line for each engine."""
    reference = statistics.median(row["rates"]["variables"])
    lines = []
    for name, rates in row["rates"].items():
        middle = statistics.median(rates)
        kept = row["extract"].get({"constants": "tensorflow"}.get(name, name))
        share = f"{kept['share']:.2f}" if kept else "-"
        lines.append(
            f"| {row['network']} | {name} | {middle:.1f} ({min(rates):.1f} to {max(rates):.1f}) | {middle / reference:.2f} | "
            f"{row['differences'][name][0]:.0e} | {row['differences'][name][1]:.0e} | {share} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
