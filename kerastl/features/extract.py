"""What the frozen part of the network says about every image, computed once.

Below the unfreeze point nothing changes while training, so its outputs are written to disk in one
forward pass and both phases train on them: the head phase on pooled features, the fine-tune phase on
the activations at the unfreeze point. Where the disk has no room for the activations they are computed
again for each batch ("live"); the training code cannot tell the difference.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.features.arrays import new_array
from kerastl.features.views import Views, by_view
from kerastl.model.cut import Cut
from kerastl.progress import Progress

DISK_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Features:
    """A split's features, ready to be trained on.

    Attributes:
        views: the images that the features were made from, with their labels.
        pooled: float32 [n, features], one array a view.
        activations: [n, ...] at the unfreeze point, one array a view; empty when they are computed live.
        live: images uint8 [b, size, size, 3] -> activations, used when nothing is stored.
    """

    views: Views
    pooled: tuple[np.ndarray, ...]
    activations: tuple[np.ndarray, ...] = ()
    live: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.views.count

    @property
    def view_count(self) -> int:
        """Number of views."""
        return len(self.pooled)

    def pooled_batch(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Pooled features, float32 [b, features], all in one view or each in its own (int [b])."""
        return by_view(lambda chosen, one: self.pooled[one][chosen], positions, view)

    def activation_batch(self, positions: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Activations at the unfreeze point, [b, ...], all in one view or each in its own (int [b])."""
        if self.live is not None:
            return self.live(self.views.images(positions, view))
        return by_view(lambda chosen, one: self.activations[one][chosen], positions, view)


def extract(
    cut: Cut,
    views: Views,
    view_count: int,
    directory: Path,
    *,
    activations: bool,
    batch_size: int = 32,
    label: str = "features",
    progress: Progress = Progress(),
) -> Features:
    """Run the frozen part over all views of a split, once.

    Args:
        cut: the network, cut at the unfreeze point.
        views: the split's images.
        view_count: how many views to make.
        directory: folder for the arrays; made when missing.
        activations: whether the fine-tune phase will need the activations at the cut.
        batch_size: images in a forward pass. The last batch is padded, so that an image's features do
            not depend on how many images there are.
        label: what the progress bar says.
        progress: listens.

    Returns:
        The features; arrays on disk are memory-mapped.
    """
    if not activations:
        pooled, _ = _fill(cut.pooled, cut, views, view_count, directory, None, batch_size, label, progress)
        return Features(views, pooled)
    if cut.unfreeze_point == "input":
        pooled, _ = _fill(cut.pooled, cut, views, view_count, directory, None, batch_size, label, progress)
        return Features(views, pooled, live=lambda images: images)
    directory.mkdir(parents=True, exist_ok=True)
    wanted = 2 * int(np.prod(cut.prefix.outputs[0].shape[1:])) * views.count * view_count
    if wanted > DISK_SHARE * shutil.disk_usage(directory).free:
        progress.warn(
            f"Activations at '{cut.unfreeze_point}' would take {wanted / 1e9:.1f} GB, more than half of the free "
            "disk: they are computed anew in every epoch instead"
        )
        pooled, _ = _fill(cut.pooled, cut, views, view_count, directory, None, batch_size, label, progress)
        return Features(views, pooled, live=_live(cut, batch_size))
    try:
        pooled, stored = _fill(
            cut.both, cut, views, view_count, directory, np.float16, batch_size, label, progress
        )
    except _Overflow:
        progress.note(f"Activations at '{cut.unfreeze_point}' do not fit sixteen bits: stored in thirty-two")
        pooled, stored = _fill(
            cut.both, cut, views, view_count, directory, np.float32, batch_size, label, progress
        )
    return Features(views, pooled, stored)


def _fill(
    forward: keras.Model,
    cut: Cut,
    views: Views,
    view_count: int,
    directory: Path,
    dtype: type | None,
    batch_size: int,
    label: str,
    progress: Progress,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Run `forward` over all views; activations are kept where a `dtype` for them is given."""
    run = tf.function(functools.partial(forward, training=False), reduce_retracing=True)
    pooled_views: list[np.ndarray] = []
    activation_views: list[np.ndarray] = []
    with progress.track(label, views.count * view_count) as tracker:
        for view in range(view_count):
            features = cut.pooled.outputs[0].shape[-1]
            pooled = new_array(directory / f"pooled-{view}.npy", (views.count, features), np.float32)
            pooled_views.append(pooled)
            if dtype is not None:
                shape = (views.count, *cut.prefix.outputs[0].shape[1:])
                activation_views.append(new_array(directory / f"activations-{view}.npy", shape, dtype))
            for start in range(0, views.count, batch_size):
                positions = np.arange(start, min(start + batch_size, views.count))
                outputs = run(tf.cast(_padded(views.images(positions, view), batch_size), tf.float32))
                if dtype is not None:
                    activation, outputs = outputs
                    activation_views[-1][positions] = _narrowed(activation, len(positions), dtype)
                pooled[positions] = outputs.numpy()[: len(positions)]
                tracker.advance(len(positions))
    return tuple(pooled_views), tuple(activation_views)


def _live(cut: Cut, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    prefix = tf.function(functools.partial(cut.prefix, training=False), reduce_retracing=True)

    def compute(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            outputs = prefix(tf.cast(_padded(chunk, batch_size), tf.float32))
            try:
                parts.append(_narrowed(outputs, len(chunk), np.float16).astype(np.float32))
            except _Overflow:
                parts.append(_narrowed(outputs, len(chunk), np.float32))
        return np.concatenate(parts)

    return compute


class _Overflow(Exception):
    """A value does not fit the dtype that it is to be stored in."""


def _narrowed(activation: tf.Tensor, count: int, dtype: type) -> np.ndarray:
    """The first `count` rows in the stored dtype; sixteen bits halve the disk at a relative error of 0.0005."""
    values = tf.cast(activation[:count], tf.float32).numpy()
    if dtype == np.float16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise _Overflow
    return values.astype(dtype)


def _padded(images: np.ndarray, batch_size: int) -> np.ndarray:
    missing = batch_size - len(images)
    return images if not missing else np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
