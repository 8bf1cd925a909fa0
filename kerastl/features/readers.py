"""Readers of features, wherever they are: positions and views in, rows out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kerastl.data.step_labels import StepLabels
from kerastl.features.frozen import BATCH_SIZE
from kerastl.features.sequences import filled_up, shortened
from kerastl.features.views import Views
from kerastl.modality import Batch, only
from kerastl.model.cut import (
    ACTIVATION,
    BELOW,
    JOIN_STEPS,
    JOINS,
    POOLED,
    SEQUENCE,
    UNDER,
    UNDER_STEPS,
    Cut,
)
from kerastl.model.head_input import STEPS, HeadInput
from kerastl.store.array import Rows

# Examples whose states are read together where some of their steps are wanted, and bytes of those that are held.
ROWS_AT_ONCE, HELD_BYTES = 32, 1 << 29
# Positions int [b] and one view, or each its own (int [b]), in; rows out.
Reader = Callable[[np.ndarray, int | np.ndarray], np.ndarray]
# The same for what a suffix takes: activations, or with carried inputs several arrays by name.
InputReader = Callable[[np.ndarray, int | np.ndarray], np.ndarray | Batch]


# Outputs of the prefix by name, at positions int [b] in one view, or each in its own.
OutputReader = Callable[[Collection[str], np.ndarray, int | np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Features:
    """A split's features, ready to be trained on.

    Attributes:
        views: the examples that the features are made from, with their labels.
        view_count: how many views there are.
        pooled_batch: reads float32 [b, features].
        activations: reads what the suffix takes: activations at the unfreeze point [b, ...], and by name the pooled outputs
            below it and inputs of the same rows and views where the suffix takes any; None where nothing is thawed.
        outputs: reads outputs of the prefix that were asked for.
        kept: names of those that are read from where they are kept; others are computed anew.
    """

    views: Views
    view_count: int
    pooled_batch: Reader
    activations: InputReader | None = None
    outputs: OutputReader | None = None
    kept: Collection[str] = ()

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.views.count

    @cached_property
    def rows(self) -> Features:
        """Features of all that is answered: of the examples; or, where each step has an answer of its own, of the labelled ones."""
        return step_rows(self) if isinstance(self.views.classes, StepLabels) else self

    def activation_batch(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray | Batch:
        """Inputs of the suffix, all in one view or each in its own (int [b])."""
        assert self.activations is not None, "nothing is thawed"
        return self.activations(positions, view)


def read_by(features: Features, reads: HeadInput, cut: Cut) -> Features:
    """The same features, as one head and one suffix read them.

    Args:
        features: from `extract`.
        reads: what the head reads.
        cut: at its unfreeze point.
    """
    views, outputs, below = features.views, features.outputs, reads.within(cut.under)
    assert outputs is not None
    pooled = pooled_output(reads)
    # Where all joins are not kept, those below alone are read: the others would be computed for nothing, and may be trained by now.
    source = pooled if pooled in features.kept else under_output(reads)
    if source != pooled and below.names:
        channels = {name: width for name, width in (reads.channels or {}).items() if name in cut.under}
        below = HeadInput(reads.pooling, below.names, channels)

    def head_inputs(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        return reads.of(outputs([pooled], positions, view)[pooled])

    def suffix_inputs(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray | Batch:
        names = [ACTIVATION] * (ACTIVATION in cut.outputs) + [source] * bool(below.names)
        found = outputs(names, positions, view)
        if below.names:
            found[BELOW] = below.of(found.pop(source))
        inputs = views.batch(positions, view) if cut.carried else {}
        if cut.length and inputs:
            inputs = shortened(inputs, cut.length, cut.stepped)
        found |= {name: inputs[name] for name in cut.carried}
        return found if len(found) > 1 else only(found)

    return dataclasses.replace(
        features, pooled_batch=head_inputs, activations=features.activations and suffix_inputs
    )


def step_rows(features: Features) -> Features:
    """The labelled steps of some examples as rows of features, in the order of the examples.

    They are read from the examples that hold them; what a head reads of them is held in memory, where it has room.
    """
    labels = features.views.classes
    assert isinstance(labels, StepLabels)
    examples, steps = labels.places

    def gathered(read: Callable[[np.ndarray], Batch], at: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        order = np.argsort(examples[at], kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(examples[at][order] // ROWS_AT_ONCE)) + 1):
            rows, back = np.unique(examples[at[part]], return_inverse=True)
            for name, values in read(rows).items():
                some = values[back, steps[at[part]]]
                found.setdefault(name, np.empty((len(at), *some.shape[1:]), some.dtype))[part] = some
        return found

    def outputs(names: Collection[str], at: np.ndarray, view: int | np.ndarray) -> dict[str, np.ndarray]:
        assert features.outputs is not None
        return gathered(lambda rows: features.outputs(names, rows, 0), at)  # type: ignore[misc]

    def pooled(at: np.ndarray) -> np.ndarray:
        return gathered(lambda rows: {POOLED: features.pooled_batch(rows, 0)}, at)[POOLED]

    @functools.cache
    def held() -> np.ndarray | None:
        """All of them, where they have room."""
        width = features.pooled_batch(np.arange(1), 0).shape[-1]
        return pooled(np.arange(len(examples))) if 4 * width * len(examples) <= HELD_BYTES else None

    def pooled_batch(at: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        every = held()
        return pooled(at) if every is None else every[at]

    return dataclasses.replace(
        features, views=features.views.rows, pooled_batch=pooled_batch, outputs=outputs, activations=None
    )


def pooled_output(reads: HeadInput) -> str:
    """The output of the prefix that a head's features are part of."""
    if reads.pooling == STEPS:
        return SEQUENCE if reads.channels is None else JOIN_STEPS
    return POOLED if reads.channels is None else JOINS


def under_output(reads: HeadInput) -> str:
    """The output of the prefix that holds what a head reads of joins below the cut."""
    return UNDER_STEPS if reads.pooling == STEPS else UNDER


def reader_of(rows: Rows, start: int, count: int, most: int = 1) -> Reader:
    """Reads rows that are kept view by view, each of `count` examples, from `start` on; `most` steps has the longest that may be."""
    steps = isinstance(rows, Rows) and rows.is_ragged

    def read(positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        places = start + np.asarray(view) * count + positions
        return filled_up(rows.ragged(places), most) if steps else rows[places]

    return read


def live_rows(
    views: Views, positions: np.ndarray, view: int | np.ndarray, compute: Callable[[Batch], Batch]
) -> Batch:
    """Computes what is read, a few examples at a time: what they are augmented in takes several times their bytes."""
    parts = []
    for start in range(0, len(positions), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        parts.append(compute(views.batch(positions[part], np.asarray(view)[part] if np.ndim(view) else view)))
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
