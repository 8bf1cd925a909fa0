"""Peak memory of a whole run at growing numbers of images, and what it has on the disk at once.

Each size is fitted by a process of its own on small PNGs of noise, whose memory is sampled while it runs. Counted is
`RssAnon`, what the process holds for itself; pages of files that are mapped belong to the system, which takes them
back when it needs them, and are shown beside it. On the disk are decoded images, and the features made of them.

    python benchmarks/memory.py --counts 1000 10000 100000
    python benchmarks/memory.py --counts 10000 --views 1 --cache off
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from kerastl.store.block import BLOCK

SAMPLE_SECONDS = 0.1
CLASSES = 4


def write_images(folder: Path, count: int, size: int) -> Path:
    """A manifest of `count` images of noise: a thousand different ones, told apart by bytes after their end."""
    generator = np.random.default_rng(0)
    files = [
        tf.io.encode_png(generator.integers(0, 256, (size, size, 3)).astype(np.uint8)).numpy()
        for _ in range(min(count, 1000))
    ]
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest.csv").open("w") as manifest:
        manifest.write("path,label\n")
        for number in range(count):
            path = folder / "images" / f"{number}.png"
            path.write_bytes(
                files[number % len(files)] + str(number).encode()
            )  # equal files would share their rows
            manifest.write(f"images/{number}.png,{number % CLASSES}\n")
    return folder / "manifest.csv"


def memory_of(process: int) -> tuple[int, int]:
    """Megabytes held by the process for itself, and of mapped files."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return int(values.get("RssAnon", 0)) // 1024, int(values.get("RssFile", 0)) // 1024


def disk_of(*folders: Path) -> tuple[int, int]:
    """Megabytes of decoded images and of features, wherever they lie in some folders."""
    found = [0, 0]
    for path in (path for folder in folders for path in folder.rglob(f"*{BLOCK}")):
        with contextlib.suppress(OSError):
            found[not path.parent.name.startswith("inputs_")] += path.stat().st_size
    return found[0] // 10**6, found[1] // 10**6


def peak_of(
    manifest: Path, store: Path, size: int, finetune: bool, views: int, cache: str
) -> tuple[list[int], float]:
    """Peak megabytes of one fit: its own, of files, of decoded images and of features on the disk; and its seconds."""
    words = [sys.executable, "-m", "kerastl", "fit", "--data", str(manifest), "--backbone", "mobilenet_025"]
    words += ["--image-size", str(size), "--head-epochs", "1", "--finetune-epochs", "1", "--no-export", "-q"]
    words += [
        "--set",
        f"augment.views={views}",
        "--unfreeze-from",
        "conv_pw_11_relu" if finetune else "backbone",
    ]
    words += ["--cache", cache]
    words += ["--runs", str(store / "runs"), "--set", "data.max_unreadable_fraction=0"]
    started = time.perf_counter()
    environment = {**os.environ, "KERASTL_CACHE_DIR": str(store / "cache"), "MALLOC_ARENA_MAX": "2"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    peaks = [0, 0, 0, 0]
    while process.poll() is None:
        # Not the images themselves: to look through a hundred thousand of them ten times a second keeps a processor busy.
        now = (*memory_of(process.pid), *disk_of(store / "cache", store / "runs"))
        peaks = [max(pair) for pair in zip(peaks, now, strict=True)]
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"fit failed with exit code {process.returncode}")
    return peaks, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--head-only", action="store_true", help="leave the fine-tune phase out")
    parser.add_argument("--views", type=int, default=2, help="augment.views")
    parser.add_argument("--cache", default="auto", help="cache.mode")
    arguments = parser.parse_args()
    print(
        f"{'images':>10}{'own MB':>10}{'mapped MB':>12}{'decoded MB':>12}{'features MB':>13}{'seconds':>10}"
    )
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            manifest = write_images(Path(folder) / "data", count, arguments.image_size)
            (own, mapped, decoded, features), seconds = peak_of(
                manifest,
                Path(folder),
                arguments.image_size,
                not arguments.head_only,
                arguments.views,
                arguments.cache,
            )
        print(f"{count:>10,}{own:>10,}{mapped:>12,}{decoded:>12,}{features:>13,}{seconds:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
