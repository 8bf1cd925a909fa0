"""Batches of a phase: each a pure function of its step, whatever ran before it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import label_counts
from kerastl.data.step_labels import answered
from kerastl.features.readers import Features
from kerastl.features.views import mixed_labels
from kerastl.pipeline import untuned, usable_cores
from kerastl.recipe import PhaseRecipe

# What a model takes of some examples: an array [b, ...], or several by name.
Inputs = np.ndarray | Mapping[str, np.ndarray]
BatchReader = Callable[[np.ndarray, int | np.ndarray], Inputs]
MIXING = "mixing"
# Each holds a batch, and two wait: of activations, megabytes each.
MOST_FEEDERS = 8


@dataclass(frozen=True)
class PhaseData:
    """Training and validation data of a phase, each with a function that reads a batch of its inputs."""

    train: Features
    train_inputs: BatchReader
    validation: Features
    validation_inputs: BatchReader


def batches(data: PhaseData, settings: PhaseRecipe, steps: int, seed: int, like: Any) -> tf.data.Dataset:
    """All batches of a phase: inputs, labels float32 [b, classes] and weights float32 [b]; of steps, labels [b, steps, classes] and
    weights [b, steps], 0 for those without a label.

    Inputs are as they are read, activations in sixteen bits: the model casts them in its step, on its device. So half as much
    waits in memory and is copied to a GPU.

    Args:
        data: where inputs and labels are read; has to be held as long as batches are read.
        settings: the phase's resolved recipe.
        steps: in an epoch.
        seed: decides the order of the examples and what is mixed.
        like: the model's input, or its inputs by name, which may leave open how many steps there are.
    """
    weights = class_weights(settings, data.train)
    name = settings.__class__.__name__
    order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, data.train.count, seed, name))
    first_view = epoch_order(data.train.count, seed, "views", 0) % data.train.view_count
    # TensorFlow never lets go of the function that reads batches, which would hold features and networks.
    held = weakref.ref(data)

    def batch(step: int) -> tuple[Inputs, np.ndarray, np.ndarray]:
        data = held()
        assert data is not None, "data have to be held"
        train = data.train
        epoch, part = divmod(int(step), steps)
        positions = order(epoch)[part_of(train.count, steps, part)]
        # Each epoch shows every example once and all views alike; view 0, the plain one, is no epoch of its own.
        view = (epoch + first_view[positions]) % train.view_count
        inputs, labels = data.train_inputs(positions, view), train.views.labels(positions, view)
        if settings.mixup_alpha:
            assert isinstance(inputs, np.ndarray), "masks cannot be blended"
            inputs, labels = mixed(inputs, labels, settings.mixup_alpha, [seed, int(step), *name.encode()])
        if weights is None and labels.ndim == 2:
            return inputs, labels, np.ones(len(positions), np.float32)
        return (
            inputs,
            labels,
            labels @ (np.ones(labels.shape[-1], np.float32) if weights is None else weights),
        )

    inputs, labels, sample_weights = batch(0)
    specs = (
        keras.tree.map_structure(
            lambda array, each: tf.TensorSpec((None, *getattr(each, "shape", array.shape)[1:]), array.dtype),
            inputs,
            like,
        ),
        tf.TensorSpec((*[None] * (labels.ndim - 1), labels.shape[-1]), labels.dtype),
        tf.TensorSpec([None] * sample_weights.ndim, sample_weights.dtype),
    )
    flat = keras.tree.flatten(specs)

    def load(step: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        arrays = tf.numpy_function(
            lambda at: keras.tree.flatten(batch(at)), [step], [spec.dtype for spec in flat]
        )
        for array, spec in zip(arrays, flat, strict=True):
            array.set_shape(spec.shape)
        inputs, labels, sample_weights = keras.tree.pack_sequence_as(specs, arrays)
        return inputs, labels, sample_weights

    total = settings.epochs * steps
    feeders = min(MOST_FEEDERS, max(2, usable_cores()))
    loaded = tf.data.Dataset.range(total).map(load, num_parallel_calls=feeders, deterministic=True)
    return untuned(loaded.prefetch(2 * feeders))


def epoch_order(count: int, seed: int, name: str, epoch: int) -> np.ndarray:
    """The order of the examples in an epoch, a pure function of its arguments."""
    stream = np.random.SeedSequence([seed, epoch, *name.encode()])
    return np.random.default_rng(stream).permutation(count)


def part_of(count: int, parts: int, part: int) -> slice:
    """The places of one of `parts` parts, whose lengths differ by one at most."""
    length, longer = divmod(count, parts)
    start = part * length + min(part, longer)
    return slice(start, start + length + (part < longer))


def mixed(
    inputs: np.ndarray, labels: np.ndarray, alpha: float, entropy: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Each row blended with another one of its batch, and the labels likewise.

    On activations at the unfreeze point this is manifold mixup (Verma et al. 2019, "Manifold mixup: Better
    representations by interpolating hidden states") at a fixed layer; it costs no forward pass.

    Args:
        inputs: [b, ...] of any number type.
        labels: float32 [b, classes].
        alpha: both parameters of the Beta distribution of the shares.
        entropy: the source of shares and partners.
    """
    generator = np.random.default_rng(np.random.SeedSequence([*entropy, *MIXING.encode()]))
    share = generator.beta(alpha, alpha, len(inputs)).astype(np.float32)
    partner = generator.permutation(len(inputs))
    inputs = inputs.astype(np.float32, copy=False)
    wide = share.reshape(-1, *[1] * (inputs.ndim - 1))
    blended = wide * inputs + (1 - wide) * inputs[partner]
    return blended.astype(np.float32, copy=False), mixed_labels(labels, labels[partner], share)


def class_weights(settings: PhaseRecipe, features: Features) -> np.ndarray | None:
    """Weight of each class of a split, float32 [classes]; None where all examples weigh the same."""
    if settings.class_weights == "none":
        return None
    counts = label_counts(features.views.classes, features.views.class_count)
    return balanced_weights(counts, int(counts.sum()))


def balanced_weights(counts: np.ndarray, examples: int) -> np.ndarray:
    """Weight of each class so that all weigh the same and the mean over examples is 1.

    Args:
        counts: examples of each class, int [classes].
        examples: how many there are in all; fewer than the sum of the counts for multi-label.

    Returns:
        float32 [classes].
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[present] = examples / (present.sum() * counts[present])
    return weights


def example_weights(settings: PhaseRecipe, features: Features) -> np.ndarray | None:
    """Weight of each example of a split, that of its class, float [n]; None where all weigh the same. Of steps that are labelled."""
    weights = class_weights(settings, features)
    return None if weights is None else weights[answered(features.views.classes)]
