"""One phase: train a model on features until validation stops improving, and keep its best weights.

Both phases run through `run_phase`; what differs between them is what they are given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.step_labels import Labels, StepLabels, answered
from kerastl.errors import TrainingError
from kerastl.evaluation.monitors import example_losses, is_better, validation_metrics
from kerastl.progress import Progress, Tracker
from kerastl.recipe import HeadPhaseRecipe, PhaseRecipe
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION
from kerastl.training.batches import BatchReader, PhaseData, batches, example_weights
from kerastl.training.reuse import Infer, compile_for, inference_of

# Examples whose logits are computed together, at most. Where a backbone has a part in it, only twice as many as in a training
# step: forward and backward pass of those took more memory.
EVALUATION_BATCH = 256
# A look at the loss waits for the step; an epoch of a million examples takes hours.
STEPS_A_CHECK = 100
PHASE_TITLES = {"head_phase": "head phase", "finetune_phase": "fine-tune phase"}


@dataclass(frozen=True)
class PhaseResult:
    """Result of a phase.

    Attributes:
        name: `head_phase` or `finetune_phase`, the recipe's table.
        history: one row an epoch: epoch, loss, accuracy, learning_rate, val_loss, val_calibrated_loss, val_accuracy,
            val_macro_f1, val_balanced_accuracy (those that the task has), seconds.
        best_epoch: epoch of the restored weights, counted from 1; 0 where no epoch improved on the start. The last one of a phase
            that ran to its end, if validation cannot tell it from the best.
        monitor: the metric that decided.
        best: validation metrics of the restored weights.
        weights: the model's best weights, in the order of `model.weights`.
        seconds: wall time of the phase.
        examples_per_second: training examples over that time.
        ended: `epochs`, `patience`, `callback` (one of the user's own stopped it) or `interrupted`.
        solved: how the weights that it began with were found; empty where they were zeros, or those of the phase before.
    """

    name: str
    history: tuple[dict[str, float], ...]
    best_epoch: int
    monitor: str
    best: dict[str, float]
    weights: tuple[np.ndarray, ...]
    seconds: float
    examples_per_second: float
    ended: str
    solved: str = ""


def run_phase(
    name: str,
    model: keras.Model,
    data: PhaseData,
    settings: PhaseRecipe,
    *,
    seed: int,
    task: Task = CLASSIFICATION,
    factors: Callable[[Any], float] = lambda variable: 1.0,
    start: dict[str, float] | None = None,
    solved: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    tensorboard: Path | None = None,
    progress: Progress = Progress(),
) -> PhaseResult:
    """Train `model` and leave it with the weights of its best epoch.

    Args:
        name: the recipe's table, `head_phase` or `finetune_phase`.
        model: inputs as `data` reads them, float32 logits [b, classes] out; its trainable flags are set.
        data: features of the train and validation splits.
        settings: the phase's resolved recipe.
        seed: decides the order of the examples in each epoch.
        task: what the logits answer.
        factors: each trainable variable's share of the learning rate.
        start: validation metrics of the weights that the phase begins with, measured here without them. An epoch has to
            be better, and the beginning's weights are restored where none is.
        solved: how these weights were found.
        callbacks: of the user's own. They see the validation metrics in the logs of an epoch, and may stop the phase.
        tensorboard: folder for TensorBoard logs.
        progress: listens.

    Returns:
        History, best epoch and the best weights.

    Raises:
        TrainingError: where the loss is no longer a finite number; names the phase and the rate.
    """
    count = data.train.count
    steps = math.ceil(count / settings.batch_size)
    compile_for(model, settings, factors, steps, task)
    started = time.perf_counter()
    unit = f"{data.train.views.modality.noun}s"
    with progress.track(PHASE_TITLES[name], settings.epochs * count, unit) as tracker:
        infer = inference_of(model)
        watch = _Watch(name, model, infer, data, settings, task, start, tracker)
        every: list[keras.callbacks.Callback] = [watch, *callbacks]
        if tensorboard is not None:
            every.append(keras.callbacks.TensorBoard(str(tensorboard), write_graph=False))
        try:
            model.fit(
                batches(data, settings, steps, seed, model.input),
                epochs=settings.epochs,
                steps_per_epoch=steps,
                callbacks=every,
                shuffle=False,
                verbose=0,
            )
        except KeyboardInterrupt:
            watch.ended = "interrupted"
        else:
            if watch.ended == "epochs" and len(watch.rows) < settings.epochs:
                watch.ended = "callback"
            if watch.ended == "epochs":
                watch.prefer_last()
    seconds = time.perf_counter() - started
    model.set_weights(watch.best_weights)
    return PhaseResult(
        name=name,
        history=tuple(watch.rows),
        best_epoch=watch.best_epoch,
        monitor=settings.monitor,
        best=watch.best,
        weights=tuple(watch.best_weights),
        seconds=seconds,
        examples_per_second=len(watch.rows) * count / max(seconds, 1e-9),
        ended=watch.ended,
        solved=solved,
    )


def validate(
    infer: Infer, data: PhaseData, settings: PhaseRecipe, task: Task, batch_size: int
) -> dict[str, float]:
    """The metrics of unaugmented validation examples; see `kerastl.evaluation.monitors.validation_metrics`.

    Args:
        infer: from `inference_of`.
        data: of the phase.
        settings: its recipe; where it balances classes, every class weighs the same here, too.
        task: what the logits answer.
        batch_size: examples whose logits are computed together.
    """
    return _Validation(infer, data, settings, task, batch_size).metrics()


class _Validation:
    """Measures a model on validation examples, and remembers what it answered last; see `validate`."""

    def __init__(
        self, infer: Infer, data: PhaseData, settings: PhaseRecipe, task: Task, batch_size: int
    ) -> None:
        self._infer, self._data, self._task, self._batch_size = infer, data, task, batch_size
        self._monitor = settings.monitor
        rows = data.validation.views.rows
        self._labels, self._words = answered(rows.classes), rows.words
        self._weights = example_weights(settings, data.validation)
        self._logits = np.zeros((0, 0), np.float32)

    def metrics(self) -> dict[str, float]:
        data = self._data
        self._logits = predict_logits(
            self._infer,
            data.validation.count,
            data.validation_inputs,
            self._batch_size,
            data.validation.views.classes,
        )
        return validation_metrics(self._logits, self._labels, self._task, self._weights, self._words)

    def losses(self) -> np.ndarray:
        """Part of each example in the monitored metric that was measured last."""
        return example_losses(
            self._monitor, self._logits, self._labels, self._task, self._weights, self._words
        )


def predict_logits(
    infer: Infer, count: int, inputs: BatchReader, batch_size: int, labels: Labels | None = None
) -> np.ndarray:
    """Logits float32 [count, classes] of view 0; of steps those that are labelled, [words, classes].

    Args:
        infer: from `inference_of`.
        count: of the examples.
        inputs: reads what `infer` takes.
        batch_size: examples whose logits are computed together.
        labels: of the examples; they say which steps are meant.
    """
    parts = []
    for start in range(0, count, batch_size):
        positions = np.arange(start, min(start + batch_size, count))
        batch = keras.tree.map_structure(tf.convert_to_tensor, inputs(positions, 0))
        parts.append((positions, infer(batch)))
    # Read when all are begun: a GPU that waited for the next batch would stand still.
    found = [np.asarray(part) for _, part in parts]
    if isinstance(labels, StepLabels):
        found = [part[labels[at].places] for part, (at, _) in zip(found, parts, strict=True)]
    return np.concatenate(found).astype(np.float32)


def evaluation_batch(settings: PhaseRecipe) -> int:
    """Examples whose logits the model of a phase computes together."""
    if isinstance(settings, HeadPhaseRecipe):
        return EVALUATION_BATCH
    return min(EVALUATION_BATCH, 2 * settings.batch_size)


class _Watch(keras.callbacks.Callback):
    """Validates after every epoch, remembers the best weights, stops when they no longer improve."""

    def __init__(
        self,
        name: str,
        model: keras.Model,
        infer: Infer,
        data: PhaseData,
        settings: PhaseRecipe,
        task: Task,
        start: dict[str, float] | None,
        tracker: Tracker,
    ) -> None:
        super().__init__()
        self.name, self.settings, self.tracker = name, settings, tracker
        self._count = data.train.count
        self._validation = _Validation(infer, data, settings, task, evaluation_batch(settings))
        self.best = self._validation.metrics() if start is None else start
        self._start, self._best_losses = self.best, np.zeros(0)
        self.best_epoch = 0
        self.best_weights: Sequence[np.ndarray] = model.get_weights()
        self.rows: list[dict[str, float]] = []
        self.ended = "epochs"
        self._epoch = self._seen = 0
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._seen, self._began = epoch, 0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        seen = self._count * (batch + 1) // self.params["steps"]
        self.tracker.advance(seen - self._seen)
        self._seen = seen
        if (batch + 1) % STEPS_A_CHECK == 0:
            self._check_loss(logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        rate = float(self.model.optimizer.learning_rate)
        self._check_loss(logs)
        try:
            metrics = self._validation.metrics()
        except TrainingError as error:
            # The loss is that of the weights before the last step, and of batches' own statistics where BatchNorm trains.
            what = f"The {PHASE_TITLES[self.name]} gives validation examples no finite answer"
            raise self._diverged(what) from error
        logs.update(metrics)
        row = {"epoch": epoch + 1, "loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        row |= {"learning_rate": rate, **metrics, "seconds": time.perf_counter() - self._began}
        self.rows.append(row)
        self.tracker.advance(
            0, f"val_loss {metrics['val_loss']:.3f}  val_accuracy {metrics['val_accuracy']:.3f}"
        )
        if is_better(self.settings.monitor, metrics, self.best):
            self.best, self.best_epoch = metrics, epoch + 1
            self.best_weights, self._best_losses = self.model.get_weights(), self._validation.losses()
        elif self.settings.patience_epochs and epoch + 1 - self.best_epoch >= self.settings.patience_epochs:
            self.model.stop_training = True
            self.ended = "patience"

    def prefer_last(self) -> None:
        """Take the last epoch, whose rate came down to zero, unless the best one is better by more than a standard error.

        On few validation examples an earlier epoch is easily the best one by chance (docs/rule.md). The rule is that of Breiman et al.
        1984 ("Classification and regression trees"): of what is as good as the best, the one that is expected to be better.
        """
        if not self.best_epoch or self.best_epoch == len(self.rows):
            return
        more = self._validation.losses() - self._best_losses
        error = more.std(ddof=1) / math.sqrt(len(more)) if len(more) > 1 else 0.0
        last = {name: self.rows[-1][name] for name in self.best}
        if more.mean() <= error and is_better(self.settings.monitor, last, self._start):
            self.best, self.best_epoch = last, len(self.rows)
            self.best_weights = self.model.get_weights()

    def _check_loss(self, logs: dict[str, Any]) -> None:
        if not np.isfinite(loss := float(logs["loss"])):
            raise self._diverged(f"The loss of the {PHASE_TITLES[self.name]} is {loss}")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} in epoch {self._epoch + 1}, at a learning rate of up to {self.settings.learning_rate:g}. Lower "
            f"{self.name}.learning_rate (try a tenth), or set {self.name}.gradient_clip_norm = 1.0. The weights of this "
            "phase were not kept"
        )
