"""Sequences of different lengths: computed, stored and read at their own lengths and not at the longest that there may be.

A network of sequences takes as many steps as a batch has. Examples of like lengths are computed together, each at its own length
rounded up: what an example costs, and its result to the last digit, depend on no neighbour. What is stored of it are the steps that are
real; those that are filled up when it is read mean nothing to what reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from kerastl.modality import Batch
from kerastl.store.block import Ragged

# Lengths are rounded up to these: few enough for a graph or a compiled kernel each.
STEPS = 32
_Part = tuple[np.ndarray, Batch]


def rounded(lengths: np.ndarray, most: int) -> np.ndarray:
    """Steps that examples of these lengths, int [b], are given."""
    return np.minimum(-(-np.maximum(lengths, 1) // STEPS) * STEPS, most)


def steps_for(lengths: np.ndarray, most: int) -> int:
    """Steps of a batch of examples of these lengths, int [b]: as many as the longest has, rounded up."""
    return int(rounded(lengths, most).max(initial=1))


def shortened(inputs: Batch, length: str, stepped: Collection[str]) -> Batch:
    """Inputs of a batch without the steps that fill up all of its examples.

    Args:
        inputs: [b, ...], by name.
        length: the one that says how many steps are real, [b].
        stepped: those with steps, [b, steps, ...].
    """
    present = [name for name in stepped if name in inputs]
    if not present or not len(inputs[length]):
        return inputs
    most = inputs[present[0]].shape[1]
    steps = steps_for(inputs[length], most)
    return {name: values[:, :steps] if name in present else values for name, values in inputs.items()}


def alike(parts: Iterable[_Part], length: str, stepped: Collection[str], size: int) -> Iterator[_Part]:
    """Batches of examples whose rounded lengths are equal, shortened to these, in the order in which they become full.

    Args:
        parts: positions and inputs of some examples.
        length: see `shortened`.
        stepped: see `shortened`; at least one.
        size: of a batch; those that are left over in the end are smaller.
    """
    waiting: dict[int, _Part] = {}
    for positions, inputs in parts:
        most = inputs[next(iter(stepped))].shape[1]
        steps = rounded(inputs[length], most)
        for each in np.unique(steps).tolist():
            at = np.flatnonzero(steps == each)
            some = shortened({name: values[at] for name, values in inputs.items()}, length, stepped)
            whole = _joined(waiting.pop(each, None), (positions[at], some))
            while len(whole[0]) >= size:
                yield _slice(whole, slice(size))
                whole = _slice(whole, slice(size, None))
            if len(whole[0]):
                waiting[each] = whole
    yield from (waiting[each] for each in sorted(waiting))


def ragged(values: np.ndarray, lengths: np.ndarray) -> Ragged:
    """The real steps of states [b, steps, ...], row after row."""
    real = np.arange(values.shape[1]) < lengths[:, None]
    return Ragged(values[real], lengths.astype(np.int64))


def filled_up(rows: Ragged, most: int) -> np.ndarray:
    """Rows as one array [b, steps, ...], zeros behind the real steps; as many as the longest has, rounded up."""
    steps = steps_for(rows.lengths, most)
    found = np.zeros((len(rows), steps, *rows.values.shape[1:]), rows.values.dtype)
    found[np.arange(steps) < rows.lengths[:, None]] = rows.values
    return found


def _joined(first: _Part | None, second: _Part) -> _Part:
    if first is None:
        return second
    inputs = {name: np.concatenate([values, second[1][name]]) for name, values in first[1].items()}
    return np.concatenate([first[0], second[0]]), inputs


def _slice(part: _Part, rows: slice) -> _Part:
    return part[0][rows], {name: values[rows] for name, values in part[1].items()}
