"""Classification: one class an example, or several labels of which each is decided by itself."""

# ruff: noqa: D102 (methods are described in kerastl.task.Task)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax

from kerastl.task import LABELS, MONITORS, Task

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

LABEL_SEPARATOR = "|"


class Classification(Task):
    """One class an example: softmax. Labels int [n], 0..k-1; see `kerastl.task.Task`."""

    name = "classification"
    per_step = False
    exclusive = True
    activation = "softmax"
    monitors = tuple(name for name in MONITORS if name != "val_entity_f1")
    accuracy_title = "accuracy"

    def check_labels(self, labels: np.ndarray, count: int, classes: int) -> None:
        _check(labels, (count,), classes - 1)

    def targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        hot = np.zeros((len(labels), classes), np.float32)
        hot[np.arange(len(labels)), labels] = 1.0
        return hot

    def first_bias(self, counts: np.ndarray, examples: int) -> np.ndarray:
        logs = np.log(counts + 1)
        return (logs - logs.mean()).astype(np.float32)  # softmax knows differences only

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        import keras

        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    def accuracy(self) -> keras.metrics.Metric:
        import keras

        return keras.metrics.CategoricalAccuracy("accuracy")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(np.asarray(logits, np.float64), axis=1)

    def log_losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        # From the logits: a small probability may round to nothing.
        exact = logits - logits.max(axis=1, keepdims=True)
        own = exact[np.arange(len(exact)), labels]
        return np.log(np.exp(exact, out=exact).sum(axis=1)) - own

    def log_loss_gradients(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        surplus = self.probabilities(logits)
        surplus[np.arange(len(surplus)), labels] -= 1
        return surplus

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(axis=1)

    def is_right(self, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return decided == labels

    def counts(self, decided: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        return np.stack(
            [np.bincount(each, minlength=classes) for each in (labels[decided == labels], labels, decided)]
        )

    def class_sums(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return values[labels]

    def right_sums(self, values: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (decided == labels) * values[labels]

    def confidences(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = probabilities.argmax(axis=1)
        return probabilities[np.arange(len(best)), best], best == labels

    def names(self, decided: np.ndarray, class_names: Sequence[str]) -> list[str]:
        return [class_names[code] for code in decided.tolist()]

    def answer_probabilities(self, logits: np.ndarray, decided: np.ndarray) -> np.ndarray:
        return self.probabilities(logits)[np.arange(len(decided)), decided]

    def answers(self, logits: tf.Tensor, class_names: Sequence[str], top: int) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        return _ranked(logits, tf.nn.softmax(logits), class_names, top)

    def wrong_answers(
        self, served: Mapping[str, Any], expected: np.ndarray, class_names: Sequence[str], tolerance: float
    ) -> str:
        return f"'{LABELS}' is answered." if LABELS in served else ""


class MultiLabel(Task):
    """Several labels an example, or none: a sigmoid each. Labels 0 and 1, [n, k]; see `kerastl.task.Task`.

    A label is given where its probability is above one half, which is where its logit is above 0.
    """

    name = "multi_label"
    per_step = False
    exclusive = False
    activation = "sigmoid"
    monitors = tuple(name for name in Classification.monitors if name != "val_balanced_accuracy")
    accuracy_title = "all labels right"

    def check_labels(self, labels: np.ndarray, count: int, classes: int) -> None:
        _check(labels, (count, classes), 1)

    def targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return labels.astype(np.float32)

    def first_bias(self, counts: np.ndarray, examples: int) -> np.ndarray:
        return np.log((counts + 1) / (examples - counts + 1)).astype(np.float32)

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        import keras

        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    def accuracy(self) -> keras.metrics.Metric:
        import keras

        return keras.metrics.MeanMetricWrapper(all_labels_right, name="accuracy")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return expit(np.asarray(logits, np.float64))

    def log_losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.logaddexp(0.0, np.where(labels > 0, -logits, logits)).mean(axis=1)

    def log_loss_gradients(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (self.probabilities(logits) - labels) / logits.shape[1]

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return (logits > 0).astype(np.uint8)

    def is_right(self, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (decided == labels).all(axis=1)

    def counts(self, decided: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        return np.stack([each.sum(axis=0, dtype=np.int64) for each in (decided & labels, labels, decided)])

    def class_sums(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return labels @ values

    def right_sums(self, values: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (decided & labels) @ values

    def confidences(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = probabilities > 0.5
        given[np.arange(len(given)), probabilities.argmax(axis=1)] = True
        return probabilities[given], labels[given] > 0

    def names(self, decided: np.ndarray, class_names: Sequence[str]) -> list[str]:
        return [
            LABEL_SEPARATOR.join(class_names[code] for code in np.flatnonzero(row).tolist())
            for row in decided
        ]

    def answer_probabilities(self, logits: np.ndarray, decided: np.ndarray) -> np.ndarray:
        return np.exp(-np.logaddexp(0.0, -np.abs(logits)).sum(axis=1))

    def answers(self, logits: tf.Tensor, class_names: Sequence[str], top: int) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        # No name holds a line break: `kerastl.export.saved_model.check_serving` refuses them.
        lines = tf.where(logits > 0, tf.constant([f"{name}\n" for name in class_names]), "")
        given = tf.strings.regex_replace(tf.strings.reduce_join(lines, axis=1), "\n$", "")
        return {**_ranked(logits, tf.sigmoid(logits), class_names, top), LABELS: given}

    def wrong_answers(
        self, served: Mapping[str, Any], expected: np.ndarray, class_names: Sequence[str], tolerance: float
    ) -> str:
        if LABELS not in served:
            return f"'{LABELS}' is not answered."
        wrong = 0
        for text, probabilities in zip(served[LABELS], expected, strict=True):
            given = set(str(text).split("\n")) if text else set()
            # a label at one half may be given or not
            sure, possible = (
                {name for name, p in zip(class_names, probabilities, strict=True) if p > bound}
                for bound in (0.5 + tolerance, 0.5 - tolerance)
            )
            wrong += not sure <= given <= possible
        return f"'{LABELS}' is wrong for {wrong} of {len(expected)} answers." if wrong else ""


CLASSIFICATION = Classification()
MULTI_LABEL = MultiLabel()


def all_labels_right(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1 for each example in which every label is right, else 0, as validation counts it: float32 [n].

    Args:
        labels: float [n, k]; soft where examples were mixed, and present from above one half on.
        logits: float [n, k].
    """
    import tensorflow as tf

    return tf.cast(tf.reduce_all((logits > 0) == (labels > 0.5), axis=-1), tf.float32)


def _check(labels: np.ndarray, shape: tuple[int, ...], highest: int) -> None:
    if labels.shape != shape:
        raise ValueError(f"Expected labels {list(shape)}, got {list(labels.shape)}.")
    if labels.size and (labels.min() < 0 or labels.max() > highest):
        raise ValueError(f"Labels must lie in 0..{highest}, got {labels.min()}..{labels.max()}.")


def _ranked(
    logits: tf.Tensor, probabilities: tf.Tensor, class_names: Sequence[str], top: int
) -> dict[str, tf.Tensor]:
    import tensorflow as tf

    # by logits: sigmoid would round large ones to the same probability
    order = tf.math.top_k(logits, top).indices
    names = tf.gather(tf.constant(class_names), order)
    return {
        "probabilities": probabilities,
        "classes": names,
        "scores": tf.gather(probabilities, order, batch_dims=1),
        "label": names[:, 0],
        "label_index": tf.cast(order[:, 0], tf.int64),
    }
