"""Speed of both phases on texts beside plain Keras loops on the same encoder, and what the store takes of texts of different lengths.

The plain loop has its texts cut into pieces beforehand, fills each batch up to its longest text, and runs the whole encoder in
every step: with all of it frozen as in a head phase, and thawed above a layer as in a fine-tune phase. kerastl's side begins with raw
texts. Rates without any input work give the limit of what a cut can save.

    python benchmarks/text_speed.py reviews.json --weights minilm_l6 --sentences wikigold.conll
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from speed import seconds_of
from texts import Part, drawn

import kerastl
from kerastl.data.conll import read_conll
from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits
from kerastl.features.extract import array_keys, row_keys
from kerastl.jobs.open import open_splits
from kerastl.jobs.setup import network_setup
from kerastl.model.graph import cut_points
from kerastl.model.pretrained import load_backbone
from kerastl.model.steps import mean_of_steps
from kerastl.progress import Progress
from kerastl.training.start import reads_of, wanted_features
from kerastl.training.two_phase import transfer

BATCH, LAYER = 32, "layer_4"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--weights", required=True, help="Hugging Face folder of the backbone")
    parser.add_argument("--backbone", default="minilm_l6")
    parser.add_argument(
        "--sentences", type=Path, help="file of words and tags, of which stored sizes are shown"
    )
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timed-batches", type=int, default=8)
    asked = parser.parse_args()
    if asked.sentences:
        print(stored_sizes(asked), flush=True)
    found = [speeds(asked) for _ in range(asked.repeats)]
    for name in found[0]:
        values = [each[name] for each in found]
        print(f"{name:<40}{statistics.median(values):9.3f}  ({min(values):.3f} to {max(values):.3f})")


def flags_of(asked: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The recipe's keys that both parts share."""
    return {"backbone.name": asked.backbone, "backbone.weights": asked.weights, **more}


def speeds(asked: argparse.Namespace) -> dict[str, float]:
    """Seconds of an epoch of each side, and their ratios."""
    train, test = drawn(asked.reviews, asked.texts, 100, draw=0)
    with tempfile.TemporaryDirectory() as store:
        flags = flags_of(
            asked,
            **{
                "data.modality": "text", "data.validation_fraction": 0.01, "cache.directory": store, "cache.mode": "disk",
                "head_phase.epochs": 3, "head_phase.batch_size": BATCH, "head_phase.patience_epochs": 0,
                "finetune_phase.epochs": 3, "finetune_phase.batch_size": BATCH, "finetune_phase.patience_epochs": 0,
                "finetune_phase.unfreeze_from": LAYER,
            },
        )  # fmt: skip
        first = ours(flags, train, test)
        second = ours({**flags, "finetune_phase.epochs": 0, "head.dropout": 0.1}, train, test)
        assert second["forward_passes"] == 0
    plain = plain_loops(flags, train, test, asked.timed_batches)
    return {
        **{f"kerastl: {name}": value for name, value in first.items()},
        **{
            f"kerastl: second head, {name}": value for name, value in second.items() if "finetune" not in name
        },
        **{f"plain: {name}": value for name, value in plain.items()},
        "plain / ours, epoch of a second head": plain["head epoch"] / second["head epoch"],
        "plain epoch / ours, second head whole": plain["head epoch"] / second["head whole"],
        "plain / ours, epoch of fine-tuning": plain["finetune epoch"] / first["finetune epoch"],
        "its limit": plain["bare whole step"] / plain["bare suffix step"],
    }


def ours(flags: dict[str, Any], train: Part, test: Part) -> dict[str, float]:
    """Seconds of both phases, and of one of their epochs once all is traced."""
    examples = kerastl.from_texts(*train, test=test)
    began = time.perf_counter()
    recipe, splits = open_splits(kerastl.load_recipe(flags=flags), examples=examples)
    with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
        prepared = decode_splits(recipe, splits, cache, Progress(), ("train", "validation"))
        setup = network_setup(prepared, cache)
        ready = time.perf_counter() - began
        fitted = transfer(setup.network, setup.parts, setup.train, setup.validation, setup.recipe)
    epochs = {
        phase.name: statistics.median(row["seconds"] for row in phase.history[1:]) for phase in fitted.phases
    }
    return {
        "head epoch": epochs["head_phase"],
        "head whole": ready + fitted.phases[0].seconds,
        "finetune epoch": epochs.get("finetune_phase", 0.0),
        "forward_passes": setup.frozen.forward_passes,
    }


