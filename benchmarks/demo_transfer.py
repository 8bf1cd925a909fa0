"""Do the shipped weights transfer? The demo with them beside the same demo from random weights.

All sides are the shipped recipe `digits`, run over several seeds: with all training images, and with ten of
each class. From random weights it is run twice: as it is, and with BatchNorm that trains, because a random network
whose BatchNorm stays as it was initialised cannot learn. The seed decides which images are taken and in which order,
and the head's dropout.

    python benchmarks/demo_transfer.py [--seeds 0 1 2 3 4] [--per-class 10]
"""

from __future__ import annotations

import argparse
import json

from accuracy import spread
from ours import fit_and_measure

SIDES = {
    "shipped": {"backbone.weights": "pretrained"},
    "random": {"backbone.weights": "none"},
    "random, BatchNorm trains": {"backbone.weights": "none", "finetune_phase.batchnorm": "train"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, help="training images of each class; all without it")
    arguments = parser.parse_args()
    results: dict[str, list[dict]] = {side: [] for side in SIDES}
    for seed in arguments.seeds:
        for side, settings in SIDES.items():
            flags = {**settings, "seed": seed, "data.examples_per_class": arguments.per_class}
            results[side].append(fit_and_measure("digits", (), flags))
            print(json.dumps({"side": side, "seed": seed, **results[side][-1]}), flush=True)
    for phase in ("head_accuracy", "finetune_accuracy"):
        for side, rows in results.items():
            print(f"{phase:<20}{side:<36}{spread([100 * row[phase] for row in rows])}")
            pairs = zip(results["shipped"], rows, strict=True)
            gains = [100 * (ours[phase] - control[phase]) for ours, control in pairs]
            if side != "shipped":
                print(f"{phase:<20}{'gain over it':<36}{spread(gains)}")


if __name__ == "__main__":
    main()
