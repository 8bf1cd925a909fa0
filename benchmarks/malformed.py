"""Requests that no server should answer, over REST and gRPC, at an exported network behind the stand-in for TensorFlow Serving.

Prints how many were answered with which code, how many answers had to name the position of an image and did, and whether a
good request afterwards still got its answer. Each seed makes 200 requests a protocol. `--control` sends good ones in
their place: each has to be counted as a problem.

    python benchmarks/malformed.py [--seeds 5] [--control]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from kerastl.backbones import get_backbone
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import Serving
from kerastl.modality.image import Image as Images
from kerastl.model.build import build_backbone, build_model
from kerastl.recipe import HeadRecipe

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from malformed import asker, problem_of, requests_of
from served import stand_in

SIZE = 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    spec = get_backbone(arguments.backbone)
    network = build_model(build_backbone(spec, Images(SIZE).spec), spec, HeadRecipe(), 10)
    good = noise()
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(
            network.model, Serving(tuple("abcdefghij"), Images(SIZE)), Path(folder) / "flowers" / "1"
        )
        with stand_in({"flowers": Path(folder) / "flowers"}) as running:
            for way in ("rest", "grpc"):
                codes: Counter[int | str] = Counter()
                named, problems = 0, []
                with asker(running, way) as ask:
                    _, sound = requests_of(way, good)
                    before = ask(sound.request)
                    for seed in range(arguments.seeds):
                        for each in requests_of(way, good, seed)[0]:
                            if arguments.control:
                                each = dataclasses.replace(each, request=sound.request)
                            code, message, _ = ask(each.request)
                            codes[code] += 1
                            problem = problem_of(each, code, message)
                            problems += [problem] if problem else []
                            named += each.position is not None and not problem
                    goes_on = bool(before[2]) and ask(sound.request) == before
                print(
                    f"{way}: {codes.total():,} requests; "
                    + ", ".join(f"{code}: {n:,}" for code, n in codes.items())
                )
                print(f"  positions named: {named:,}; problems: {len(problems):,}; still answers: {goes_on}")
                for problem in problems[:3]:
                    print(f"  {problem}")


def noise() -> bytes:
    """A JPEG of 24 pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(4).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
