"""Tasks: the answer about an example, one class or several labels, or a tag for each of its words.

A task knows the form of labels and everything that follows from it: targets and loss of the training, log-losses, metrics
and the direction of each monitor, probabilities, and the answers of a served model. It knows neither what an example is nor networks.

Nothing here needs TensorFlow before a method is called that gives or takes its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

# Validation metrics that may choose an epoch, a phase or a trial, and whether more of it is better.
MONITORS = {
    "val_calibrated_loss": False,
    "val_loss": False,
    "val_accuracy": True,
    "val_macro_f1": True,
    "val_balanced_accuracy": True,
    "val_entity_f1": True,
}
TASKS = ("classification", "multi_label", "entities")
# Those with an answer for each word of an example, which texts have.
WORD_TASKS = ("entities",)
# Served output with the names of all labels that hold; only of a task that is not exclusive.
LABELS = "labels"
# Served outputs of a task that finds entities, beside their `count`: what stands there, its type, first character and the place
# behind its last, and how sure that is.
ENTITY_OUTPUTS = ("entities", "types", "starts", "ends", "scores")


# Files in columns of words and tags. Spans in .jsonl and .json have to be asked for: those may be manifests of labelled texts.
TAGGED_SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bilou")


def task_of_source(source: str) -> str:
    """The name of the task of data that ask for none."""
    return "entities" if source.lower().endswith(TAGGED_SUFFIXES) else "classification"


def sign_of(monitor: str) -> int:
    """The factor with which less of a monitored metric is better."""
    return -1 if MONITORS[monitor] else 1


def unit_of(task: Task, noun: str) -> str:
    """One of what gets an answer, in messages: a word, or an example, which is called `noun`."""
    return "word" if task.per_step else noun


class Task(Protocol):
    """The answer about an example.

    Shapes: n examples, k classes. Labels are int [n], or 0 and 1, [n, k], where an example may have several; what a model
    decides has the same form.

    Attributes:
        name: one of `TASKS`.
        per_step: whether each step of an example has a label and an answer of its own, as words have. What is said below of examples
            holds for those steps then, and the head reads the state of each, where it reads pooled ones else.
        exclusive: whether an example has exactly one class, so that its probabilities add up to 1.
        activation: from logits to probabilities: `softmax` or `sigmoid`.
        monitors: those of `MONITORS` that it has; the first is the usual one.
        accuracy_title: what its accuracy counts.
    """

    name: str
    per_step: bool
    exclusive: bool
    activation: str
    monitors: tuple[str, ...]
    accuracy_title: str

    def check_labels(self, labels: np.ndarray, count: int, classes: int) -> None:
        """Raise ValueError unless these are labels of `count` examples, each within the classes."""

    def targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Labels as float32 [n, k] of 0 and 1."""

    def first_bias(self, counts: np.ndarray, examples: int) -> np.ndarray:
        """Logits of the constant guess.

        Args:
            counts: examples of each class, int [k].
            examples: how many there are in all.

        Returns:
            float32 [k]; zeros where all classes have as many examples.
        """

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        """Loss of float targets [n, k] and logits [n, k]."""

    def accuracy(self) -> keras.metrics.Metric:
        """Share of the examples that are right, of float targets and logits [n, k]."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 [n, k] of logits [n, k]."""

    def log_losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Negative log-likelihood in nats of each example, float64 [n]; of several labels their mean.

        Args:
            logits: float64 [n, k].
            labels: of these examples.
        """

    def log_loss_gradients(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """By which each logit changes the log-loss of its example, float64 [n, k]."""

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """The answers, in the form of labels."""

    def is_right(self, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Bool [n]: whether all of an answer is right."""

    def counts(self, decided: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        """Right answers, labels and answers of each class, int64 [3, k]."""

    def class_sums(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of each example the sum of its classes' values, float [n]; `values` is float [k]."""

    def right_sums(self, values: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """`class_sums` over the classes that are rightly answered."""

    def confidences(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of what is answered, float [m], and whether that is right, bool [m]."""

    def names(self, decided: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """Answers or labels in words; several are separated by `|`."""

    def answer_probabilities(self, logits: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Probability of each whole answer, float64 [n]; of several labels as if one said nothing of another."""

    def answers(self, logits: tf.Tensor, class_names: Sequence[str], top: int) -> dict[str, tf.Tensor]:
        """Outputs of a served model; `kerastl.export.signature` lists them.

        Args:
            logits: float32 [n, k].
            class_names: k of them.
            top: how many classes are named for each example.
        """

    def wrong_answers(
        self, served: Mapping[str, Any], expected: np.ndarray, class_names: Sequence[str], tolerance: float
    ) -> str:
        """Describes faults of the served outputs that this task alone has; empty if there are none.

        Args:
            served: outputs of a signature, by name.
            expected: probabilities float [n, k].
            class_names: k of them.
            tolerance: by which served probabilities may differ.
        """


def task_named(name: str) -> Task:
    """The task of that name."""
    from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL
    from kerastl.task.tagging import ENTITIES

    tasks: tuple[Task, ...] = (CLASSIFICATION, MULTI_LABEL, ENTITIES)
    return {task.name: task for task in tasks}[name]
