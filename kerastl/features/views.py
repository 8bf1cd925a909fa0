"""The examples of a split as the network sees them: decoded once, changed at random by pure functions.

A view is one version of every example of a split. View 0 is the example itself; every other view is
determined by (augment.seed, example id, view number) alone, so it can be made in any order, by any number of
threads, today or in a repeated run, and comes out the same to the bit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.step_labels import NONE, Labels, StepLabels, answered_groups, named_groups
from kerastl.features.sequences import steps_for
from kerastl.modality import Batch, Mixing, Modality
from kerastl.modality.draws import example_keys
from kerastl.model.device import PROCESSOR
from kerastl.recipe import AugmentRecipe
from kerastl.store.array import digests
from kerastl.task import Task, unit_of
from kerastl.task.classification import CLASSIFICATION

# An array, or named arrays.
Read = TypeVar("Read", np.ndarray, Batch)


class Decoded(Protocol):
    """Decoded examples that are read at positions int [b]: named inputs, [b, ...]."""

    def __getitem__(self, positions: np.ndarray) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Views:
    """A split's decoded examples and the changes made to them.

    Attributes:
        inputs: the examples; only read where inputs are asked for.
        modality: what they are.
        classes: int [n], each example's class; or 0 and 1, [n, labels], for multi-label; or a label a step.
        class_count: how many classes or labels there are.
        ids: identities of the examples, the source of their randomness.
        recipe: resolved augmentation; ignored for view 0.
        task: what the classes answer.
        words: int [documents], how many of the examples belong to each, where they are words that were answered one by one.
        groups: object [n] of str, the group of each example, '' for none; None where there are no groups.
    """

    inputs: Decoded
    modality: Modality
    classes: Labels
    class_count: int
    ids: np.ndarray
    recipe: AugmentRecipe
    task: Task = CLASSIFICATION
    words: np.ndarray | None = None
    groups: np.ndarray | None = None
    _keys: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _plans: dict[int, Mixing] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.classes)

    @property
    def noun(self) -> str:
        """One of them in messages; of rows that are steps, `word`."""
        noun = self.modality.noun
        return noun if isinstance(self.classes, StepLabels) else unit_of(self.task, noun)

    def facts(self, view: int) -> dict[str, Any]:
        """Everything that the examples of a view depend on apart from the examples themselves: part of the store's key."""
        return {"number": view, **(self.modality.view_facts(self.recipe) if view else {})}

    def keys(self, contents: np.ndarray, view: int) -> np.ndarray:
        """Sources of a view's rows, as keys of the store, uint64 [n, 2].

        Args:
            contents: keys of the examples themselves, uint64 [n, 2], which are those of view 0.
            view: its number.
        """
        if view == 0:
            return contents
        salt = json.dumps(self.facts(view), sort_keys=True).encode()
        ids = [str(each).encode("utf-8", "surrogatepass") for each in self.ids]
        if self._mixed(view):  # any other example may be a partner
            salt += digests([contents.tobytes() + b"\0".join(ids)]).tobytes()
        return digests(content.tobytes() + salt + name for content, name in zip(contents, ids, strict=True))

    def targets(self, positions: np.ndarray) -> np.ndarray:
        """Labels as float32 [b, classes], one-hot or multi-hot; of steps [b, steps, classes], zeros for those without a label."""
        some = self.classes[positions]
        if not isinstance(some, StepLabels):
            return self.task.targets(some, self.class_count)
        codes = some.filled(steps_for(some.lengths, most_steps(self.modality)))
        hot = np.zeros((*codes.shape, self.class_count), np.float32)
        at = np.nonzero(codes != NONE)
        hot[at] = self.task.targets(codes[at], self.class_count)
        return hot

    @property
    def rows(self) -> Views:
        """The labelled steps as examples, without inputs of their own; the examples themselves where these are labelled."""
        labels = self.classes
        if not isinstance(labels, StepLabels):
            return self
        groups = np.full(self.count, "", object) if self.groups is None else self.groups
        return dataclasses.replace(
            self,
            classes=labels.codes,
            ids=self.ids[labels.places[0]],
            words=labels.words,
            groups=answered_groups(labels, groups),
        )

    def leave_out(self, positions: np.ndarray) -> np.ndarray:
        """Numbers int [m] that are equal for examples at `positions` which are left out together, as they are of one group."""
        if self.groups is None:
            return np.arange(len(positions))
        return np.unique(named_groups(self.groups[positions], positions), return_inverse=True)[1]

    def batch(self, positions: np.ndarray, view: int | np.ndarray) -> Batch:
        """Named inputs at `positions`, [b, ...], all in one view or each in its own (int [b])."""
        return by_view(self._batch, positions, view)

    def in_turn(self, batches: Sequence[np.ndarray], view: int) -> Iterator[Batch]:
        """The inputs of each batch in one view, at positions that increase from batch to batch."""
        # Decoded anew in one pass over the files; what is mixed has partners anywhere.
        decoded = getattr(self.inputs, "in_turn", None)
        if decoded is None or self._mixed(view):
            yield from (self.batch(batch, view) for batch in batches)
        else:
            for batch, inputs in zip(batches, decoded(batches), strict=True):
                yield self._changed(inputs, batch, view) if view else inputs

    def labels(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Labels at `positions`, float32 [b, classes]; soft where examples were mixed."""
        return by_view(self._labels, positions, view)

    def _batch(self, positions: np.ndarray, view: int) -> Batch:
        if view == 0:
            return self.inputs[positions]
        changed = self._changed(self.inputs[positions], positions, view)
        if not self._mixed(view):
            return changed
        plan = self._plan(view)
        partners = plan.partner[positions]
        others = self._changed(self.inputs[partners], partners, view)
        with tf.device(PROCESSOR):
            return plan.mix(changed, others, positions)

    def _labels(self, positions: np.ndarray, view: int) -> np.ndarray:
        own = self.targets(positions)
        if not self._mixed(view):
            return own
        plan = self._plan(view)
        return mixed_labels(own, self.targets(plan.partner[positions]), plan.ratio[positions])

    def _changed(self, inputs: Batch, positions: np.ndarray, view: int) -> Batch:
        if view not in self._keys:
            self._keys[view] = example_keys(self.ids, self.recipe.seed, view)
        with tf.device(PROCESSOR):
            return self.modality.view(inputs, self._keys[view][positions], self.recipe)

    def _mixed(self, view: int) -> bool:
        return view > 0 and self.modality.mixes(self.recipe)

    def _plan(self, view: int) -> Mixing:
        if view not in self._plans:
            self._plans[view] = self.modality.mixing(self.ids, view, self.recipe)
        return self._plans[view]


def most_steps(modality: Modality) -> int:
    """Steps of the longest example that there may be."""
    return max((each.shape[0] for each in modality.spec.values() if each.shape), default=1)


def mixed_labels(own: np.ndarray, others: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Labels mixed as their examples were, float32 [b, classes].

    Args:
        own: float32 [b, classes], one-hot (or several ones, for multi-label).
        others: float32 [b, classes], their partners'.
        ratio: float32 [b], the share of `own`.
    """
    share = ratio[:, None]
    return share * own + (1 - share) * others


def by_view(read: Callable[[np.ndarray, int], Read], positions: np.ndarray, view: int | np.ndarray) -> Read:
    """A batch in which each position may be in a view of its own, read view by view.

    Args:
        read: (positions, one view) -> [b, ...], an array or named arrays.
        positions: int [b].
        view: one view for all, or int [b].
    """
    views = np.unique(view)
    if len(views) == 1:
        return read(positions, int(views[0]))
    chosen = [(np.flatnonzero(view == one), int(one)) for one in views]
    parts = [read(positions[at], one) for at, one in chosen]
    back = np.argsort(np.concatenate([at for at, _ in chosen]))
    return keras.tree.map_structure(lambda *each: np.concatenate(each)[back], *parts)


@dataclass(frozen=True, eq=False)
class FrozenViews:
    """A split and how many of its views are wanted.

    Attributes:
        name: of the split, for messages.
        views: its examples.
        view_count: how many views, from 0 on.
        contents: keys of the examples, uint64 [n, 2].
        facts: what decoded examples depend on, apart from their raw bytes.
        about: what a listing of the store says of them.
    """

    name: str
    views: Views
    view_count: int
    contents: np.ndarray
    facts: Mapping[str, object]
    about: Mapping[str, object]
