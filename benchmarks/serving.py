"""What exporting costs and changes: differences from the model in memory, latency beside the bare network, first answers.

For each backbone, with real weights and a head that tells classes apart: the largest difference of any probability between
the SavedModel, asked in a fresh process through every signature, and the model in memory; the time of
`serving_default` beside decoding and the bare backbone, in one process, one after the other; and the time to load and to
the first and second answer in fresh processes, which take turns: `without_warmup` asks at once, `with_warmup` first replays
the requests of `assets.extra/tf_serving_warmup_requests`, as TensorFlow Serving does before it answers others
(`warmup_seconds`). A version is ready after loading and warm-up; then the first answer's clock begins. Needs
`tensorflow-serving-api`, whose messages the requests are.

    python benchmarks/serving.py --data DIR --weights DIR [--backbones …] [--images 500]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from export_all import tell_apart

from kerastl.backbones import get_backbone
from kerastl.export.check import check_export, expected_answers
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import SERVING_RAW, Serving
from kerastl.export.warmup import write_warmup
from kerastl.modality import only
from kerastl.modality.image import Image as Images
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.model.heads import embedding_model
from kerastl.model.weights import load_weights
from kerastl.recipe import HeadRecipe

CLASSES = 10
BATCHES = (1, 32)

# Both read the requests, before any clock runs, so that they differ in the replay alone.
FIRST_ANSWERS = """
import json, sys, time
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
model, picture, warmup = sys.argv[1:]
image = open(picture, "rb").read()
records = tf.data.TFRecordDataset(model + "/assets.extra/tf_serving_warmup_requests").as_numpy_iterator()
requests = [prediction_log_pb2.PredictionLog.FromString(each).predict_log.request for each in records]
assert requests
times = [time.perf_counter()]
loaded = tf.saved_model.load(model)
signature = loaded.signatures["serving_default"]
times.append(time.perf_counter())
if warmup == "with_warmup":
    for request in requests:
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        loaded.signatures[request.model_spec.signature_name](**inputs)["probabilities"].numpy()
times.append(time.perf_counter())
for _ in range(2):
    signature(image_bytes=tf.constant([image]))["probabilities"].numpy()
    times.append(time.perf_counter())
names = ("load_seconds", "warmup_seconds", "first_answer_seconds", "second_answer_seconds")
print(json.dumps({name: times[i + 1] - times[i] for i, name in enumerate(names)}))
"""
STARTS = ("without_warmup", "with_warmup")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images; all below it are found")
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument(
        "--backbones", nargs="+", default=["resnet50", "vgg16", "inception_v3", "mobilenet_v2"]
    )
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--starts", type=int, default=3, help="fresh processes with warm-up, and as many without"
    )
    arguments = parser.parse_args()
    paths = sorted(arguments.data.rglob("*.png"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, arguments.images).astype(int)]
    images = [path.read_bytes() for path in paths]
    for name in arguments.backbones:
        row = measure(name, arguments, images, paths[0])
        print(json.dumps(row), flush=True)


def measure(name: str, arguments: argparse.Namespace, images: list[bytes], first: Path) -> dict[str, Any]:
    """All figures of one backbone."""
    network = network_of(name, arguments, images)
    serving = Serving(tuple(f"class {index}" for index in range(CLASSES)), Images(arguments.image_size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        write_saved_model(network.model, serving, path)
        expected = expected_answers(network.model, images, serving)
        result = check_export(path, expected, serving)
        row: dict[str, Any] = {
            "backbone": name,
            "images": result.count,
            "largest_difference": result.largest_difference,
            "passed": result.passed,
            "sure": float(np.median(expected.probabilities.max(axis=1))),
        }
        signature = tf.saved_model.load(str(path)).signatures[SERVING_RAW]
        for batch in BATCHES:
            row |= latency(network, signature, serving, images[:batch], arguments.repeats)
        write_warmup(path, name, images, serving.modality.request)
        row |= first_answers(path, first, arguments.starts)
    return row


def first_answers(version: Path, image: Path, starts: int) -> dict[str, dict[str, float]]:
    """Medians over fresh processes of what loading, warm-up and the first two answers take, for each of `STARTS`."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in STARTS}
    for turn in range(starts * len(STARTS)):
        kind = STARTS[turn % len(STARTS)]
        command = [sys.executable, "-c", FIRST_ANSWERS, str(version), str(image), kind]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[kind].append(json.loads(done.stdout))
    return {
        kind: {key: statistics.median(each[key] for each in times) for key in times[0]}
        for kind, times in found.items()
    }


def network_of(name: str, arguments: argparse.Namespace, images: list[bytes]) -> Network:
    """The backbone with a random head on features that are standardised, so that probabilities differ."""
    keras.utils.set_random_seed(0)
    spec = get_backbone(name)
    backbone = build_backbone(spec, Images(arguments.image_size).spec)
    load_weights(backbone, spec, str(arguments.weights / f"{name}_notop.weights.h5"))
    plain = build_model(backbone, spec, HeadRecipe(), CLASSES)
    pixels = [only(Images(arguments.image_size).decode(tf.constant(each))) for each in images[:64]]
    features = embedding_model(plain.model)(tf.cast(tf.stack(pixels), tf.float32)).numpy()
    network = build_model(
        backbone, spec, HeadRecipe(), CLASSES, features.mean(axis=0), features.var(axis=0) + features.var()
    )
    tell_apart(network, np.stack(pixels))
    return network


def latency(
    network: Network, signature: Callable[..., Any], serving: Serving, images: list[bytes], repeats: int
) -> dict[str, Any]:
    """Milliseconds of a request beside those of decoding and the bare network; they take turns."""
    encoded = tf.constant(images)
    spec = {name: tf.TensorSpec(each.shape, each.dtype) for name, each in serving.modality.spec.items()}

    @tf.function
    def bare(data: tf.Tensor) -> tf.Tensor:
        pixels = only(tf.map_fn(serving.modality.decode, data, fn_output_signature=spec))
        return network.model(tf.cast(pixels, tf.float32), training=False)

    sides: dict[str, Callable[[], Any]] = {
        "served": lambda: signature(image_bytes=encoded)["probabilities"].numpy(),
        "bare": lambda: bare(encoded).numpy(),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if turn >= 2:
                times[name].append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(times["served"], times["bare"], strict=True)]
    quarter = max(1, repeats // 4)
    return {
        f"batch{len(images)}_milliseconds": 1000 * statistics.median(times["served"]),
        f"batch{len(images)}_ratio": statistics.median(ratios),
        f"batch{len(images)}_ratio_quartiles": [sorted(ratios)[quarter], sorted(ratios)[-quarter - 1]],
    }


if __name__ == "__main__":
    main()
