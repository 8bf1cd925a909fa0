"""Features beside the bare forward pass, and epochs of fine-tuning beside plain `model.fit`, on whatever device there is.

Images are noise and weights random: neither changes the time. `extract` keeps pooled features and activations on disk, between two
measurements of the bare rate: the same part of the network for the same outputs, on a batch that lies on the device, without reading
what comes out. An epoch of plain Keras is `model.fit` on the whole network with the same layers thawed, the same batch size and the
same precision, from images in memory; with `jit_compile` as Keras chooses it, and without. Both validate on one batch. Sides take turns;
printed are medians with their range, and kerastl's share. Aims on a GPU: 0.9 of the bare rate, and no epoch slower than Keras'.

    python benchmarks/gpu.py                 # ResNet50 at 224
    python benchmarks/gpu.py --tiny          # does it run? Half a minute on two cores; its ratios say nothing
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastl import jobs  # noqa: F401  lets a GPU's memory grow as it is needed
from kerastl.backbones import get_backbone
from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features
from kerastl.features.views import FrozenViews, Views
from kerastl.modality.image import Image
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.cut import Cut, cut
from kerastl.model.device import gpus_here, plan_for
from kerastl.model.head_input import HeadInput
from kerastl.recipe import CacheRecipe, load_recipe, resolve
from kerastl.store.array import digests
from kerastl.training.batches import PhaseData
from kerastl.training.phase import run_phase
from kerastl.training.two_phase import thaw_for_phase

CLASSES = 10
Sides = dict[str, list[float]]


class Noise:
    """Images in memory."""

    def __init__(self, count: int, size: int) -> None:
        shape = (count, size, size, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __getitem__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {"pixels": self.pixels[positions]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--points", nargs="+", default=["conv5_block2_out", "conv4_block6_out", "input"])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128], help="of training")
    parser.add_argument(
        "--epochs", type=int, default=3, help="of each side in a round; the first is not looked at"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "float32", "mixed_bfloat16"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="a small network and few images")
    words = parser.parse_args()
    if words.tiny:
        words.network, words.size, words.points = "mobilenet_025", 64, ["conv_pw_11_relu", "input"]
        words.images, words.batches, words.epochs, words.rounds = 256, [32], 2, 2
    gpus = gpus_here()
    plan = plan_for(gpus)
    precision = plan.precision if words.precision == "auto" else words.precision
    keras.config.set_dtype_policy(precision)
    device = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in gpus) or "no GPU"
    print(
        f"{device}; {words.network} at {words.size}, {words.images} images, {precision}, {plan}", flush=True
    )
    noise = Noise(words.images, words.size)
    for point in words.points:
        measured(noise, point, words)


def measured(noise: Noise, point: str, words: argparse.Namespace) -> None:
    """Rates of the features at a cut, and seconds of an epoch above it."""
    network, views = new_network(words), images(noise, words)
    parts = cut(network, point)
    with tempfile.TemporaryDirectory() as folder:
        frozen = Frozen(parts, network.backbone, "tensorflow")
        sides: Sides = {"bare": [], "extract": []}
        for number in range(words.rounds):
            features = one_round(frozen, views, Path(folder) / str(number), sides)
        report(f"features at {point}", "images/s", sides, "extract", "bare")
        for batch in words.batches:
            epochs: Sides = {}
            for _ in range(words.rounds):
                turn = {"kerastl": our_epochs(network, parts, features, batch, words)}
                turn |= plain_epochs(network, noise, batch, words)
                for name, seconds in turn.items():
                    epochs.setdefault(name, []).append(seconds)
            for name in [each for each in epochs if each != "kerastl"]:
                pair = {each: epochs[each] for each in ("kerastl", name)}
                report(f"epoch above {point}, batches of {batch}", "s", pair, name, "kerastl")


def new_network(words: argparse.Namespace) -> Network:
    """The network with random weights and a fresh head."""
    keras.utils.set_random_seed(0)
    spec = get_backbone(words.network)
    backbone = build_backbone(spec, Image(words.size).spec)
    recipe = load_recipe(flags={"backbone.name": words.network}).head
    return build_model(backbone, spec, recipe, CLASSES)


def images(noise: Noise, words: argparse.Namespace) -> FrozenViews:
    """All of them as a training split that is not augmented."""
    count = len(noise.pixels)
    augment = resolve(load_recipe(flags={"augment.level": "none"}), count, CLASSES).augment
    ids = np.array([f"image-{number}" for number in range(count)], object)
    views = Views(noise, Image(words.size), np.arange(count) % CLASSES, CLASSES, ids, augment)
    contents = digests([each.encode() for each in ids])
    return FrozenViews("train", views, 1, contents, {"image_size": words.size}, {"data": "noise"})


def one_round(frozen: Frozen, views: FrozenViews, folder: Path, sides: Sides) -> Features:
    """The rate of `extract` into an empty store, the bare rate before and after it."""
    wanted = Wanted(HeadInput("avg"), ("pooled", "activation"), finetune_epochs=10)
    outputs = wanted.of(frozen)
    before = bare_rate(frozen, views, outputs)
    cache = Cache(CacheRecipe(mode="disk", directory=str(folder / "store")), folder / "scratch")
    began = time.perf_counter()
    (features,) = extract(frozen, [views], cache, wanted)
    sides["extract"].append(views.views.count / (time.perf_counter() - began))
    sides["bare"].append(statistics.harmonic_mean([before, bare_rate(frozen, views, outputs)]))
    return features


def bare_rate(frozen: Frozen, views: FrozenViews, outputs: tuple[str, ...]) -> float:
    """Images a second of the forward pass alone."""
    import tensorflow as tf

    size = frozen.batch_size
    batch = views.views.batch(np.arange(size) % views.views.count, 0)
    frozen.run(batch, outputs)  # compiled
    engine = frozen._compiled[1]  # type: ignore[index]
    there = {name: tf.convert_to_tensor(each) for name, each in batch.items()}
    rounds = max(2, min(views.views.count // size, 16))
    for timed in (False, True):
        began = time.perf_counter()
        for _ in range(rounds if timed else 1):
            found = engine.start(there)
        [float(tf.reduce_sum(each)) for each in found.values()]  # when all are computed
    return rounds * size / (time.perf_counter() - began)


def our_epochs(
    network: Network, parts: Cut, features: Features, batch: int, words: argparse.Namespace
) -> float:
    """Seconds of an epoch of the fine-tune phase on kept activations."""
    flags = {
        "backbone.name": words.network,
        "finetune_phase.unfreeze_from": parts.unfreeze_point,
        "finetune_phase.batch_size": batch,
        "finetune_phase.epochs": words.epochs,
        "finetune_phase.patience_epochs": 0,
    }
    recipe = resolve(load_recipe(flags=flags), features.count, CLASSES)
    factors = thaw_for_phase(network, parts, recipe.finetune_phase)
    validation = part_of(features, batch)
    data = PhaseData(features, features.activation_batch, validation, validation.activation_batch)
    result = run_phase(
        "finetune_phase", parts.suffix, data, recipe.finetune_phase, seed=0, task=recipe.task, factors=factors
    )
    return statistics.median(row["seconds"] for row in result.history[1:])


def part_of(features: Features, count: int) -> Features:
    """The first ones."""
    views = features.views
    columns = {name: getattr(views, name)[:count] for name in ("classes", "ids")}
    return dataclasses.replace(features, views=dataclasses.replace(views, **columns))


def plain_epochs(network: Network, noise: Noise, batch: int, words: argparse.Namespace) -> dict[str, float]:
    """Seconds of an epoch of `model.fit` on the whole network, with the layers thawed that are thawed now."""
    import tensorflow as tf

    labels = np.arange(len(noise.pixels)) % CLASSES
    whole = tf.data.Dataset.from_tensor_slices((noise.pixels, labels))
    data = whole.shuffle(len(labels)).batch(batch).prefetch(tf.data.AUTOTUNE)
    seconds = {}
    for name, jit in {"Keras": "auto", "Keras, jit_compile=False": False}.items():
        if jit is False and not gpus_here():
            continue  # that is what Keras chooses there
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.model.compile("adam", loss, metrics=["accuracy"], jit_compile=jit)
        ends = EpochSeconds()
        check = (noise.pixels[:batch], labels[:batch])
        network.model.fit(data, epochs=words.epochs, validation_data=check, callbacks=[ends], verbose=0)
        seconds[name] = statistics.median(ends.seconds[1:])
    return seconds


class EpochSeconds(keras.callbacks.Callback):
    """How long each epoch took, with its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def report(what: str, unit: str, sides: Sides, over: str, under: str) -> None:
    """A line with both sides and their ratio, round by round, and the same as JSON."""
    ratios = [one / other for one, other in zip(sides[over], sides[under], strict=True)]
    texts = [f"{name} {spread(values)} {unit}" for name, values in sides.items()]
    print(f"{what}: {', '.join(texts)}; {over} / {under}: {spread(ratios)}")
    print(json.dumps({"what": what, "unit": unit, **sides, "ratios": ratios}), flush=True)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
