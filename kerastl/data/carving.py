"""Division of what no split was given for: by hash where there is enough of a class, by rank within it where not.

A unit is what must not be torn: an example, or a group of examples. Where a class has few units the hash alone leaves
splits empty: of 10 examples none is for validation in 43 % of draws (0.92^10), and of 10 groups a split or a class's
training examples are missing in half of the draws. There the units of a class are taken in the order of their hash until
a split has its share: at least one unit, as long as training keeps two examples. So small classes have what can be had,
and an example that is added may move another one across a border; classes of 30 units or more, none of whose splits comes
out empty, are divided by the hash alone, and nothing in them ever moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TRAIN_SIDE, VALIDATION_SIDE, TEST_SIDE = 0, 1, 2
LEAST_PER_CLASS = 2
_FEW_UNITS = 30
_OPEN = -1


@dataclass(frozen=True)
class Wanted:
    """Which shares of the examples are held out; 0 for a split that the source gives.

    Attributes:
        test: share for the test.
        validation: share for validation, of all examples as well.
    """

    test: float
    validation: float


def carve(
    units: np.ndarray, shares: np.ndarray, labels: np.ndarray, fixed: np.ndarray, wanted: Wanted
) -> np.ndarray:
    """Which side each example belongs to: int8 [n], 0 for train, 1 for validation, 2 for test.

    Args:
        units: int [n], equal for examples that must stay together.
        shares: float [n] in [0, 1), as good as random, equal within a unit.
        labels: int [n], or 0 and 1, [n, classes].
        fixed: int [classes], training examples of each class beside these.
        wanted: what is held out.
    """
    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    unit_shares = shares[first]
    borders = [unit_shares < wanted.test, unit_shares < wanted.test + wanted.validation]
    sides = np.select(borders, [TEST_SIDE, VALIDATION_SIDE], TRAIN_SIDE).astype(np.int8)
    rows, classes = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    keys, counts = np.unique(unit_of[rows] * len(fixed) + classes, return_counts=True)
    table = _Table(keys // len(fixed), keys % len(fixed), counts, unit_shares, fixed)
    small = table.small(sides, wanted)
    if len(small):
        table.rank(sides, small, wanted)
    return sides[unit_of]


@dataclass(frozen=True, eq=False)
class _Table:
    """Counts of examples by unit and class: a row for each pair that occurs, sorted by unit."""

    unit: np.ndarray
    label: np.ndarray
    count: np.ndarray
    shares: np.ndarray
    fixed: np.ndarray

    def small(self, sides: np.ndarray, wanted: Wanted) -> np.ndarray:
        """Classes with few units, or with a side that the hash left without them."""
        classes = len(self.fixed)

        def units_on(side: int) -> np.ndarray:
            return np.bincount(self.label[sides[self.unit] == side], minlength=classes)

        units = np.bincount(self.label, minlength=classes)
        train = sides[self.unit] == TRAIN_SIDE
        learnt = np.bincount(self.label[train], self.count[train], minlength=classes) + self.fixed
        wanting = (units < _FEW_UNITS) | (learnt < LEAST_PER_CLASS)
        for side, share in ((TEST_SIDE, wanted.test), (VALIDATION_SIDE, wanted.validation)):
            if share:
                wanting |= units_on(side) == 0
        found = np.flatnonzero(wanting & (units > 0))
        # The rarest first: what they leave over is still enough for the others.
        return found[np.argsort(units[found], kind="stable")]

    def rank(self, sides: np.ndarray, small: np.ndarray, wanted: Wanted) -> None:
        """Divide the units of small classes anew, class by class, in the order of their shares."""
        members = np.isin(self.label, small)
        sides[np.unique(self.unit[members])] = _OPEN
        starts = np.searchsorted(self.unit, np.arange(len(sides) + 1))
        still = self._learnable(sides)
        by_class = np.lexsort((self.shares[self.unit], self.label))
        ends = np.searchsorted(self.label[by_class], np.arange(len(self.fixed) + 1))
        totals = {side: int((sides == side).sum()) for side in (TEST_SIDE, VALIDATION_SIDE)}

        def take(unit: int, side: int) -> bool:
            pairs = slice(starts[unit], starts[unit + 1])
            labels, counts = self.label[pairs], self.count[pairs]
            if sides[unit] != _OPEN or (still[labels] - counts < LEAST_PER_CLASS).any():
                return False
            still[labels] -= counts
            sides[unit] = side
            totals[side] += 1
            return True

        for label in small:
            pairs = by_class[ends[label] : ends[label + 1]]
            units, counts = self.unit[pairs], self.count[pairs]
            for side, share in _in_turn(wanted, int(still[label]) - LEAST_PER_CLASS, totals):
                target = share * counts.sum()
                taken = counts[sides[units] == side].sum()
                for unit, count in zip(units, counts, strict=True):
                    # Where it brings the split nearer to its share.
                    if count < 2 * (target - taken) and take(unit, side):
                        taken += count
                if not taken:
                    any(take(unit, side) for unit in units[np.argsort(counts, kind="stable")])
        sides[sides == _OPEN] = TRAIN_SIDE

    def _learnable(self, sides: np.ndarray) -> np.ndarray:
        """Examples of each class that train, or may still train."""
        kept = np.isin(sides[self.unit], (TRAIN_SIDE, _OPEN))
        found = np.bincount(self.label[kept], self.count[kept], minlength=len(self.fixed))
        return (found + self.fixed).astype(np.int64)


def _in_turn(wanted: Wanted, spare: int, totals: dict[int, int]) -> Iterable[tuple[int, float]]:
    """The sides to serve, with their shares; where one example can be spared, the side with fewer of them first."""
    sides = [(TEST_SIDE, wanted.test), (VALIDATION_SIDE, wanted.validation)]
    if spare == 1:
        sides.sort(key=lambda each: totals[each[0]])
    return [each for each in sides if each[1]]
