"""The other side of `search.py`: a search as Keras Tuner's documents write it, without anything of kerastl.

Image arrays in memory, and a HyperModel with the backbone in the loop: each trial builds the network, trains the head
on the frozen backbone, thaws what lies above its unfreeze point with BatchNorm kept frozen, and trains on. Epochs are
fixed, the rates fall by a cosine in each phase, and a trial's score is its best epoch's validation accuracy. The head is
kerastl's (features standardised, kernel from zero), so that both sides train the same thing: what it needs to know of
the features is given to this side, and no time is counted for it.

A frozen prefix says the same in every epoch and trial, so `score_of` computes it once and trains the same layers on it: the
same arithmetic in a fraction of the time. It serves to compare scores, never times.
"""

from __future__ import annotations

import contextlib
import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

BATCH = 32
HEAD_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FINETUNE_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
# How often a part of the work is timed.
TURNS = 3
NOTHING, EVERYTHING = "backbone", "input"
HEAD, POINT, FINETUNE = "head_rate", "unfreeze_from", "finetune_rate"
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Plain:
    """What the plain side works on.

    Attributes:
        build: makes the backbone, without classifier, with its weights.
        preprocess: of `keras.applications`.
        train: images float32 [n, size, size, 3] and labels.
        validation: the same.
        head_epochs: of the head phase.
        finetune_epochs: of the fine-tune phase.
        points: unfreeze points, from nothing thawed on.
        statistics: mean and variance of the pooled features.
    """

    build: Callable[[], keras.Model]
    preprocess: Callable[[Any], Any]
    train: Arrays
    validation: Arrays
    head_epochs: int
    finetune_epochs: int
    points: Sequence[str]
    statistics: tuple[np.ndarray, np.ndarray]


def declare(hp: keras_tuner.HyperParameters, points: Sequence[str]) -> None:
    """The space: both rates and the unfreeze point; no fine-tune rate where nothing is thawed."""
    hp.Choice(HEAD, list(HEAD_RATES))
    hp.Choice(POINT, list(points))
    with hp.conditional_scope(POINT, [point for point in points if point != NOTHING]):
        hp.Choice(FINETUNE, list(FINETUNE_RATES))


