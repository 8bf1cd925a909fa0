"""The choice of what a head reads: pooled outputs of how many joins, and which pooling, by the error of examples left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kerastl.features.readers import Features, pooled_output
from kerastl.model.head_input import STEPS, HeadInput
from kerastl.store.array import ArrayKey
from kerastl.store.store import Part, Store
from kerastl.training.ridge import LEFT_OUT, PENALTIES, RidgeProblem, sample
from kerastl.writing import WriteError

# Joins from the last activation down, and all of them after these, as long as the error falls.
DEPTHS = (1, 2, 4, 7)
# Vectors of features that a pooling gives.
WAYS = {"avg": ("avg",), "max": ("max",), "avgmax": ("avg", "max"), "first": ("first",), STEPS: (STEPS,)}
# Bytes of the features that it is chosen on, at most, in float64.
CHOSEN_BYTES = 1 << 28
# A row of the store with its key and header takes less.
LEAST_ROOM = 1 << 12
# Another number where the same arrays lead to another choice. What is remembered: depth, place of the pooling, error, error of the last activation.
KEY = ArrayKey("head_input", {"choice": 2}, (4,), "float64", {"data": "inputs of heads"})


@dataclass(frozen=True)
class Choice:
    """The input of a head, chosen by leave-one-out.

    Attributes:
        reads: that.
        error: mean squared error of examples that are left out, summed over the classes.
        last_error: the same of the last activation alone.
        examples: on which it was chosen.
    """

    reads: HeadInput
    error: float
    last_error: float
    examples: int


def choose_reads(
    features: Features,
    reads: HeadInput,
    poolings: Sequence[str],
    weights: np.ndarray | None,
    store: Store,
) -> Choice:
    """Choose how many joins a head reads beside the last activation, and their pooling.

    The choice follows from what it is made on, and is remembered with a digest of that.

    Args:
        features: of the training examples, with what is stored of all joins.
        reads: of the recipe; its channels name all joins.
        poolings: to choose from, of `avg`, `max`, `avgmax` and, where it is stored, `first`; the depth is chosen by the first of them. Or
            `steps` alone.
        weights: float [n], of the examples; None where all weigh the same.
        store: remembers it.
    """
    assert features.outputs is not None and reads.channels is not None
    names, width = tuple(reads.channels), sum(reads.channels.values())
    positions = sample(features.count, min(LEFT_OUT, CHOSEN_BYTES // (8 * width)))
    output = pooled_output(reads)
    stored = features.outputs([output], positions, 0)[output]
    targets = np.asarray(features.views.targets(positions), np.float64)
    weighted = np.ones(len(positions)) if weights is None else np.asarray(weights[positions], np.float64)
    groups = features.views.leave_out(positions)

    def choose() -> list[float]:
        return _choose(RidgeProblem(targets, weighted, groups), stored, reads, poolings)

    described = json.dumps([list(reads.channels.items()), list(poolings)]).encode()
    depth, pooling, error, last_error = _remembered(
        store, (np.frombuffer(described, np.uint8), stored, targets, weighted, groups), choose
    )
    chosen = HeadInput(poolings[int(pooling)], names[-int(depth) :], reads.channels)
    return Choice(chosen, error, last_error, len(positions))


def _choose(
    problem: RidgeProblem, stored: np.ndarray, reads: HeadInput, poolings: Sequence[str]
) -> list[float]:
    """Depth, place of the pooling, error, error of the last activation."""
    assert reads.channels is not None
    names = tuple(reads.channels)

    def kernel(depth: int, ways: Sequence[str]) -> np.ndarray:
        """The sum over the join at that depth, 1 for the last activation."""
        of = [HeadInput(way, (names[-depth],), reads.channels).of(stored) for way in ways]
        return sum(map(problem.kernel, map(_equalised, of)), np.zeros(()))

    near: float | None = None

    def error(total: np.ndarray, count: int) -> float:
        nonlocal near
        found = problem.left_out(total / count, PENALTIES[::2], near)
        near = found.penalty
        return found.error

    first, *others = poolings
    total, best, errors = np.zeros(()), np.zeros(()), dict[int, float]()
    for depth in range(1, len(names) + 1):
        total = total + kernel(depth, WAYS[first])
        if depth in DEPTHS or depth == len(names):
            errors[depth] = error(total, depth * len(WAYS[first]))
            if errors[depth] > min(errors.values()):
                break  # deeper ones are further from what the task needs
            best = total
    depth = min(errors, key=errors.__getitem__)
    found = {first: errors[depth]}
    # Another pooling at that depth alone: the best depth hardly depends on it.
    for pooling in others:
        shared = set(WAYS[first]) <= set(WAYS[pooling])
        more = [way for way in WAYS[pooling] if not shared or way not in WAYS[first]]
        total = sum((kernel(place, more) for place in range(1, depth + 1)), best if shared else np.zeros(()))
        found[pooling] = error(total, depth * len(WAYS[pooling]))
    pooling = min(found, key=found.__getitem__)
    return [depth, poolings.index(pooling), found[pooling], errors[1]]


def _remembered(store: Store, of: Sequence[np.ndarray], choose: Callable[[], list[float]]) -> list[float]:
    """The result of `choose`, or that of a choice made on the same arrays before."""
    digest = hashlib.blake2b(digest_size=16)
    for each in of:
        digest.update(np.ascontiguousarray(each).data)
    key = np.frombuffer(digest.digest(), np.uint64).reshape(1, 2)

    def compute(positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        yield Part(positions, {KEY.output: np.array([choose()])})

    def place(missing: Mapping[str, int], room: int) -> dict[str, str]:
        return {KEY.output: "disk" if room > LEAST_ROOM else "memory"}

    try:
        found = store.open([KEY], key, compute, place)[KEY.output]
    except WriteError:  # no reason to stop
        return choose()
    assert found is not None
    return [float(each) for each in found[np.arange(1)][0]]


def _equalised(rows: np.ndarray) -> np.ndarray:
    """Features of one join as a head standardises them, with a mean squared length of 1."""
    rows = rows.astype(np.float64)
    variance = rows.var(axis=0)
    scaled = rows - rows.mean(axis=0)
    scaled /= np.sqrt(np.maximum(variance + variance.mean(), np.finfo(np.float64).tiny))
    length = np.sqrt(np.maximum((scaled**2).sum(axis=1).mean(), np.finfo(np.float64).tiny))
    return scaled / length
