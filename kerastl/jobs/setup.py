"""Setup of a training: the data decoded, the network built, and the features of its frozen prefix."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import keras

from kerastl.data.examples import SPLIT_NAMES, Splits
from kerastl.features.cache import Cache
from kerastl.features.decoded import DecodedSplits, decode_splits
from kerastl.features.extract import extract
from kerastl.features.frozen import Frozen
from kerastl.features.inputs import AGAIN, IN_TURN, OtherReading
from kerastl.features.readers import Features, read_by
from kerastl.modality import modality_of
from kerastl.model.build import Network
from kerastl.model.cut import Cut, cut
from kerastl.model.precision import make_repeatable, precision_of
from kerastl.model.pretrained import load_backbone
from kerastl.model.weights import LoadedWeights
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.training.start import (
    chosen_reads,
    feature_statistics,
    first_bias,
    frozen_part,
    network_on,
    reads_of,
    wanted_features,
    with_reads,
)
from kerastl.training.two_phase import unfreeze_point


@dataclass(frozen=True, eq=False)
class Setup:
    """All that training begins with.

    Attributes:
        prepared: split and decoded examples.
        network: pretrained backbone and fresh head.
        parts: that network, cut at the unfreeze point.
        frozen: what lies below the unfreeze point, as a function of inputs.
        train: features of the training examples, all views.
        validation: features of the validation examples.
        weights: what the backbone was loaded with.
        cache: keeps the features.
        precision: `float32` or `mixed_bfloat16`.
        test: features of the test examples, where they had to be made in the same stream.
    """

    prepared: DecodedSplits
    network: Network
    parts: Cut
    frozen: Frozen
    train: Features
    validation: Features
    weights: LoadedWeights
    cache: Cache
    precision: str
    test: Features | None = None

    @property
    def recipe(self) -> Settings:
        """The settings of the training."""
        return self.prepared.recipe

    def with_recipe(self, recipe: Settings) -> Setup:
        """The same with other settings, which may differ in what a training reads of them alone; the head is built."""
        recipe = dataclasses.replace(recipe, head=self.recipe.head)
        return dataclasses.replace(self, prepared=dataclasses.replace(self.prepared, recipe=recipe))


def set_up(
    recipe: Settings,
    splits: Splits,
    cache: Cache,
    progress: Progress = Progress(),
    names: Collection[str] = SPLIT_NAMES,
) -> Setup:
    """Decode the data, build the network and compute what it trains on, in one stream where nothing is read again.

    Whether all examples can be read shows in that stream, and whether features find a place only before it: where it turns
    out otherwise than hoped, examples are looked at first, or kept, and all begins anew.

    Args:
        recipe: resolved.
        splits: from `open_splits`.
        cache: keeps decoded examples and features.
        progress: listens.
        names: the splits that are asked for.

    Raises:
        DataError: too many examples cannot be read, or none of a split or of a training class are left.
        WeightsError: the weights cannot be found, or do not fit the backbone.
    """
    again = recipe.cache.mode == "off" or recipe.augment.views > 1 or unfreeze_point(recipe) == "input"
    reading = AGAIN if again else IN_TURN
    with precision_of(recipe, progress):
        while True:
            prepared = decode_splits(recipe, splits, cache, progress, names, reading)
            make_repeatable(recipe)
            try:
                return network_setup(prepared, cache, progress)
            except OtherReading as other:
                reading = other.reading
                noun = modality_of(recipe).noun
                kept = (
                    f"{noun.capitalize()}s are read in every epoch: decoded ones are kept where there is room"
                )
                progress.note(kept if reading == AGAIN else f"{other}. All {noun}s are looked at first")


def network_setup(prepared: DecodedSplits, cache: Cache, progress: Progress = Progress()) -> Setup:
    """Build the network and make readable the features of its frozen prefix.

    Args:
        prepared: split and decoded examples.
        cache: keeps the features.
        progress: listens.

    Raises:
        WeightsError: the weights cannot be found, or do not fit the backbone.
    """
    recipe, classes = prepared.recipe, len(prepared.splits.class_names)
    backbone, loaded = load_backbone(recipe, progress)
    frozen = frozen_part(backbone, recipe, classes)
    names = ["train", "validation"]
    # What is read in one stream is read before hours of training, in which files may vanish.
    names += ["test"] if "test" in prepared.inputs and prepared.inputs["test"].once else []
    views = [prepared.frozen_views(name) for name in names]
    reads = reads_of(backbone, recipe)
    found = extract(frozen, views, cache, wanted_features(recipe, reads), progress)
    reads = chosen_reads(recipe, reads, found[0], cache.store, progress)
    train, validation, *others = [read_by(features, reads, frozen.cut) for features in found]
    recipe = with_reads(recipe, reads)
    prepared = dataclasses.replace(prepared, recipe=recipe)
    statistics = feature_statistics(train, reads)
    network = network_on(backbone, recipe, classes, reads, statistics, first_bias(recipe, train))
    parts = cut(network, unfreeze_point(recipe))
    test = others[0] if others else None
    precision = keras.config.dtype_policy().name
    return Setup(prepared, network, parts, frozen, train, validation, loaded, cache, precision, test)


def at_unfreeze_point(setup: Setup, recipe: Settings, progress: Progress = Progress()) -> Setup:
    """The same network with the weights that it has, cut at another unfreeze point, and its features there.

    Where training reads examples there in every epoch, they are kept first.

    Args:
        setup: of the network.
        recipe: names the point.
        progress: listens.
    """
    setup = setup.with_recipe(recipe)
    prepared, network = setup.prepared, setup.network
    with precision_of(recipe):
        frozen = frozen_part(network.backbone, recipe, len(prepared.splits.class_names))
        views = [prepared.frozen_views(name) for name in ("train", "validation")]
        try:
            wanted = wanted_features(setup.recipe, network.reads)
            train, validation = extract(frozen, views, setup.cache, wanted, progress)
        except OtherReading as other:
            names = tuple(prepared.inputs)
            again = decode_splits(recipe, prepared.splits, setup.cache, progress, names, other.reading)
            again = dataclasses.replace(again, unreadable=prepared.unreadable | again.unreadable)
            return at_unfreeze_point(dataclasses.replace(setup, prepared=again), recipe, progress)
        parts = cut(network, unfreeze_point(recipe))
    return dataclasses.replace(
        setup, parts=parts, frozen=frozen, train=train, validation=validation, test=None
    )
