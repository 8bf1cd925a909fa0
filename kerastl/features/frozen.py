"""The frozen part of a network as a function of examples, in batches of one size, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.errors import TrainingError
from kerastl.modality import Batch, count_of
from kerastl.model.cut import Cut
from kerastl.model.graph import alone
from kerastl.model.heads import GEM_EXPONENT, POOLINGS

BATCH_SIZE = 32
# To be raised with any change of preprocessing, cutting or pooling that changes a feature.
FEATURES_VERSION = 1


class Frozen:
    """Runs what lies below the unfreeze point, in inference mode and outside `fit`.

    All batches have one size, the last one padded: an example's features depend neither on how many examples
    there are nor on its neighbours.

    Args:
        cut: the network, cut at the unfreeze point.
        backbone: the whole backbone, with the weights that it is frozen with.

    Attributes:
        cut: the network, cut at the unfreeze point.
        facts: what its outputs depend on, apart from the examples and the cut.
        forward_passes: examples that the backbone, or its part below the cut, was run on so far.
    """

    def __init__(self, cut: Cut, backbone: keras.Model) -> None:
        self.cut, self._backbone = cut, backbone
        self.forward_passes = 0
        self.facts: Mapping[str, Any] = {
            "backbone": backbone.name,
            "version": FEATURES_VERSION,
            "poolings": [*POOLINGS, GEM_EXPONENT],
            "weights": weights_digest(backbone),
            "precision": str(keras.config.dtype_policy().name),
            "keras": keras.__version__,
            "device": "gpu" if tf.config.list_physical_devices("GPU") else "cpu",
        }
        self._traced: dict[tuple[str, ...], Callable[[Batch], dict[str, tf.Tensor]]] = {}

    def check_untouched(self) -> None:
        """Raise where the backbone has been trained: what it says now must not be kept as the frozen one's."""
        if weights_digest(self._backbone) != self.facts["weights"]:
            raise RuntimeError(
                "the backbone was trained since its weights were taken down; its features are not the key's"
            )

    def run(self, inputs: Batch, names: Collection[str]) -> dict[str, np.ndarray]:
        """Some outputs of the prefix by name, float32 [b, ...], in one forward pass.

        Args:
            inputs: decoded examples, no more than `BATCH_SIZE`.
            names: of the outputs, which `cut.outputs` lists.

        Raises:
            TrainingError: a value is not finite.
        """
        count = count_of(inputs)
        assert count <= BATCH_SIZE
        self.forward_passes += count
        outputs = self._forward(tuple(sorted(names)))(padded(inputs))
        for name, output in outputs.items():
            # Kept, it would spoil every run that reads it, and the learning rate would be blamed.
            if not tf.reduce_all(tf.math.is_finite(output)):
                raise TrainingError(
                    f"The frozen part of {self.facts['backbone']} gives {name} that are no finite numbers, before anything was "
                    f"trained, in {self.facts['precision']}. Its weights are damaged, or not for this network: check "
                    'backbone.weights, and try precision = "float32"'
                )
        return {name: output.numpy()[:count] for name, output in outputs.items()}

    def _forward(self, names: tuple[str, ...]) -> Callable[[Batch], dict[str, tf.Tensor]]:
        if names not in self._traced:
            model = self.cut.prefix(*names)

            def forward(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                outputs = model(named_inputs(model, inputs), training=False)
                return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

            self._traced[names] = tf.function(forward, autograph=False)
        return self._traced[names]


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """Activations in the dtype that they are stored in; sixteen bits halve the disk at a relative error of 0.0005.

    TensorFlow converts to sixteen bits, to the same bits as NumPy, which takes seven times as long: a twentieth of
    ResNet50's forward pass. A batch with a value that does not fit stays as it is; the store then decides row by row.
    """
    if dtype != "float16" or not fits_sixteen_bits(values):
        return values
    return tf.cast(tf.convert_to_tensor(values), tf.float16).numpy()


def as_kept(values: np.ndarray, dtype: str) -> np.ndarray:
    """Activations as they come back from the store, float32: each row in sixteen bits if all of it fits."""
    if dtype != "float16":
        return values
    fits = (np.abs(values) <= np.finfo(np.float16).max).reshape(len(values), -1).all(axis=1)
    rounded = tf.cast(tf.cast(values, tf.float16), tf.float32).numpy()
    return rounded if fits.all() else np.where(fits.reshape(-1, *[1] * (values.ndim - 1)), rounded, values)


def fits_sixteen_bits(values: np.ndarray) -> bool:
    """True if all values are numbers that are not too large for `float16`."""
    tensor = tf.convert_to_tensor(values)
    return not tf.size(tensor) or bool(tf.reduce_all(tf.abs(tensor) <= np.finfo(np.float16).max))


def named_inputs(model: keras.Model, inputs: Mapping[str, tf.Tensor]) -> Any:
    """Arrays in the order and dtypes of a model's inputs, so that whole numbers stay whole."""
    return alone([tf.cast(inputs[each.name], each.dtype) for each in model.inputs])


def padded(inputs: Batch) -> Batch:
    """A batch of the one size, its last example repeated."""
    missing = BATCH_SIZE - count_of(inputs)
    if not missing:
        return inputs
    return {
        name: np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        for name, values in inputs.items()
    }


def weights_digest(model: keras.Model) -> str:
    """sha256 hex of all weights, in order, with their shapes: what a file's name cannot promise."""
    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(weight.numpy())
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.data if values.ndim else values.tobytes())
    return digest.hexdigest()
