"""Indexing and splitting a manifest of many rows: seconds and peak memory of a process that does nothing else.

python benchmarks/manifest.py --rows 1000000 --repeats 3
python benchmarks/manifest.py --rows 1000000 --beside CHECKOUT    # the same by the package of another checkout, in turn
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from memory import write_images

HERE = Path(__file__).parents[1]
# In a process of its own, so that its peak is that of the index; the second call finds the files' states in memory.
WORK = """
import json, sys, time
from pathlib import Path
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.recipe.schema import DataRecipe

def peak():
    # in MB; not by getrusage, whose largest value a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

data, imports = DataRecipe(source=sys.argv[1]), peak()
started = time.perf_counter()
splits = make_splits(open_examples(data), data)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak": peak(), "imports": imports, "train": splits.train.count}))
"""


def indexed(manifest: Path, package: Path) -> dict[str, float]:
    """Seconds and megabytes of one process with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", WORK, manifest],
        env=environment,
        cwd=package,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="root of another checkout")
    arguments = parser.parse_args()
    packages = [HERE, *([arguments.beside.resolve()] if arguments.beside else [])]
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_images(Path(folder), arguments.rows, 8)
        indexed(manifest, HERE)  # the state of a million files has to be read from the disk once
        rows = [[indexed(manifest, package) for package in packages] for _ in range(arguments.repeats)]
    for package, measured in zip(packages, zip(*rows, strict=True), strict=True):
        seconds = [row["seconds"] for row in measured]
        peaks = [row["peak"] for row in measured]
        print(
            f"{package.name}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
            f"{statistics.median(peaks):.0f} MB ({measured[0]['imports']:.0f} MB of them imports), "
            f"{measured[0]['train']:,.0f} training rows"
        )


if __name__ == "__main__":
    main()
