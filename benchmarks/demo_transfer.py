"""Do the shipped weights transfer? The demo with them beside the same demo from random weights.

All sides are the shipped recipe `digits`, run over several seeds: with all training images, and with ten of
each class. From random weights it is run twice: as they are initialised, and with BatchNorm statistics of digits
(`settle`), without which a random network cannot learn. The seed decides which images are taken and in which order, the
random weights, and the head's dropout.

    python benchmarks/demo_transfer.py [--seeds 0 1 2 3 4] [--per-class 10]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from accuracy import spread
from ours import fit_and_measure

from kerastl.backbones import BackboneSpec, get_backbone
from kerastl.jobs.open import open_splits
from kerastl.modality.image import Image
from kerastl.modality.read import decode_in_chunks
from kerastl.model.applications import preprocess
from kerastl.model.build import build_backbone
from kerastl.recipe import load_recipe

SIDES = ("shipped", "random", "random, statistics of digits")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, help="training images of each class; all without it")
    arguments = parser.parse_args()
    results: dict[str, list[dict]] = {side: [] for side in SIDES}
    for seed in arguments.seeds:
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                flags = {"seed": seed, "data.examples_per_class": arguments.per_class}
                flags["backbone.weights"] = weights_of(side, seed, Path(folder) / "settled.weights.h5")
                results[side].append(fit_and_measure("digits", (), flags))
            print(json.dumps({"side": side, "seed": seed, **results[side][-1]}), flush=True)
    for phase in ("head_accuracy", "finetune_accuracy"):
        for side, rows in results.items():
            print(f"{phase:<20}{side:<36}{spread([100 * row[phase] for row in rows])}")
            pairs = zip(results["shipped"], rows, strict=True)
            gains = [100 * (ours[phase] - control[phase]) for ours, control in pairs]
            if side != "shipped":
                print(f"{phase:<20}{'gain over it':<36}{spread(gains)}")


def weights_of(side: str, seed: int, path: Path) -> str:
    """The recipe's `backbone.weights` of a side; writes to `path` what has to be made first."""
    if side != SIDES[2]:
        return "pretrained" if side == "shipped" else "none"
    keras.utils.set_random_seed(seed)
    recipe, splits = open_splits(load_recipe("digits"))
    spec = get_backbone(recipe.backbone.name or "")
    backbone = build_backbone(spec, Image(recipe.backbone.image_size or spec.image_size).spec)
    size = backbone.input_shape[1]
    train, modality = splits.train, Image(size, recipe.data.resize)
    (part,) = decode_in_chunks(modality, train.raw(np.arange(train.count)), [train.count])
    settle(backbone, spec, part.inputs["pixels"])
    backbone.save_weights(path)
    return str(path)


def settle(backbone: keras.Model, spec: BackboneSpec, pixels: np.ndarray) -> None:
    """Set the moving statistics of every BatchNorm layer to those of one batch.

    As initialised they let the signal of a random MobileNet fade: its features are of 1e-18, the head standardises
    them by that, and neither phase can train, whether BatchNorm trains or not.

    Args:
        backbone: with any weights.
        spec: which one it is.
        pixels: uint8 or float [n, size, size, 3], 0..255.
    """
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    backbone(preprocess(spec, keras.ops.convert_to_tensor(np.array(pixels, np.float32))), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


if __name__ == "__main__":
    main()
