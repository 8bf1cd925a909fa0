"""How often the 95 % interval of an accuracy holds the truth where images come in groups that are alike within."""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from kerastl.evaluation.intervals import grouped_interval
from kerastl.evaluation.metrics import wilson_interval

SIZE = 25


def draw(
    generator: np.random.Generator, groups: int, truth: float, alike: float, uneven: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong for each image, and its group: beta-binomial with `alike` as the correlation within a group."""
    sizes = generator.integers(1, 2 * SIZE, groups) if uneven else np.full(groups, SIZE)
    if alike == 1:
        shares = (generator.random(groups) < truth).astype(float)
    elif alike == 0:
        shares = np.full(groups, truth)
    else:
        known = 1 / alike - 1
        shares = generator.beta(truth * known, (1 - truth) * known, groups)
    group = np.repeat(np.arange(groups), sizes)
    return generator.random(len(group)) < shares[group], group


def main() -> None:
    """Print coverage and mean width of both intervals for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    generator = np.random.default_rng(0)
    worst = (1.0, 1.0)
    for groups, alike, truth, uneven in itertools.product(
        (5, 10, 20, 40), (0, 0.1, 0.4, 1), (0.7, 0.9, 0.97), (False, True)
    ):
        found = np.zeros((2, 2))
        for _ in range(draws):
            right, group = draw(generator, groups, truth, alike, uneven)
            single = wilson_interval(int(right.sum()), len(right))
            for row, (low, high) in enumerate((single, grouped_interval(right, group))):
                found[row] += (low - 1e-9 <= truth <= high + 1e-9, high - low)
        found /= draws
        worst = (min(worst[0], found[0, 0]), min(worst[1], found[1, 0]))
        print(
            f"{groups} groups of {f'1 to {2 * SIZE - 1}' if uneven else SIZE}, {alike} alike, truth {truth}: over images "
            f"{found[0, 0]:.2f} (width {found[0, 1]:.2f}), over groups {found[1, 0]:.2f} (width {found[1, 1]:.2f})"
        )
    print(f"Worst: over images {worst[0]:.2f}, over groups {worst[1]:.2f}")


if __name__ == "__main__":
    main()
