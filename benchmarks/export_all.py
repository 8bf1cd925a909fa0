"""Every backbone of the registry through export and its check, with random weights; prints one line each.

python benchmarks/export_all.py [--backbones …]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from kerastl.backbones import backbone_names, get_backbone
from kerastl.export.parity import check_parity, expected_answers
from kerastl.export.serving import Serving
from kerastl.export.signatures import write_saved_model
from kerastl.model.build import build_backbone, build_model
from kerastl.recipe import HeadRecipe

IMAGES = 4
SIZE = 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=backbone_names(), default=list(backbone_names()))
    failed = [name for name in parser.parse_args().backbones if not passes(name)]
    print(f"failed: {', '.join(failed) or 'none'}")


def passes(name: str) -> bool:
    """Export one backbone, ask it in a fresh process, and print what came out."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    spec = get_backbone(name)
    size = max(SIZE, spec.min_image_size)
    network = build_model(build_backbone(spec, size), spec, HeadRecipe(), 10)
    kernel = np.random.default_rng(0).normal(size=network.logits.kernel.shape)
    network.logits.set_weights([kernel.astype(np.float32), np.zeros(10, np.float32)])
    serving = Serving(tuple("abcdefghij"), size)
    images = pictures()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        write_saved_model(network.model, serving, path)
        result = check_parity(path, images, expected_answers(network.model, images, serving), serving)
    seconds = time.perf_counter() - started
    print(
        f"{name:<24}{result.largest_difference:.1e}  {'passed' if result.passed else result.problems}  {seconds:.0f} s",
        flush=True,
    )
    return result.passed


def pictures() -> list[bytes]:
    """Noise of several sizes and formats."""
    made = []
    for index in range(IMAGES):
        pixels = np.random.default_rng(index).integers(0, 256, (60 + 40 * index, 80, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, ("PNG", "JPEG")[index % 2])
        made.append(buffer.getvalue())
    return made


if __name__ == "__main__":
    main()
