"""How often a division into splits is refused or leaves classes out, by hash alone and as `kerastl.data.carving` does it."""

from __future__ import annotations

import argparse

import numpy as np

from kerastl.data.carving import TEST_SIDE, TRAIN_SIDE, VALIDATION_SIDE, Wanted, carve

WANTED = Wanted(test=0.2, validation=0.08)  # the defaults
CASES: dict[str, tuple[int, int, int]] = {  # units, images in each, classes
    "3 groups of 40 in 4 classes": (3, 40, 4),
    "5 groups of 40 in 4 classes": (5, 40, 4),
    "10 groups of 40 in 4 classes": (10, 40, 4),
    "20 groups of 40 in 4 classes": (20, 40, 4),
    "30 groups of 40 in 4 classes": (30, 40, 4),
    "10 classes of 3": (30, 1, 10),
    "10 classes of 5": (50, 1, 10),
    "5 classes of 10": (50, 1, 5),
    "10 classes of 13": (130, 1, 10),
    "100 classes of 12": (1200, 1, 100),
    "3 classes of 40": (120, 1, 3),
}


def by_hash(shares: np.ndarray) -> np.ndarray:
    """Sides by the hash alone."""
    borders = [shares < WANTED.test, shares < WANTED.test + WANTED.validation]
    return np.select(borders, [TEST_SIDE, VALIDATION_SIDE], TRAIN_SIDE)


def row(name: str, sides: list[np.ndarray], labels: np.ndarray, classes: int) -> str:
    """What becomes of the draws: a line of the table."""
    counts = [[np.bincount(labels[each == side], minlength=classes) for side in range(3)] for each in sides]
    usable = [each for each in counts if all(part.any() for part in each) and each[TRAIN_SIDE].min() >= 2]
    if not usable:
        return f"{name}: all refused"
    missing = {
        side: np.mean([(each[side] == 0).mean() for each in usable]) for side in (VALIDATION_SIDE, TEST_SIDE)
    }
    shares = [each[TEST_SIDE].sum() / len(labels) for each in usable]
    return (
        f"{name}: refused {1 - len(usable) / len(counts):.0%}, classes without a validation image "
        f"{missing[VALIDATION_SIDE]:.0%}, without a test image {missing[TEST_SIDE]:.0%}, test share {min(shares):.2f} to "
        f"{max(shares):.2f}"
    )


def main() -> None:
    """Print both ways for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    draws = parser.parse_args().draws
    for name, (units, size, classes) in CASES.items():
        unit = np.repeat(np.arange(units), size)
        labels = np.arange(len(unit)) % classes
        generator = np.random.default_rng(0)
        shares = [generator.random(units)[unit] for _ in range(draws)]
        none = np.zeros(classes, np.int64)
        print(name)
        print(row("  by hash alone", [by_hash(each) for each in shares], labels, classes))
        ranked = [carve(unit, each, labels, none, WANTED) for each in shares]
        print(row("  as it is     ", ranked, labels, classes))


if __name__ == "__main__":
    main()
