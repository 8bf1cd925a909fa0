"""Labels of examples that are answered step by step, such as a tag for each word of a text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Of a step that is not answered: a special piece, a piece within a word, a word that another window answers.
NONE = -1


@dataclass(frozen=True, eq=False)
class StepLabels:
    """Labels of n rows of different lengths: a code a step, or `NONE`.

    Rows that follow each other and belong to one document are windows of it: what is labelled in them, one row behind another, is
    the whole document.

    Attributes:
        values: int32 [sum of lengths], row after row.
        lengths: int64 [n], steps of each row.
        documents: int64 [n], equal for rows of one document.
    """

    values: np.ndarray
    lengths: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: np.ndarray) -> StepLabels:
        """Some rows, by their positions int [m]."""
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return StepLabels(self.values[np.repeat(starts, lengths) + inside], lengths, self.documents[rows])

    @cached_property
    def codes(self) -> np.ndarray:
        """Codes of the labelled steps, int32 [words], one behind another."""
        return self.values[self.values != NONE]

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and step of each of `codes`, int64 [words] each."""
        at = np.flatnonzero(self.values != NONE)
        ends = np.cumsum(self.lengths)
        rows = np.searchsorted(ends, at, side="right")
        return rows, at - (ends - self.lengths)[rows]

    @cached_property
    def words(self) -> np.ndarray:
        """Number of labelled steps of each document, int64 [documents], in the order of the rows."""
        first = np.flatnonzero(np.diff(self.documents, prepend=self.documents[:1] - 1))
        return np.add.reduceat(np.bincount(self.places[0], minlength=len(self)), first)

    def filled(self, steps: int) -> np.ndarray:
        """The rows as one array, int32 [n, steps], `NONE` behind them."""
        found = np.full((len(self), steps), NONE, np.int32)
        found[np.arange(steps) < self.lengths[:, None]] = self.values
        return found

    def renumbered(self, numbers: np.ndarray) -> StepLabels:
        """The same with other codes: `numbers`, int32 [codes], has the new one of each."""
        values = np.where(self.values == NONE, NONE, numbers[self.values]).astype(np.int32)
        return StepLabels(values, self.lengths, self.documents)


# One label or several an example; or a label a step.
Labels = np.ndarray | StepLabels


def answered(labels: Labels) -> np.ndarray:
    """Labels of all that is answered: of the examples, or of their labelled steps, one behind another."""
    return labels.codes if isinstance(labels, StepLabels) else labels


def named_groups(groups: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Groups, object [n] of str, in which '' stands for none; those without one get a group by their number, int [n]."""
    return np.array([group or f"\0{number}" for group, number in zip(groups, numbers, strict=True)], object)


def answered_groups(labels: Labels, groups: np.ndarray) -> np.ndarray:
    """The group of each of `answered`, object [m] of str; what belongs to one document has one group at least.

    Args:
        labels: of n examples.
        groups: object [n] of str; '' for none.
    """
    if not isinstance(labels, StepLabels):
        return groups
    return named_groups(groups, labels.documents)[labels.places[0]]
