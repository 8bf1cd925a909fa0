"""Work that all trials of a search share: decoded examples, the untouched backbone, and its features at every cut.

Trials differ in what they train, so all that is frozen is the same for many of them. It is made when the first
trial asks for it and held until the search ends; the store keeps it for the search that goes on later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerastl.data.examples import Split, Splits
from kerastl.data.step_labels import StepLabels, answered_groups
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.decoded import DecodedSplits, decode_splits
from kerastl.features.extract import array_keys, extract, row_keys
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features, read_by
from kerastl.features.views import Decoded
from kerastl.modality import Batch, modality_of
from kerastl.model.build import Network
from kerastl.model.cut import Cut
from kerastl.model.head_input import HeadInput
from kerastl.model.pretrained import load_backbone
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.recipe.keys import affecting, value_at
from kerastl.search.hyperparameters import UNFREEZE_POINT
from kerastl.training.reuse import NetworkPool
from kerastl.training.start import (
    Statistics,
    chosen_reads,
    feature_statistics,
    first_bias,
    frozen_part,
    reads_of,
    wanted_features,
)
from kerastl.training.two_phase import unfreeze_point

FOLD_SEED = 0


@dataclass(frozen=True, eq=False)
class Sides:
    """Features of one training: those to learn from and those to be measured on."""

    train: Features
    validation: Features


class Shared:
    """The work that is done once for a whole search.

    Args:
        splits: of the data; the test split is never decoded here.
        cache: keeps decoded examples and features.
        folds: 0, or into how many parts train and validation together are divided.
        reads: how often features will be read, about: more trials make keeping them cheaper.
        progress: listens to what is built.

    Attributes:
        decoded: how often examples were made ready, once for each size and way of resizing.
        pool: networks that trials train.
    """

    def __init__(
        self, splits: Splits, cache: Cache, folds: int, reads: int, progress: Progress = Progress()
    ) -> None:
        self.splits, self.folds = splits, folds
        self.decoded = 0
        # With folds train and validation are one, which the folds are made of.
        self._names = ("train",) if folds else ("train", "validation")
        self.cache, self._reads, self._progress = cache, reads, progress
        self._prepared: dict[str, DecodedSplits] = {}
        self._backbones: dict[str, keras.Model] = {}
        self._frozen: dict[str, Frozen] = {}
        self._features: dict[str, tuple[list[Features], HeadInput]] = {}
        self._reads_of: dict[str, HeadInput] = {}
        self._statistics: dict[str, Statistics] = {}
        self.pool = NetworkPool(len(splits.class_names))

    @property
    def forward_passes(self) -> int:
        """Examples that the backbone, or its part below a cut, was run on so far."""
        return sum(frozen.forward_passes for frozen in self._frozen.values())

    def prepared(self, recipe: Settings) -> DecodedSplits:
        """The decoded examples, with this recipe's augmentation."""

        def decode() -> DecodedSplits:
            self.decoded += 1
            splits = pooled_splits(self.splits) if self.folds else self.splits
            return decode_splits(recipe, splits, self.cache, self._progress, self._names)

        found = _once(self._prepared, [modality_of(recipe).facts()], decode)
        return dataclasses.replace(found, recipe=recipe)

    def sides(self, recipe: Settings) -> list[Sides]:
        """Features for each training of a trial: one pair, or one for each fold."""
        features, _ = self._found(recipe)
        if not self.folds:
            return [Sides(*features)]
        (pool,) = features
        split = self.prepared(recipe).splits.train
        return [
            Sides(chosen(pool, train, pool.view_count), chosen(pool, validation, 1))
            for train, validation in fold_positions(split, self.folds, modality_of(recipe).noun)
        ]

    def measured_groups(self, recipe: Settings) -> np.ndarray:
        """Groups of the examples or words that a trial is measured on, in the order of its losses; one alone is a group of its own."""
        splits = self.prepared(recipe).splits
        if not self.folds:
            return answered_groups(splits.validation.labels, groups_of(splits.validation))
        held = [
            positions for _, positions in fold_positions(splits.train, self.folds, modality_of(recipe).noun)
        ]
        rows = np.concatenate(held)
        return answered_groups(splits.train.labels[rows], groups_of(splits.train)[rows])

    def network(self, recipe: Settings, train: Features, fold: int | None) -> tuple[Network, Cut]:
        """A network for one training, with the pretrained weights and a fresh head, and its cut.

        Args:
            recipe: resolved; Keras' random state is that of its seed.
            train: features of the training examples.
            fold: which fold is held out; None without folds.
        """
        key = [*_features_key(recipe), fold]
        _, reads = self._found(recipe)
        statistics = _once(self._statistics, key, lambda: feature_statistics(train, reads))
        bias = first_bias(recipe, train)
        return self.pool.take(recipe, unfreeze_point(recipe), self._backbone(recipe), reads, statistics, bias)

    def _found(self, recipe: Settings) -> tuple[list[Features], HeadInput]:
        """Features, and what the head reads of them: with folds chosen once, on the examples of all of them."""
        return _once(self._features, _features_key(recipe), lambda: self._extract(recipe))

    def _extract(self, recipe: Settings) -> tuple[list[Features], HeadInput]:
        prepared = self.prepared(recipe)
        views = [prepared.frozen_views(name) for name in self._names]
        # This backbone is never trained: what is computed live, too, stays right for later trials.
        frozen, reads = self.frozen(recipe), reads_of(self._backbone(recipe), recipe)
        wanted = wanted_features(recipe, reads)
        wanted = dataclasses.replace(wanted, finetune_epochs=wanted.finetune_epochs * self._reads)
        found = extract(frozen, views, self.cache, wanted, self._progress)
        # At every unfreeze point the same, which is chosen without a word but for the first time.
        reads = _once(
            self._reads_of,
            _kept_facts(recipe),
            lambda: chosen_reads(recipe, reads, found[0], self.cache.store, self._progress),
        )
        return [read_by(features, reads, frozen.cut) for features in found], reads

    def missing(self, recipe: Settings, known: Settings) -> dict[tuple[str, str], int]:
        """Bytes of features that trials of a recipe read and the store does not hold yet, for each array and its rows.

        Args:
            recipe: resolved.
            known: resolved; its examples are made ready, of which those that cannot be read are taken for the same in all sizes.
        """
        prepared = dataclasses.replace(self.prepared(known), recipe=recipe)
        facts = modality_of(recipe).facts()
        views = [dataclasses.replace(prepared.frozen_views(name), facts=facts) for name in self._names]
        rows = np.unique(row_keys(views), axis=0)
        found = {}
        frozen = self.frozen(recipe)
        wanted = wanted_features(recipe, reads_of(self._backbone(recipe), recipe))
        for key in array_keys(frozen, views, self.cache, wanted):
            lacking = int(np.count_nonzero(~self.cache.store.look(key, rows)))
            found[key.name, hashlib.sha256(rows.tobytes()).hexdigest()] = lacking * key.row_bytes
        return found

    def frozen(self, recipe: Settings) -> Frozen:
        """The part below a recipe's unfreeze point, with the pretrained weights."""
        key = [dataclasses.asdict(recipe.backbone), unfreeze_point(recipe), keras.config.dtype_policy().name]
        classes = len(self.splits.class_names)
        found: Frozen = _once(self._frozen, key, lambda: frozen_part(self._backbone(recipe), recipe, classes))
        for other in self._frozen.values():
            if other is not found:
                other.release()  # compiled for each cut, a network would take its memory several times
        return found

    def _backbone(self, recipe: Settings) -> keras.Model:
        key = [dataclasses.asdict(recipe.backbone), keras.config.dtype_policy().name]
        return _once(self._backbones, key, lambda: load_backbone(recipe, self._progress)[0])


