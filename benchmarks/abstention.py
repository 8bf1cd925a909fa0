"""How often a threshold keeps the precision that it was chosen for.

Images of a calibrated model of two classes: logits are normal, and an image is right with the probability that the model
gives. A threshold is chosen on some of them, by kerastl and by the observed precision alone, and judged on two million others.

    python benchmarks/abstention.py
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import expit

from kerastl.evaluation.abstention import choose_threshold

EVERYTHING = 2_000_000
COUNTS = (100, 200, 400, 1000, 4000)


def images(generator: np.random.Generator, count: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 2] and labels [n]."""
    sure = expit(np.abs(generator.normal(mean, 2.0, count)))
    return np.stack([sure, 1 - sure], axis=1), (generator.random(count) >= sure).astype(int)


def by_observed(probabilities: np.ndarray, labels: np.ndarray, precision: float) -> float | None:
    """The lowest confidence from which on the share of right answers is the precision."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence)
    right = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    good = np.flatnonzero(right >= precision * np.arange(1, len(order) + 1))
    return float(confidence[order][good[-1]]) if len(good) else None


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--mean", type=float, default=3.5, help="of the logits: how good the model is")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    probabilities, labels = images(generator, EVERYTHING, arguments.mean)
    order = np.argsort(probabilities[:, 0])
    ladder = probabilities[order, 0]
    beyond = np.cumsum((labels == 0)[order][::-1])[::-1] / np.arange(EVERYTHING, 0, -1)
    print(f"Model: {(labels == 0).mean():.3f} right. Of {arguments.draws} draws, below the precision: ")
    print(
        "| precision | images | by observed precision | by its lower bound | no threshold | accepted | at best |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for precision in (0.9, 0.95, 0.98):
        best = 1 - np.flatnonzero(beyond >= precision)[0] / EVERYTHING
        for count in COUNTS:
            below, none, accepted = {by_observed: 0, choose_threshold: 0}, 0, 0.0
            for _ in range(arguments.draws):
                drawn = images(generator, count, arguments.mean)
                for choose in below:
                    threshold = choose(*drawn, precision)
                    at = EVERYTHING if threshold is None else int(np.searchsorted(ladder, threshold))
                    below[choose] += at < EVERYTHING and beyond[at] < precision
                none += threshold is None
                accepted += 1 - at / EVERYTHING
            shares = [*below.values(), none, accepted]
            cells = " | ".join(f"{share / arguments.draws:.0%}" for share in shares)
            print(f"| {precision} | {count:,} | {cells} | {best:.0%} |", flush=True)


if __name__ == "__main__":
    main()
