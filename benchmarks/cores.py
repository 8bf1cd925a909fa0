"""Decoding, augmentation and feeding with one core, two, and so on up to all of them.

Each count has processes of its own, which may run on so many cores and no others (`os.sched_setaffinity`): TensorFlow and kerastl take a
thread for each core that they may use. Counts take turns in every round; printed are medians with their range, and the gain over one
core. Decoded are JPEGs of 640 x 480 to 224 pixels, augmented are such images at the level `light`, in batches as the frozen part takes
them; fed are batches of activations (14 x 14 x 1,024) that lie in a file in sixteen bits. The control is a thread a core that takes digests of
four megabytes: what that gains is what the machine has left, on which other work may run.

    python benchmarks/cores.py
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SIZE, BATCH, CLASSES = 224, 32, 10
COUNTS = {"control": 128, "decoding": 512, "augmentation": 256, "feeding": 2048}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cores", nargs="+", type=int, help="counts; powers of two and all of them without it"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: words.one])
        print(json.dumps(rates()))
        return
    every = len(os.sched_getaffinity(0))
    powers = itertools.takewhile(lambda count: count < every, (2**power for power in range(16)))
    counts = words.cores or [*powers, every]
    found: dict[int, dict[str, list[float]]] = {count: {name: [] for name in COUNTS} for count in counts}
    for _ in range(words.rounds):
        for count in counts:
            command = [sys.executable, __file__, "--one", str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            for name, rate in json.loads(done.stdout.splitlines()[-1]).items():
                found[count][name].append(rate)
    print("| cores | " + " | ".join(COUNTS) + " |\n" + "| --- " * (1 + len(COUNTS)) + "|")
    for count, each in found.items():
        cells = []
        for name, values in each.items():
            times = statistics.median(values) / statistics.median(found[counts[0]][name])
            cells.append(
                f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f}), {times:.2f}"
            )
        print(f"| {count} | " + " | ".join(cells) + " |")


def rates() -> dict[str, float]:
    """Examples a second of each, with the cores of this process; each is warm when its time begins."""
    return {
        "control": control(),
        "decoding": decoding(),
        "augmentation": augmentation(),
        "feeding": feeding(),
    }


def rate(count: int, work: Callable[[], None]) -> float:
    """Examples a second."""
    work()
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def control() -> float:
    """Digests in threads, which share nothing."""
    from kerastl.pipeline import usable_cores

    data, count = bytes(1 << 22), COUNTS["control"]

    def work() -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(lambda _: hashlib.sha256(data).digest(), range(count)))

    return rate(count, work)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Clouds, uint8 [count, height, width, 3]: noise that was enlarged, as photographs have few fine details."""
    from PIL import Image

    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height), 3)) for each in small])


def decoding() -> float:
    """JPEGs in memory to decoded images."""
    from PIL import Image

    from kerastl.modality.image import Image as Photograph
    from kerastl.modality.read import decode_in_chunks

    encoded = []
    for each in pictures(8, 480, 640):
        buffer = io.BytesIO()
        Image.fromarray(each).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    count = COUNTS["decoding"]
    raw = [encoded[number % len(encoded)] for number in range(count)]

    def work() -> None:
        for part in decode_in_chunks(Photograph(SIZE), raw, [BATCH] * (count // BATCH)):
            assert not part.reasons

    return rate(count, work)


def augmentation() -> float:
    """Decoded images to one view of them, as `extract` asks for it: batch by batch."""
    count = COUNTS["augmentation"]
    views = views_of(count, pictures(8, SIZE, SIZE))
    batches = np.split(np.arange(count), count // BATCH)
    return rate(count, lambda: deque(views.in_turn(batches, 1), 0).clear())


def feeding() -> float:
    """Activations in a file to the batches that a step takes."""
    import keras

    from kerastl.features.readers import Features
    from kerastl.recipe import load_recipe, resolve
    from kerastl.training.batches import PhaseData, batches

    count = COUNTS["feeding"]
    flags = {"backbone.name": "resnet50", "finetune_phase.batch_size": BATCH, "finetune_phase.epochs": 1}
    settings = resolve(load_recipe(flags=flags), count, CLASSES).finetune_phase
    views = views_of(count, np.zeros((1, 8, 8, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations"
        rows = np.memmap(path, np.float16, "w+", shape=(count, 14, 14, 1024))
        rows[:] = 1
        features = Features(views, 1, lambda positions, view: rows[positions])

        def work() -> None:
            data = PhaseData(features, features.pooled_batch, features, features.pooled_batch)
            for _ in batches(data, settings, count // BATCH, 0, keras.Input((14, 14, 1024))):
                pass

        return rate(count, work)


class Few:
    """A few images, again and again."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __getitem__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {"pixels": self._pixels[positions % len(self._pixels)]}


def views_of(count: int, pixels: np.ndarray) -> Any:
    """A training split of so many images."""
    from kerastl.features.views import Views
    from kerastl.modality.image import Image
    from kerastl.recipe import load_recipe, resolve

    flags = {"augment.level": "light", "augment.views": 2}
    augment = resolve(load_recipe(flags=flags), count, CLASSES).augment
    ids = np.array([f"image-{number}" for number in range(count)], object)
    return Views(Few(pixels), Image(SIZE), np.arange(count) % CLASSES, CLASSES, ids, augment)


if __name__ == "__main__":
    main()