def pooled_splits(splits: Splits) -> Splits:
    """Train and validation as one: the examples that folds are made of."""
    indices = np.sort(np.concatenate([splits.train.indices, splits.validation.indices]))
    pool = Split("train", splits.train.examples, indices)
    return dataclasses.replace(splits, train=pool, validation=Split("validation", pool.examples, indices[:0]))


def groups_of(split: Split) -> np.ndarray:
    """The group of each example, or its own identity where it has none."""
    groups = split.examples.groups[split.indices]
    return np.where(groups == "", split.ids, groups).astype(str)


def fold_positions(split: Split, folds: int, noun: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions to learn from and to be measured on, for each fold; groups stay whole, classes are spread.

    Raises:
        DataError: there are too few examples, or too few of a class.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    groups, ids = groups_of(split), split.ids
    if len(np.unique(groups)) < folds:
        raise DataError(f"{len(np.unique(groups))} {noun}s or groups are too few for {folds} folds.")
    labels = split.labels
    if isinstance(labels, StepLabels) or labels.ndim == 2:
        made = GroupKFold(folds).split(ids, groups=groups)
        return [(np.asarray(train), np.asarray(validation)) for train, validation in made]
    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=FOLD_SEED)
    made = divider.split(ids, labels, groups)
    parts = [(np.asarray(train), np.asarray(validation)) for train, validation in made]
    if any(
        len(np.unique(labels[train])) < len(np.unique(labels)) or not len(validation)
        for train, validation in parts
    ):
        raise DataError(
            f"Too few {noun}s for {folds} folds: a class is missing from what is trained on beside a fold. "
            "Lower --folds, or use --repeats."
        )
    return parts


def chosen(features: Features, positions: np.ndarray, view_count: int) -> Features:
    """The features of some of the examples."""
    whole = features.views
    views = dataclasses.replace(
        whole,
        inputs=_Rows(whole.inputs, positions),
        classes=whole.classes[positions],
        ids=whole.ids[positions],
        groups=None if whole.groups is None else whole.groups[positions],
    )
    activations = features.activations
    return Features(
        views,
        view_count,
        lambda at, view: features.pooled_batch(positions[at], view),
        None if activations is None else lambda at, view: activations(positions[at], view),
    )


class _Rows:
    """Rows of decoded examples."""

    def __init__(self, inputs: Decoded, positions: np.ndarray) -> None:
        self._inputs, self._positions = inputs, positions

    def __getitem__(self, positions: np.ndarray) -> Batch:
        return self._inputs[self._positions[positions]]


def _features_key(recipe: Settings) -> list[Any]:
    return [_kept_facts(recipe), unfreeze_point(recipe), keras.config.dtype_policy().name]


def _kept_facts(recipe: Settings) -> list[Any]:
    """The values that features depend on, the unfreeze point apart."""
    return [value_at(recipe, name) for name in affecting(Settings, "features") if name != UNFREEZE_POINT]


def _once(made: dict[str, Any], key: list[Any], make: Callable[[], Any]) -> Any:
    name = json.dumps(key)
    if name not in made:
        made[name] = make()
    return made[name]
