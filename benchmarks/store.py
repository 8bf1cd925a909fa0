"""The store: time to open 100,000 rows, and forward passes where a set grows, is folded, thinned or copied.

python benchmarks/store.py --rows 100000 --images 1000 --views 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from kerastl.data.examples import Split
from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits
from kerastl.features.extract import extract
from kerastl.jobs.open import open_splits
from kerastl.model.precision import precision_of
from kerastl.model.pretrained import load_backbone
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.store.array import ArrayKey, digests
from kerastl.store.store import Part, Store
from kerastl.store.store_folder import Folder
from kerastl.training.start import frozen_part, reads_of, wanted_features

WIDTH, CLASSES, SIZE = 256, 4, 32


def open_rows(count: int, folder: Path) -> dict[str, float]:
    """Seconds to fill a store with rows of 1 KB, to open all of them again, and to read 32 scattered ones."""
    key = ArrayKey("pooled", {}, (WIDTH,), "float32")
    keys = digests([str(number).encode() for number in range(count)])

    def compute(positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        for start in range(0, len(positions), 256):
            part = positions[start : start + 256]
            yield Part(part, {name: np.zeros((len(part), WIDTH), np.float32) for name in outputs})

    seconds = {}
    for what in ("fill", "open"):
        with Store(Folder(folder, 10**12)) as store:
            began = time.perf_counter()
            rows = store.open([key], keys, compute)["pooled"]
            seconds[what] = time.perf_counter() - began
            assert rows is not None
            scattered = np.random.default_rng(0).integers(0, count, (1000, 32))
            began = time.perf_counter()
            for positions in scattered:
                rows[positions]
            seconds["read 32"] = (time.perf_counter() - began) / len(scattered)
    return seconds


def write_images(folder: Path, numbers: range) -> None:
    """Images of noise, each of its number."""
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        path = folder / f"class-{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def passes(data: Path, store: Path, views: int, indices: np.ndarray | None = None) -> int:
    """Forward passes for all images of a folder, or some of them, as one training split."""
    flags = {
        "data.source": str(data), "backbone.name": "mobilenet_025", "backbone.image_size": SIZE, "cache.directory": str(store),
        "augment.views": views, "augment.level": "light", "finetune_phase.unfreeze_from": "conv_pw_11_relu",
    }  # fmt: skip
    recipe, splits = open_splits(load_recipe(flags=flags))
    examples = splits.train.examples
    chosen = np.arange(len(examples)) if indices is None else indices
    splits = dataclasses.replace(splits, train=Split("train", examples, chosen))
    with (
        tempfile.TemporaryDirectory() as scratch,
        Cache(recipe.cache, Path(scratch)) as cache,
        precision_of(recipe),
    ):
        prepared = decode_splits(recipe, splits, cache, Progress(), ("train",))
        backbone = load_backbone(recipe)[0]
        frozen = frozen_part(backbone, recipe, CLASSES)
        wanted = wanted_features(recipe, reads_of(backbone, recipe))
        extract(frozen, [prepared.frozen_views("train")], cache, wanted)
        return frozen.forward_passes


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--views", type=int, default=2)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, store = Path(folder), Path(folder) / "store"
        seconds = open_rows(words.rows, place / "rows")
        write_images(place / "data", range(words.images))
        every = np.arange(words.images)
        counts = {"first": passes(place / "data", store, words.views)}
        counts["again"] = passes(place / "data", store, words.views)
        write_images(place / "data", range(words.images, words.images + 1))
        counts["one more"] = passes(place / "data", store, words.views)
        counts["fold"] = passes(place / "data", store, words.views, every[every % 5 > 0])
        counts["thinned"] = passes(place / "data", store, words.views, every[::3])
        shutil.copytree(place / "data", place / "copy")
        counts["second set of the same pictures"] = passes(place / "copy", store, words.views)
        print(json.dumps({"seconds": seconds, "forward passes": counts}, indent=2))


if __name__ == "__main__":
    main()
