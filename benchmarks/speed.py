"""Time from the first image read to the end of the last epoch, beside the loop of Keras' guide and the bare rates.

All in one process and one run, each several times: the bare forward pass and the bare training steps (no input work:
the limit that no implementation beats), the guide's loop with the backbone in every epoch, and kerastl with an
empty store and then with a full one. Epochs that run a network all cost the same, so some batches of the guide's and some
epochs of kerastl's fine-tune phase are timed and scaled to the number asked for; kerastl's head phase runs whole. What
happens once, as tracing, is left out of the guide's time and counted once in ours. Imports are left out on both sides.

`--accuracy` runs all epochs of both instead, and measures both on the test images; the guide's frozen part is
computed once there, which is the same arithmetic, and its time is not looked at.

    python benchmarks/speed.py --data DIR --weights DIR --backbone resnet50 --unfreeze-from conv4_block6_out
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import guide
import keras
import numpy as np

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, image_size=224)
    parser.add_argument("--unfreeze-from", default="conv4_block6_out")
    parser.add_argument("--epochs", type=int, default=10, help="of each phase")
    parser.add_argument(
        "--timed-batches", type=int, default=-1, help="of an epoch of the guide; all of them without it"
    )
    parser.add_argument("--timed-epochs", type=int, default=2, help="of kerastl's fine-tune phase")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "mixed_bfloat16"], default="float32")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speed.jsonl"))
    parser.add_argument(
        "--accuracy", action="store_true", help="compare accuracy on the test images, not time"
    )
    arguments = parser.parse_args()
    if arguments.timed_batches in (0, 1) or arguments.timed_epochs < 2:
        parser.error(
            "--timed-batches and --timed-epochs have to be 2 or more: the first of each is not what it costs"
        )
    keras.config.set_dtype_policy(arguments.precision)
    if arguments.accuracy:
        print(json.dumps(accuracies(arguments)))
        return
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for repeat in range(arguments.repeats):
        row = {"repeat": repeat, **measure(arguments)}
        rows.append(row)
        with arguments.output.open("a") as file:
            file.write(json.dumps({**vars_of(arguments), **row}) + "\n")
        print(json.dumps(row), flush=True)
    print(table(rows, arguments))


def add_arguments(parser: argparse.ArgumentParser, image_size: int) -> None:
    """What is compared on which images."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and test/, one folder a class"
    )
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument("--backbone", choices=sorted(guide.BACKBONES), default="resnet50")
    parser.add_argument("--image-size", type=int, default=image_size)


def vars_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings, without the places of this machine."""
    names = (
        "backbone",
        "unfreeze_from",
        "image_size",
        "epochs",
        "timed_batches",
        "timed_epochs",
        "precision",
    )
    return {name: getattr(arguments, name) for name in names}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of every side, once, in the order bare, guide, kerastl, bare: the machine's speed drifts within minutes, so
    the bare rates are the means of before and after.
    """
    train_count = sum(1 for _ in (arguments.data / "train").rglob("*.png"))
    before = bare_rates(arguments)
    epochs = {"head": arguments.epochs, "finetune": arguments.epochs}
    theirs = guide_seconds(arguments, arguments.unfreeze_from, epochs, arguments.timed_batches)
    ours = our_seconds(arguments)
    bare = {
        name: statistics.harmonic_mean([before[name], rate]) for name, rate in bare_rates(arguments).items()
    }
    passes = train_count * arguments.epochs
    forward = train_count / bare["forward"]
    limit_head = passes / bare["forward"] / forward
    limit_whole = (passes / bare["forward"] + passes / bare["whole_step"]) / (
        forward + passes / bare["suffix_step"]
    )
    return {
        **{f"bare_{name}_images_per_second": value for name, value in bare.items()},
        **{f"bare_{name}_before": value for name, value in before.items()},
        **{f"guide_{name}_seconds": value for name, value in theirs.items()},
        **{f"ours_{name}": value for name, value in ours.items()},
        "head_over_forward": ours["head_seconds"] / forward,
        "head_speedup": theirs["head"] / ours["head_seconds"],
        "head_limit": limit_head,
        "finetune_epoch_speedup": theirs["finetune"] / ours["finetune_seconds"],
        "finetune_limit": bare["suffix_step"] / bare["whole_step"],
        "whole_speedup": (theirs["head"] + theirs["finetune"])
        / (ours["head_seconds"] + ours["finetune_seconds"]),
        "whole_limit": limit_whole,
        "second_head_speedup": ours["head_seconds"] / ours["second_head_seconds"],
    }


