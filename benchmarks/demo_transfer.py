"""Do the shipped weights transfer? The demo with them beside the same demo from random weights.

Both sides are the shipped recipe `digits`, run over several seeds: with all training images, and with ten of
each class. The seed decides which ones are augmented how, the head's dropout and the order of the images.

    python benchmarks/demo_transfer.py [--seeds 0 1 2 3 4] [--per-class 10]
"""

from __future__ import annotations

import argparse
import json
import statistics

from ours import fit_and_measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, help="training images of each class; all without it")
    arguments = parser.parse_args()
    results: dict[str, list[dict]] = {"pretrained": [], "none": []}
    for seed in arguments.seeds:
        for weights, rows in results.items():
            flags = {
                "backbone.weights": weights,
                "seed": seed,
                "data.examples_per_class": arguments.per_class,
            }
            rows.append(fit_and_measure("digits", (), flags))
            print(json.dumps({"weights": weights, "seed": seed, **rows[-1]}), flush=True)
    for phase in ("head_accuracy", "finetune_accuracy"):
        for weights, rows in results.items():
            values = [100 * row[phase] for row in rows]
            print(
                f"{phase:<20}{weights:<12}{statistics.median(values):6.1f} ({min(values):.1f} to {max(values):.1f})"
            )
        pairs = zip(results["pretrained"], results["none"], strict=True)
        gains = [100 * (ours[phase] - control[phase]) for ours, control in pairs]
        print(
            f"{phase:<20}{'gain':<12}{statistics.median(gains):6.1f} ({min(gains):.1f} to {max(gains):.1f})"
        )


if __name__ == "__main__":
    main()