def plain_loops(flags: dict[str, Any], train: Part, test: Part, timed: int) -> dict[str, float]:
    """Seconds of an epoch of `model.fit` in each phase, and of bare steps on the whole network and on what lies above the cut."""
    recipe, _ = open_splits(kerastl.load_recipe(flags=flags), examples=kerastl.from_texts(*train, test=test))
    backbone, _ = load_backbone(recipe)
    pieces = kerastl.modality.modality_of(recipe).decode_all(
        tf.constant([text.encode() for text in train[0]])
    )
    ids, lengths = pieces["pieces"].numpy(), pieces["length"].numpy()
    labels = (np.array(train[1]) == "pos").astype(np.int32)
    order = np.random.default_rng(0).permutation(len(ids))

    def batches() -> Any:
        for start in range(0, len(ids) - BATCH + 1, BATCH):
            at = order[start : start + BATCH]
            longest = int(lengths[at].max())
            yield {"pieces": ids[at, :longest], "length": lengths[at]}, labels[at]

    signature = (
        {"pieces": tf.TensorSpec((BATCH, None), tf.int32), "length": tf.TensorSpec((BATCH,), tf.int32)},
        tf.TensorSpec((BATCH,), tf.int32),
    )
    data = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)
    count = len(ids) // BATCH

    length = next(each for each in backbone.inputs if each.name.startswith("length"))
    mean = keras.layers.Dropout(0.1)(mean_of_steps(backbone.output, length))
    model = keras.Model(backbone.inputs, keras.layers.Dense(2)(mean))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    point = cut_points(backbone)[LAYER].tensor
    suffix = keras.Model([point, length], model.output)
    above = {id(layer) for layer in suffix.layers}
    found = {}
    for phase in ("head", "finetune"):
        for layer in backbone.layers:
            layer.trainable = phase == "finetune" and id(layer) in above
        model.compile(keras.optimizers.AdamW(1e-4), loss)
        model.fit(data.take(2), verbose=0)
        found[f"{phase} epoch"] = seconds_of(lambda: model.fit(data.take(timed), verbose=0)) / timed * count
    inputs = next(batches())
    prefix = keras.Model(backbone.inputs, point)
    activation = prefix.predict_on_batch(inputs[0])
    found["bare whole step"] = bare_step(
        model, [inputs[0][each.name.split(":")[0]] for each in model.inputs], inputs[1]
    )
    suffix.compile(keras.optimizers.AdamW(1e-4), loss)
    found["bare suffix step"] = bare_step(suffix, [activation, inputs[0]["length"]], inputs[1])
    return found


def bare_step(model: keras.Model, inputs: list[np.ndarray], labels: np.ndarray) -> float:
    """Seconds of a training step on one batch over and over."""
    model.train_on_batch(inputs, labels)
    return statistics.median(seconds_of(lambda: model.train_on_batch(inputs, labels)) for _ in range(6))


def stored_sizes(asked: argparse.Namespace) -> str:
    """Bytes on the disk beside those that were foreseen, and beside those of rows that are all as long as the longest."""
    pairs = [
        (each.text, [(span.start, span.end, span.label) for span in each.spans])
        for each in read_conll(asked.sentences).documents
    ]
    lines = []
    with tempfile.TemporaryDirectory() as store:
        flags = flags_of(
            asked,
            **{"data.task": "entities", "cache.directory": store, "finetune_phase.unfreeze_from": LAYER},
        )
        examples = kerastl.from_entities(pairs)
        recipe, splits = open_splits(kerastl.load_recipe(flags=flags), examples=examples)
        with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
            prepared = decode_splits(recipe, splits, cache, Progress(), ("train", "validation"))
            setup = network_setup(prepared, cache)
            views = [prepared.frozen_views(name) for name in ("train", "validation")]
            wanted = wanted_features(recipe, reads_of(setup.network.backbone, recipe))
            rows = len(np.unique(row_keys(views), axis=0))
            for key in array_keys(setup.frozen, views, cache, wanted):
                taken = sum(path.stat().st_size for path in (Path(store) / key.name).iterdir())
                longest = max(
                    int(each.views.inputs[np.arange(each.views.count)]["length"].max()) for each in views
                )
                steps = longest if key.ragged else 1
                filled = rows * steps * key.row_bytes / (key.mean_length if key.ragged else 1)
                lines.append(
                    f"{key.output}: {taken / 1e6:.1f} MB, foreseen {rows * key.row_bytes / 1e6:.1f} MB ({taken / (rows * key.row_bytes):.3f}), "
                    f"filled up to {longest} pieces {filled / 1e6:.1f} MB ({taken / filled:.2f})"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
