"""Reading large photographs: kerastl's decoding beside `image_dataset_from_directory` and libjpeg-turbo alone.

Twelve-megapixel JPEGs with structure at all scales are made, and read to the same output size by kerastl
(`decode_in_chunks`: scaled decoding, EXIF, antialiased resize), by Keras' loader, and by Pillow (libjpeg-turbo) in two
ways: the whole image, and with its own scaled decoding (`draft`), both followed by Pillow's resize in as many threads as there
are cores. Sides take turns; printed are medians with their range.

    python benchmarks/photographs.py --images 48 --repeats 5
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 3000, 4000


def write_photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs of about four megabytes, two class folders."""
    from PIL import Image

    generator = np.random.default_rng(0)
    paths: list[Path] = []
    encoded: list[bytes] = []
    for number in range(count):
        if number < 4:  # four different ones, again and again
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
            for side in (6, 24, 96, 384, 1536):
                shape = (side * 3 // 4, side)
                layer = [
                    Image.fromarray(generator.normal(0, 1, shape).astype(np.float32)).resize(
                        (WIDTH, HEIGHT), 3
                    )
                    for _ in range(3)
                ]
                pixels += np.stack([np.asarray(plane) for plane in layer], -1) * (60 / side**0.3)
            picture = Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=92)
            encoded.append(buffer.getvalue())
        path = folder / f"class-{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[number % len(encoded)])
        paths.append(path)
    return paths


def with_kerastl(folder: Path, paths: list[Path], size: int) -> None:
    """Decode all of them as `kerastl fit` does."""
    from kerastl.data.folder import open_folder
    from kerastl.modality.image import Image as Photograph
    from kerastl.modality.read import decode_in_chunks

    examples = open_folder(folder)
    parts = [1024] * (len(paths) // 1024) + [len(paths) % 1024]
    for part in decode_in_chunks(Photograph(size), examples.raw(np.arange(len(paths))), parts):
        assert not part.reasons


def with_keras(folder: Path, paths: list[Path], size: int) -> None:
    """Read all of them as Keras' guide does."""
    import keras

    data = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=32, shuffle=False, verbose=False
    )
    assert sum(len(batch) for batch, _ in data.prefetch(2)) == len(paths)


def with_pillow(folder: Path, paths: list[Path], size: int, draft: bool) -> None:
    """Libjpeg-turbo by Pillow, in all cores."""
    from PIL import Image

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            if draft:
                picture.draft("RGB", (2 * size, 2 * size))
            return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert sum(1 for _ in pool.map(read, paths)) == len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    sides: dict[str, Callable[[Path, list[Path], int], None]] = {
        "kerastl": with_kerastl,
        "image_dataset_from_directory": with_keras,
        "Pillow, whole image": lambda *words: with_pillow(*words, draft=False),
        "Pillow, scaled decoding": lambda *words: with_pillow(*words, draft=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), arguments.images)
        for side in sides.values():
            side(Path(folder), paths, arguments.image_size)  # files in the page cache, functions traced
        for _ in range(arguments.repeats):
            for name, side in sides.items():
                started = time.perf_counter()
                side(Path(folder), paths, arguments.image_size)
                rates[name].append(len(paths) / (time.perf_counter() - started))
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["kerastl"], values, strict=True)]
        print(
            f"{name:<32}{statistics.median(values):7.1f} images/s ({min(values):.1f} to {max(values):.1f})   "
            f"kerastl is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
