"""The frozen part of a network as a function of examples, in batches of one size, counted."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.errors import TrainingError
from kerastl.features.engines import Engine, Prefix, engine_for
from kerastl.modality import Batch, count_of
from kerastl.model.cut import VECTORS, Cut
from kerastl.model.device import PROCESSOR, PROCESSOR_BATCH, DevicePlan, gpus_here, plan_for
from kerastl.model.head_input import GEM_EXPONENT, POOLINGS
from kerastl.progress import Progress

# Also on a GPU where no more are to be computed, such as in a training step that computes features live.
BATCH_SIZE = PROCESSOR_BATCH
LARGEST_HALF = np.finfo(np.float16).max
# To be raised with any change of preprocessing, cutting or pooling that changes a feature.
FEATURES_VERSION = 2


class Frozen:
    """Runs what lies below the unfreeze point, in inference mode and outside `fit`.

    All batches have one size, the last one padded: an example's features depend neither on how many examples
    there are nor on its neighbours. On a GPU there are two sizes, `BATCH_SIZE` and a large one.

    Args:
        cut: the network, cut at the unfreeze point.
        backbone: the whole backbone, with the weights that it is frozen with.
        engine: what computes: `auto`, `tensorflow` or `openvino`.
        plan: what follows from the devices; that of this machine without it.

    Attributes:
        cut: the network, cut at the unfreeze point.
        facts: what its outputs depend on, apart from the examples and the cut.
        forward_passes: examples that the backbone, or its part below the cut, was run on so far.
        engine: name of the engine that computed last; None before anything was computed.
        batch_size: examples that are computed together at most; smaller than the plan's where so many do not fit the GPU's memory.
        batches_at_once: calls of `run` that are worth having on their way at once.
    """

    def __init__(
        self, cut: Cut, backbone: keras.Model, engine: str = "auto", plan: DevicePlan | None = None
    ) -> None:
        plan = plan or plan_for(gpus_here())
        self.batch_size, self.batches_at_once = plan.batch_size, plan.batches_at_once
        self.cut, self._backbone, self._asked = cut, backbone, engine
        self.forward_passes = 0
        self.engine: str | None = None
        self.facts: Mapping[str, Any] = {
            "backbone": backbone.name,
            "version": FEATURES_VERSION,
            "poolings": [*POOLINGS, GEM_EXPONENT],
            "weights": weights_digest(backbone),
            "precision": str(keras.config.dtype_policy().name),
            "keras": keras.__version__,
            "device": "gpu" if tf.config.list_physical_devices("GPU") else "cpu",
        }
        self._digests = {id(each): _digest([each]) for each in backbone.weights}
        self._compiled: tuple[object, Engine] | None = None
        self._coming, self._noun, self._progress = 0, "example", Progress()
        # Live features are read by two threads, and an engine computes for one at a time.
        self._lock = threading.Lock()

    def prepare(self, coming: int, noun: str, progress: Progress) -> None:
        """Tell how many examples are coming, about, which an engine is chosen by; it stays with the one that computed first.

        Args:
            coming: how many.
            noun: of an example, for the note.
            progress: is told which engine was chosen.
        """
        self._coming = coming if self.engine is None else self._coming
        self._noun, self._progress = noun, progress

    def release(self) -> None:
        """Let go of the compiled network; the next `run` compiles it again."""
        with self._lock:
            self._compiled = None

    def check_untouched(self, model: keras.Model | None = None) -> None:
        """Raise where a weight of the backbone, or of a part of it, has been trained: its features are not those of the key.

        Args:
            model: the part; the whole backbone without it.

        Raises:
            RuntimeError: one has been trained.
        """
        weights = {id(each): each for each in (model or self._backbone).weights}
        if any(_digest([weights[each]]) != self._digests[each] for each in weights.keys() & self._digests):
            raise RuntimeError(
                "the backbone was trained since its weights were taken down; its features are not the key's"
            )

    def run(self, inputs: Batch, names: Collection[str], dtype: str = "float32") -> dict[str, np.ndarray]:
        """Some outputs of the prefix by name, [b, ...], in one forward pass.

        Args:
            inputs: decoded examples.
            names: of the outputs, which `cut.outputs` lists.
            dtype: of all outputs but vectors: float32, or float16, which then is what a GPU hands over. An output with a value that
                does not fit stays in float32; the store then decides row by row.

        Raises:
            TrainingError: a value is not finite, or an engine that was asked for computes other values.
            UserError: an engine that was asked for is not installed, or cannot compute the network.
        """
        count = count_of(inputs)
        size = BATCH_SIZE if count <= BATCH_SIZE else self.batch_size
        if count <= size:
            try:
                return self._run(inputs, names, size, dtype)
            except tf.errors.ResourceExhaustedError:
                if size <= BATCH_SIZE:
                    raise
                self.batch_size = max(BATCH_SIZE, size // 2)
                self._progress.note(
                    f"{size} {self._noun}s at once do not fit the GPU: {self.batch_size} from here on"
                )
        starts = range(0, count, self.batch_size)
        parts = [
            self.run(
                {name: each[start : start + self.batch_size] for name, each in inputs.items()}, names, dtype
            )
            for start in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, inputs: Batch, names: Collection[str], size: int, dtype: str) -> dict[str, np.ndarray]:
        count, whole = count_of(inputs), padded(inputs, size)
        with self._lock:
            outputs = self._engine_of(tuple(sorted(names)), whole).start(whole)
            self.forward_passes += count
        # All of it is begun before the first is read: a GPU goes on, while reading waits.
        narrow = {
            name: narrowed(each)
            for name, each in outputs.items()
            if dtype == "float16" and name not in VECTORS
        }
        found = {}
        for name, output in outputs.items():
            if name in narrow and narrow[name][1]:
                found[name] = np.asarray(narrow[name][0])[:count]
                continue
            values = np.asarray(output)
            # Kept, it would spoil every run that reads it, and the learning rate would be blamed.
            if not np.isfinite(values).all():
                raise TrainingError(
                    f"The frozen part of {self.facts['backbone']} gives {name} that are no finite numbers, before anything was "
                    f"trained, in {self.facts['precision']}. Its weights are damaged, or not for this network: check "
                    'backbone.weights, and try precision = "float32"'
                )
            found[name] = values[:count]
        return found

    def _engine_of(self, names: tuple[str, ...], inputs: Batch) -> Engine:
        """The engine for some outputs of such inputs: of several one after the other only the newest is held, as each takes memory."""
        # Only TensorFlow computes more than one size or number of steps, and traces each for itself.
        key = (
            names,
            {
                name: (each.shape[1 + (name in self.cut.stepped) :], each.dtype)
                for name, each in inputs.items()
            },
        )
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = None
            model = self.cut.prefix(*names)
            # An engine may compute with the weights that it found when it was compiled.
            self.check_untouched(model)
            weights, precision = self.facts["weights"], self.facts["precision"]
            prefix = Prefix(self._asked, model, weights, precision, self._coming, self._noun, self._progress)
            self._compiled = key, engine_for(prefix, inputs)
            self.engine = self._compiled[1].name
        return self._compiled[1]


def narrowed(values: tf.Tensor | np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Activations in sixteen bits, and a bool: all are numbers that fit. Half the disk, at a relative error of 0.0005.

    TensorFlow converts to sixteen bits, to the same bits as NumPy, which takes seven times as long: a twentieth of
    ResNet50's forward pass. What a GPU computed it converts there.
    """
    tensor = tf.convert_to_tensor(values)
    return tf.cast(tensor, tf.float16), tf.reduce_all(tf.abs(tensor) <= LARGEST_HALF)


def as_kept(values: np.ndarray, dtype: str) -> np.ndarray:
    """Activations as they come back from the store, float32: each row in sixteen bits if all of it fits."""
    if dtype != "float16":
        return values
    fits = (np.abs(values) <= LARGEST_HALF).reshape(len(values), -1).all(axis=1)
    with tf.device(PROCESSOR):
        rounded = tf.cast(tf.cast(values, tf.float16), tf.float32).numpy()
    return rounded if fits.all() else np.where(fits.reshape(-1, *[1] * (values.ndim - 1)), rounded, values)


def padded(inputs: Batch, size: int) -> Batch:
    """A batch of one size, its last example repeated."""
    missing = size - count_of(inputs)
    if not missing:
        return inputs
    return {
        name: np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        for name, values in inputs.items()
    }


def weights_digest(model: keras.Model) -> str:
    """sha256 hex of all weights, in order, with their shapes: what a file's name cannot promise."""
    return _digest(model.weights)


def _digest(weights: Sequence[keras.Variable]) -> str:
    digest = hashlib.sha256()
    for weight in weights:
        values = np.ascontiguousarray(weight.numpy())
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.data if values.ndim else values.tobytes())
    return digest.hexdigest()
