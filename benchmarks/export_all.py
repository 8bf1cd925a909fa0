"""Every backbone of the registry through export and its check, with random weights; prints one line each.

The head is random, its logits scaled to a spread that tells classes apart, because a random network alone gives every image
the same even probabilities, which agree whatever was exported. `blue for red` shows what the check could have
seen: the largest change of a probability when the channels are swapped. It has to lie far above the bound of 1e-5.
`--kernels 0.9` multiplies the random kernels of convolutions: EfficientNetV2-M and -L as initialised amplify from block to block until
the network in memory does not agree with itself.

    python benchmarks/export_all.py [--backbones ...] [--kernels 0.9]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from kerastl.backbones import backbone_names, get_backbone
from kerastl.export.check import FLOAT32_TOLERANCE, check_export, expected_answers
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import Serving
from kerastl.modality.image import Image as Images
from kerastl.model.build import Network, build_backbone, build_model
from kerastl.recipe import HeadRecipe

IMAGES = 4
SIZE = 96
CLASSES = "abcdefghij"
# Logits of about this spread: a head that is sure of some images and unsure of others.
LOGIT_SPREAD = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=backbone_names(), default=list(backbone_names()))
    parser.add_argument(
        "--kernels", type=float, default=1.0, help="share of the initial kernels of convolutions"
    )
    arguments = parser.parse_args()
    print(f"{'backbone':<24}{'difference':>10}{'blue for red':>14}{'MB':>8}{'seconds':>9}")
    failed = [name for name in arguments.backbones if not passes(name, arguments.kernels)]
    print(f"failed: {', '.join(failed) or 'none'}")


def passes(name: str, kernels: float) -> bool:
    """Export one backbone, ask it in a fresh process, and print what came out."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    spec = get_backbone(name)
    size = max(SIZE, spec.min_image_size)
    network = build_model(build_backbone(spec, Images(size).spec), spec, HeadRecipe(), len(CLASSES))
    for layer in network.backbone.layers if kernels != 1 else ():
        if "Conv" in type(layer).__name__:
            kernel, *bias = layer.get_weights()
            layer.set_weights([kernel * kernels, *bias])
    serving = Serving(tuple(CLASSES), Images(size))
    images = pictures()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        tell_apart(network, expected_answers(network.model, images, serving).inputs["pixels"])
        expected = expected_answers(network.model, images, serving)
        swapped = network.model(expected.inputs["pixels"][..., ::-1].astype(np.float32), training=False)
        power = np.abs(tf.nn.softmax(swapped).numpy() - expected.probabilities).max()
        write_saved_model(network.model, serving, path)
        megabytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        result = check_export(path, expected, serving)
    seconds = time.perf_counter() - started
    print(
        f"{name:<24}{result.largest_difference:>10.1e}{power:>14.1e}{megabytes:>8.1f}{seconds:>9.0f}  "
        f"{'passed' if result.passed else result.problems}",
        flush=True,
    )
    if power < 10 * FLOAT32_TOLERANCE:
        print(f"{name}: the check could not have seen swapped channels", flush=True)
        return False
    return result.passed


def tell_apart(network: Network, pixels: np.ndarray) -> None:
    """Give the network a random last layer whose logits for these images spread as those of a trained one."""
    shape = network.logits.kernel.shape
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    network.logits.set_weights([kernel, np.zeros(shape[-1], np.float32)])
    spread = float(np.std(network.model(pixels.astype(np.float32), training=False)))
    network.logits.set_weights([kernel * (LOGIT_SPREAD / spread), np.zeros(shape[-1], np.float32)])


def pictures() -> list[bytes]:
    """Noise around a colour, of several sizes and formats."""
    made = []
    for index in range(IMAGES):
        generator = np.random.default_rng(index)
        noise = generator.integers(-60, 61, (60 + 40 * index, 80, 3))
        pixels = np.clip(generator.integers(0, 256, 3) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, ("PNG", "JPEG")[index % 2])
        made.append(buffer.getvalue())
    return made


if __name__ == "__main__":
    main()