def seconds_of(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def bare_rates(arguments: argparse.Namespace) -> dict[str, float]:
    """Images a second without any input work: forward pass, and training steps on the whole and on the suffix."""
    import tensorflow as tf

    size = arguments.image_size
    base, _ = backbone_of(arguments)
    cut = base.get_layer(arguments.unfreeze_from).output
    suffix = keras.Model(cut, base.output)
    below = {id(layer) for layer in keras.Model(base.input, cut).layers}
    for layer in base.layers:
        layer.trainable = id(layer) not in below and not isinstance(layer, keras.layers.BatchNormalization)
    images = np.random.default_rng(0).random((BATCH, size, size, 3), np.float32)
    labels = np.arange(BATCH) % 10
    pooled = keras.Model(base.input, keras.layers.GlobalAveragePooling2D()(base.output))
    forward = tf.function(lambda batch: pooled(batch, training=False))
    activation = keras.Model(base.input, cut).predict(images, verbose=0).astype(np.float32)

    def steps(body: keras.Model, batch: np.ndarray) -> Callable[[], Any]:
        model = keras.Sequential(
            [body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, dtype="float32")]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = tf.data.Dataset.from_tensors((batch, labels)).cache().repeat()
        step = iter(data)
        return lambda: model.train_on_batch(*next(step))

    works = {
        "forward": lambda: forward(images),
        "suffix_step": steps(suffix, activation),
        "whole_step": steps(base, images),
    }
    rates = {}
    for name, work in works.items():
        work()
        work()
        rates[name] = BATCH * 8 / seconds_of(lambda work=work: [work() for _ in range(8)])
    return rates


def weights_of(arguments: argparse.Namespace) -> Path:
    """The backbone's weights file."""
    return arguments.weights / f"{arguments.backbone}_notop.weights.h5"


def backbone_of(arguments: argparse.Namespace) -> tuple[keras.Model, Callable[[Any], Any]]:
    """The backbone as `keras.applications` makes it, and its preprocessing."""
    name, size = guide.BACKBONES[arguments.backbone], arguments.image_size
    base = getattr(keras.applications, name)(
        include_top=False, weights=str(weights_of(arguments)), input_shape=(size, size, 3)
    )
    return base, getattr(keras.applications, guide.PREPROCESSING[name]).preprocess_input


def guide_seconds(
    arguments: argparse.Namespace,
    unfreeze_from: str | None,
    epochs: dict[str, int],
    timed_batches: int = -1,
) -> dict[str, float]:
    """Both phases of the guide's loop, reading from the files in every epoch as the guide does.

    Args:
        arguments: of `add_arguments`.
        unfreeze_from: what lies above it is thawed; everything without it. BatchNorm stays frozen.
        epochs: to scale to, of `head` and `finetune`.
        timed_batches: how many of an epoch's batches are timed; -1 for all.
    """
    size = arguments.image_size
    base, preprocess = backbone_of(arguments)
    inputs = keras.Input((size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base(preprocess(inputs), training=False))
    outputs = keras.layers.Dense(10, dtype="float32")(keras.layers.Dropout(0.2)(pooled))
    model = keras.Model(inputs, outputs)
    data = keras.utils.image_dataset_from_directory(
        arguments.data / "train", image_size=(size, size), batch_size=BATCH, verbose=False
    ).prefetch(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    seconds = {}
    base.trainable = False
    for phase, rate in (("head", 1e-3), ("finetune", 1e-5)):
        if phase == "finetune":
            base.trainable = True
            reached = unfreeze_from is None
            for layer in base.layers:
                layer.trainable = reached and not isinstance(layer, keras.layers.BatchNormalization)
                reached = reached or layer.name == unfreeze_from
        model.compile(keras.optimizers.Adam(rate), loss)
        model.fit(data.take(2), verbose=0)  # traced and warm
        ends = BatchEnds()
        model.fit(data.take(timed_batches), callbacks=[ends], verbose=0)
        seconds[phase] = ends.seconds_a_batch() * len(data) * epochs[phase]
    return seconds


class BatchEnds(keras.callbacks.Callback):
    """When each batch ended: from the first to the last, without what begins and ends an epoch. A pipeline of which a
    part is taken may need many seconds to close, which an epoch as a whole does not have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.times.append(time.perf_counter())

    def seconds_a_batch(self) -> float:
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def our_seconds(arguments: argparse.Namespace) -> dict[str, float]:
    """What kerastl takes on the same images, batch and epochs, without augmentation; then again with another head."""
    with tempfile.TemporaryDirectory() as store:
        first = run_once(arguments, our_flags(arguments, store, [], arguments.timed_epochs))
        second = run_once(arguments, our_flags(arguments, store, [64], 0))
    assert second["forward_passes"] == 0
    return {**first, "second_head_seconds": second["head_seconds"]}


def our_flags(
    arguments: argparse.Namespace, store: str, hidden: list[int], finetune_epochs: int
) -> dict[str, Any]:
    """The recipe: the guide's images, batch, epochs and unfreeze point, without augmentation."""
    return {
        "data.source": str(arguments.data),
        "data.validation_fraction": 0.01,
        "backbone.name": arguments.backbone,
        "backbone.weights": str(weights_of(arguments)),
        "backbone.image_size": arguments.image_size,
        "head.hidden": hidden,
        "head_phase.epochs": arguments.epochs,
        "head_phase.batch_size": BATCH,
        "head_phase.patience_epochs": 0,
        "finetune_phase.epochs": finetune_epochs,
        "finetune_phase.batch_size": BATCH,
        "finetune_phase.unfreeze_from": arguments.unfreeze_from,
        "augment.level": "none",
        "cache.directory": store,
        "cache.mode": "disk",
    }


def run_once(arguments: argparse.Namespace, flags: dict[str, Any]) -> dict[str, float]:
    """Head phase (with decoding and features) and fine-tune phase of one run, in seconds."""
    from kerastl.features.cache import Cache
    from kerastl.features.decoded import decode_splits
    from kerastl.jobs.open import open_splits
    from kerastl.jobs.setup import network_setup
    from kerastl.progress import Progress
    from kerastl.recipe import load_recipe
    from kerastl.training.two_phase import transfer

    recipe, splits = open_splits(load_recipe(None, (), flags))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
        # Neither side reads the test images in this time.
        prepared = decode_splits(recipe, splits, cache, Progress(), ("train", "validation"))
        setup = network_setup(prepared, cache)
        ready = time.perf_counter() - started
        fitted = transfer(setup.network, setup.parts, setup.train, setup.validation, recipe)
        head, *finetune = fitted.phases
    return {
        "head_seconds": ready + head.seconds,
        "ready_seconds": ready,
        "finetune_seconds": sum(whole_phase(phase, arguments.epochs) for phase in finetune),
        "forward_passes": setup.frozen.forward_passes,
    }


def whole_phase(phase: Any, epochs: int) -> float:
    """Seconds of a phase, had it run all epochs; the first one traces, the others cost the same."""
    later = [row["seconds"] for row in phase.history[1:]]
    return phase.seconds + (epochs - len(phase.history)) * statistics.median(later)


def accuracies(arguments: argparse.Namespace) -> dict[str, float]:
    """Test accuracy of both sides after all epochs of both phases."""
    from ours import fit_and_measure

    with tempfile.TemporaryDirectory() as store:
        ours = fit_and_measure(None, (), our_flags(arguments, store, [], arguments.epochs))
    theirs = guide_accuracies(arguments)
    return {
        f"{side}_{name}": result[name]
        for side, result in (("guide", theirs), ("ours", ours))
        for name in ("head_accuracy", "finetune_accuracy")
    }


def guide_accuracies(arguments: argparse.Namespace) -> dict[str, float]:
    """The guide's, with what stays frozen in a phase computed once for it: the same arithmetic."""
    keras.utils.set_random_seed(0)
    size = arguments.image_size
    base, preprocess = backbone_of(arguments)
    inputs, pool = keras.Input((size, size, 3)), keras.layers.GlobalAveragePooling2D()
    cut = base.get_layer(arguments.unfreeze_from).output
    prefix = keras.Model(inputs, keras.Model(base.input, cut)(preprocess(inputs), training=False))
    train, test = (
        (prefix.predict(images, batch_size=BATCH, verbose=0), labels)
        for images, labels in (guide.load_split(arguments.data / split, size) for split in ("train", "test"))
    )
    entry, above = keras.Input(cut.shape[1:]), keras.Model(cut, base.output)
    pooled = keras.Model(entry, pool(above(entry, training=False)))
    head = keras.Sequential(
        [keras.Input(pooled.output_shape[1:]), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
    )
    suffix = keras.Model(entry, head(pooled.output))
    features = [
        (pooled.predict(activations, batch_size=BATCH, verbose=0), labels)
        for activations, labels in (train, test)
    ]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for layer in above.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    found = {}
    for phase, model, data, rate in (
        ("head", head, features, 1e-3),
        ("finetune", suffix, (train, test), 1e-5),
    ):
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        model.fit(*data[0], batch_size=BATCH, epochs=arguments.epochs, verbose=0)
        found[f"{phase}_accuracy"] = float(model.evaluate(*data[1], batch_size=BATCH, verbose=0)[1])
    return found


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Median and range of the ratios."""
    lines = [
        f"{arguments.backbone} at {arguments.image_size}, {arguments.unfreeze_from}, {arguments.precision}"
    ]
    for name in (
        "head_over_forward", "head_speedup", "head_limit", "finetune_epoch_speedup", "finetune_limit",
        "whole_speedup", "whole_limit", "second_head_speedup",
    ):  # fmt: skip
        values = [row[name] for row in rows]
        lines.append(f"{name:<26}{statistics.median(values):8.2f}  ({min(values):.2f} to {max(values):.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
