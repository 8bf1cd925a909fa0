"""Metrics of entities from the tags of words: an entity is right where all of its words and its type are.

The figures are those of conlleval and of seqeval's default mode (E. F. Tjong Kim Sang and F. De Meulder 2003, CoNLL-2003 shared task):
tags that cannot follow each other are read leniently, see `kerastl.task.tags`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kerastl.errors import DataError
from kerastl.evaluation.confusion import Confusion
from kerastl.evaluation.intervals import grouped_interval
from kerastl.evaluation.metrics import ClassMetrics, class_row, mean_of
from kerastl.task.tags import code_spans, repaired
from kerastl.wording import interval, share


@dataclass(frozen=True)
class EntityMetrics:
    """Metrics of decided tags against true ones.

    Attributes:
        sentences: number of sentences.
        words: number of words in them.
        support: number of entities.
        predicted: number of entities that were answered.
        right: number of answered entities that are there, with these words and this type.
        precision: right / predicted; None where none was answered.
        recall: right / support; None where there is none.
        f1: 2 right / (support + predicted), over all types; None where there is no entity.
        f1_interval: its 95 % interval; None for fewer than two groups with entities.
        macro_f1: mean F1 over the types with support; None where there is none.
        word_accuracy: share of the words whose tag is right, after the repair of both.
        types: one row a type, in their order; F1 is None where support is 0.
        confusion: types, and behind them `NOTHING`: entities of equal words by their true and their answered type. One that was not
            answered with these words was taken for nothing.
        type_errors: entities that were answered with another type.
        boundary_errors: entities of which some words were answered with their type, with another beginning or end.
        overlap_errors: other entities of which some words were answered as an entity.
        missed: entities of which no word was.
        spurious: answered entities of which no word belongs to one.
        groups: number of groups that the interval stands on: sentences, or what they belong to.
    """

    sentences: int
    words: int
    support: int
    predicted: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None
    f1_interval: tuple[float, float] | None
    macro_f1: float | None
    word_accuracy: float
    types: tuple[ClassMetrics, ...]
    confusion: Confusion
    type_errors: int
    boundary_errors: int
    overlap_errors: int
    missed: int
    spurious: int
    groups: int

    def figures(self) -> list[tuple[str, str]]:
        """The main figures in words, each after its name."""
        between = f" ({interval(*self.f1_interval, self.groups)})" if self.f1_interval else ""
        return [
            ("entity F1", f"{share(self.f1)}{between}"),
            ("precision, recall", f"{share(self.precision)}, {share(self.recall)}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON takes; `from_dict` turns them back."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "types": [vars(row).copy() for row in self.types],
            "confusion": self.confusion.to_plain(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EntityMetrics:
        """The metrics that `to_dict` gave, also after a way through JSON."""
        interval = values["f1_interval"]
        changed = {
            "f1_interval": None if interval is None else (interval[0], interval[1]),
            "types": tuple(ClassMetrics(**row) for row in values["types"]),
            "confusion": Confusion.from_plain(values["confusion"]),
        }
        return cls(**{**values, **changed})


def evaluate_tags(
    decided: np.ndarray,
    labels: np.ndarray,
    lengths: np.ndarray,
    types: Sequence[str],
    groups: np.ndarray | None = None,
) -> EntityMetrics:
    """Measure the tags of words against true ones.

    Args:
        decided: int [words], codes of the answered tags of all sentences, one behind another; see `kerastl.task.tags.tag_names`.
            Of the last words, which a model cut off, it is 0: their entities are missed.
        labels: int [words], codes of the true tags.
        lengths: int [sentences], words of each.
        types: k names, in the order of the codes.
        groups: int [sentences], equal for sentences of one document, as intervals take them; each sentence for itself without it.

    Raises:
        DataError: there is no word.
        ValueError: lengths, codes and types do not fit each other.

    Example:
        >>> evaluate_tags(np.array([1, 2, 0]), np.array([1, 2, 1]), np.array([3]), ["PER"]).recall
        0.5
    """
    decided, labels, lengths = (np.asarray(each, np.int64) for each in (decided, labels, lengths))
    if len(labels) == 0:
        raise DataError("There is no word to evaluate: the split is empty.")
    for name, codes in (("decided", decided), ("labels", labels)):
        if codes.shape != labels.shape or codes.min() < 0 or codes.max() > 2 * len(types):
            raise ValueError(f"Expected {name} of {len(labels)} words, each 0..{2 * len(types)}.")
    true, answered = code_spans(labels, lengths), code_spans(decided, lengths)
    is_right = _contains(answered, true), _contains(true, answered)
    counts = [
        np.bincount(each, minlength=len(types)) for each in (true[is_right[0], 2], true[:, 2], answered[:, 2])
    ]
    right, support, predicted = int(is_right[0].sum()), len(true), len(answered)
    rows = tuple(class_row(*row) for row in zip(types, *(each.tolist() for each in counts), strict=True))
    interval, number = _interval(true, answered, is_right, lengths, groups)
    return EntityMetrics(
        sentences=len(lengths),
        words=len(labels),
        support=support,
        predicted=predicted,
        right=right,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted) if support else None,
        f1_interval=interval,
        macro_f1=mean_of([row.f1 for row in rows]),
        word_accuracy=float(np.mean(repaired(labels, lengths) == repaired(decided, lengths))),
        types=rows,
        groups=number,
        **_errors(true, answered, is_right[0], labels, decided, len(types)),
    )


def _contains(spans: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Bool [m]: which of the wanted spans, int64 [m, 3], are among the others. Of one begin there is one span at most."""
    if not len(spans):
        return np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(spans[:, 0], wanted[:, 0]), len(spans) - 1)
    return (spans[at] == wanted).all(axis=1)