def draw(points: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """The settings that RandomSearch tries with this seed; they do not depend on what it finds."""
    hp = keras_tuner.HyperParameters()
    declare(hp, points)
    oracle = keras_tuner.oracles.RandomSearchOracle(
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=count,
        hyperparameters=hp,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        oracle._set_project_dir(folder, "settings")
        trials = [oracle.create_trial(f"tuner{number}") for number in range(count)]
    return [trial.hyperparameters.values for trial in trials if trial.status == "RUNNING"]


class TwoPhases(keras_tuner.HyperModel):
    """A trial: the head on the frozen backbone, then both above the unfreeze point."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.plain = plain
        self.base: keras.Model | None = None

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, ready for the head phase."""
        declare(hp, self.plain.points)
        self.base = base = self.plain.build()
        base.trainable = False
        inputs = keras.Input(base.input_shape[1:])
        pooled = pooling_of(base(self.plain.preprocess(inputs), training=False))
        model = keras.Model(inputs, head_of(self.plain)(pooled))
        compile_for(model, hp.get(HEAD), self.plain, self.plain.head_epochs)
        return model

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Both phases; the best epoch's validation accuracy."""
        first = model.fit(*args, **kwargs, batch_size=BATCH, epochs=self.plain.head_epochs)
        best = max(first.history["val_accuracy"])
        if hp.get(POINT) != NOTHING:
            assert self.base is not None
            thaw(self.base, hp.get(POINT))
            compile_for(model, hp.get(FINETUNE), self.plain, self.plain.finetune_epochs)
            second = model.fit(*args, **kwargs, batch_size=BATCH, epochs=self.plain.finetune_epochs)
            best = max(best, *second.history["val_accuracy"])
        return {"val_accuracy": best}


def pooling_of(activation: Any) -> Any:
    """The mean over all positions."""
    return keras.layers.GlobalAveragePooling2D()(activation)


def head_of(plain: Plain) -> keras.Model:
    """Pooled features to logits."""
    mean, variance = plain.statistics
    inputs = keras.Input(mean.shape)
    classes = int(plain.train[1].max()) + 1
    dense = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32")
    return keras.Model(inputs, dense(keras.layers.Normalization(mean=mean, variance=variance)(inputs)))


def compile_for(model: keras.Model, rate: float, plain: Plain, epochs: int) -> None:
    """Adam, with a rate that falls by a cosine over the phase."""
    steps = -(-len(plain.train[1]) // BATCH) * epochs
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def thaw(base: keras.Model, point: str) -> None:
    """Let all layers after a point train, BatchNorm excepted."""
    base.trainable = True
    reached = point == EVERYTHING
    for layer in base.layers:
        layer.trainable = reached and not isinstance(layer, keras.layers.BatchNormalization)
        reached = reached or layer.name == point


def search_whole(plain: Plain, trials: int, seed: int, folder: str) -> list[dict[str, Any]]:
    """RandomSearch itself over the first trials: values, score and seconds of each. Hours on processors."""
    seconds: list[float] = []

    class Timed(TwoPhases):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            found = super().fit(*args, **kwargs)
            seconds.append(time.perf_counter() - started)
            return found

    tuner = keras_tuner.RandomSearch(
        Timed(plain), "val_accuracy", max_trials=trials, seed=seed, directory=folder, overwrite=True
    )
    tuner.search(*plain.train, validation_data=plain.validation, verbose=0)
    found = sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id)
    return [
        {"values": trial.hyperparameters.values, "score": trial.score, "seconds": taken}
        for trial, taken in zip(found, seconds, strict=True)
    ]


def part_of(plain: Plain, point: str, steps: int) -> dict[str, float]:
    """Seconds of some steps of a trial's kinds of work: to build and trace, to train, and to validate, a step each."""
    hp = keras_tuner.HyperParameters()
    hp.values = {HEAD: HEAD_RATES[0], POINT: point, FINETUNE: FINETUNE_RATES[0]}
    started = time.perf_counter()
    model_of = TwoPhases(plain)
    model = model_of.build(hp)
    built = time.perf_counter()
    if point != NOTHING:
        assert model_of.base is not None
        thaw(model_of.base, point)
        compile_for(model, FINETUNE_RATES[0], plain, plain.finetune_epochs)
    images, labels = (array[: steps * BATCH] for array in plain.train)
    seconds: dict[str, float] = {"build": built - started, "trace": 0.0}
    for name, work in (("step", model.fit), ("validate", model.evaluate)):
        ends = BatchEnds()
        began = time.perf_counter()
        work(images, labels, batch_size=BATCH, callbacks=[ends], verbose=0)
        first = time.perf_counter() - began  # traces
        for _ in range(TURNS):
            work(images, labels, batch_size=BATCH, callbacks=[ends], verbose=0)
        seconds[name] = statistics.median(ends.seconds)
        seconds["trace"] += max(0.0, first - len(labels) / BATCH * seconds[name])
    return seconds


class BatchEnds(keras.callbacks.Callback):
    """Seconds from the end of a batch to the end of the next: what begins and ends a call is no part of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._last = 0.0

    def _ended(self, batch: int) -> None:
        now = time.perf_counter()
        if batch:
            self.seconds.append(now - self._last)
        self._last = now

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended(batch)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._ended(batch)


def bare_of(plain: Plain, point: str, steps: int) -> dict[str, float]:
    """Seconds a batch without any input work: `whole_step`, `suffix_step`, `forward`, `prefix` and `suffix`."""
    base = plain.build()
    images = keras.ops.convert_to_tensor(plain.train[0][:BATCH])
    labels = keras.ops.convert_to_tensor(plain.train[1][:BATCH])
    thaw(base, point)
    inputs = keras.Input(base.input_shape[1:])
    ready = plain.preprocess(inputs)
    head = head_of(plain)
    whole = keras.Model(inputs, head(pooling_of(base(ready, training=False))))
    models: dict[str, tuple[keras.Model, Any]] = {"whole": (whole, images), "suffix": (whole, images)}
    if point == NOTHING:
        del models["suffix"]
    elif point != EVERYTHING:
        at = base.get_layer(point).output
        prefix = keras.Model(inputs, keras.Model(base.input, at)(ready, training=False))
        entry = keras.Input(at.shape[1:])
        suffix = keras.Model(entry, head(pooling_of(keras.Model(at, base.output)(entry, training=False))))
        models |= {"prefix": (prefix, images), "suffix": (suffix, prefix(images, training=False))}
    works: dict[str, Callable[[], Any]] = {}
    for name, (model, batch) in models.items():
        forward = tf.function(functools.partial(model, training=False))
        works["forward" if name == "whole" else name] = functools.partial(forward, batch)
        if name != "prefix" and point != NOTHING:
            compile_for(model, FINETUNE_RATES[0], plain, plain.finetune_epochs)
            works[f"{name}_step"] = functools.partial(model.train_on_batch, batch, labels)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in (*works.values(), *works.values()):
        work()  # traced, and warm
    # In turns: what else the machine does meets all alike.
    for _ in range(steps):
        for name, work in works.items():
            started = time.perf_counter()
            np.asarray(work())
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def score_of(plain: Plain, values: dict[str, Any], seed: int) -> float:
    """What a trial scores, with what is frozen computed once for all trials."""
    keras.utils.set_random_seed(seed)
    base, point = plain.build(), values[POINT]
    base.trainable = False
    pooled = outputs_at(plain, NOTHING)
    head = head_of(plain)
    compile_for(head, values[HEAD], plain, plain.head_epochs)
    options = {"batch_size": BATCH, "verbose": 0}
    first = head.fit(*pooled[0], epochs=plain.head_epochs, validation_data=pooled[1], **options)
    best = max(first.history["val_accuracy"])
    if point == NOTHING:
        return best
    thaw(base, point)
    if point == EVERYTHING:
        sides = (plain.train, plain.validation)
        inputs = keras.Input(base.input_shape[1:])
        suffix = keras.Model(inputs, head(pooling_of(base(plain.preprocess(inputs), training=False))))
    else:
        sides = outputs_at(plain, point)
        at = base.get_layer(point).output
        entry = keras.Input(at.shape[1:])
        above = keras.Model(at, base.output)
        suffix = keras.Model(entry, head(pooling_of(above(entry, training=False))))
    compile_for(suffix, values[FINETUNE], plain, plain.finetune_epochs)
    second = suffix.fit(*sides[0], epochs=plain.finetune_epochs, validation_data=sides[1], **options)
    return max(best, *second.history["val_accuracy"])


@functools.cache
def outputs_at(plain: Plain, point: str) -> tuple[Arrays, Arrays]:
    """What the frozen backbone says at a point, or its pooled features for `NOTHING`, of training and validation."""
    base = plain.build()
    inputs = keras.Input(base.input_shape[1:])
    at = base.output if point == NOTHING else base.get_layer(point).output
    output = keras.Model(base.input, at)(plain.preprocess(inputs), training=False)
    model = keras.Model(inputs, pooling_of(output) if point == NOTHING else output)
    train, validation = (
        (model.predict(images, batch_size=BATCH, verbose=0), labels)
        for images, labels in (plain.train, plain.validation)
    )
    return train, validation