def _interval(
    true: np.ndarray,
    answered: np.ndarray,
    is_right: tuple[np.ndarray, np.ndarray],
    lengths: np.ndarray,
    groups: np.ndarray | None,
) -> tuple[tuple[float, float] | None, int]:
    """95 % interval of F1, and the number of groups that it stands on.

    F1 is the share of the right among all entities, the true and the answered ones, and these come in groups: what is right in
    a sentence counts twice, and entities of a sentence, or of a document, are alike.
    """
    sentences = np.repeat(np.arange(len(lengths)), lengths)
    of_sentences = sentences if groups is None else np.asarray(groups)[sentences]
    of_entities = of_sentences[np.concatenate([true[:, 0], answered[:, 0]])]
    number = len(np.unique(of_entities))
    if number < 2 or not len(true):
        return None, number
    return grouped_interval(np.concatenate(is_right), of_entities), number


def _errors(
    true: np.ndarray,
    answered: np.ndarray,
    is_right: np.ndarray,
    labels: np.ndarray,
    decided: np.ndarray,
    types: int,
) -> dict[str, Any]:
    """The confusion of types, and the kinds of errors."""
    size = int(labels.size) + 1
    here, there = (spans[:, 0] * size + spans[:, 1] for spans in (true, answered))
    _, own, other = np.intersect1d(here, there, assume_unique=True, return_indices=True)
    taken_for = np.full(len(true), types)
    taken_for[own] = answered[other, 2]
    alone = np.delete(answered[:, 2], other)
    confusion = Confusion.of(
        np.concatenate([true[:, 2], np.full(len(alone), types)]),
        np.concatenate([taken_for, alone]),
        types + 1,
    )
    kinds, answers = (labels + 1) // 2, (decided + 1) // 2
    touched = _any_within(answers > 0, true)
    agreed = _any_within((answers == kinds) & (kinds > 0), true)
    same_words = taken_for < types
    return {
        "confusion": confusion,
        "type_errors": int((same_words & ~is_right).sum()),
        "boundary_errors": int((agreed & ~same_words).sum()),
        "overlap_errors": int((touched & ~agreed & ~same_words).sum()),
        "missed": int((~touched).sum()),
        "spurious": int((~_any_within(kinds > 0, answered)).sum()),
    }


def _any_within(holds: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Bool [m]: whether something holds for a word of each span; `holds` is bool [words]."""
    sums = np.concatenate([[0], np.cumsum(holds)])
    return sums[spans[:, 1]] > sums[spans[:, 0]]
