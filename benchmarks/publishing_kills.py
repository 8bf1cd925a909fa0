"""How often is a version broken that servers can see, when publishers are killed? It must be never.

Each round forks a process that publishes, publishes and prunes, goes back, or prunes, and kills it (SIGKILL) at a moment drawn
evenly from the time that such a process takes when it is left alone. After every kill, and while the process still
runs, all folders whose names are numbers are compared with the digests that were written into them; the newest version
must still be there, and a publication that is left alone must bring a larger number. With `--unsafe` the process builds in the numeric folder itself: the
negative control, which must show broken versions.

    python benchmarks/publishing_kills.py --kills 1000
    python benchmarks/publishing_kills.py --kills 200 --unsafe
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kerastl.errors import UserError
from kerastl.export.compare import CheckResult
from kerastl.export.folders import ABANDONED_SECONDS, published_versions
from kerastl.export.publish import publish
from kerastl.export.versions import prune_versions, roll_back

NAME = "model"
GOOD = CheckResult(largest_difference=0.0, count=1, tolerance=1e-5, signatures=("serving_default",))
FILES = {
    "saved_model.pb": 200_000,
    "variables/variables.index": 2_000,
    "variables/variables.data": 600_000,
    "assets/labels.txt": 50,
}
MOST_VERSIONS = 12


def build(path: Path) -> None:
    """A folder like a small SavedModel, with a digest of each file."""
    sums = {}
    for name, size in FILES.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = random.randbytes(size)
        with file.open("wb", buffering=0) as stream:
            for start in range(0, size, 50_000):
                stream.write(content[start : start + 50_000])
        sums[name] = hashlib.sha256(content).hexdigest()
    (path / "sums.json").write_text(json.dumps(sums))


def is_broken(version: Path) -> bool:
    """Whether a version that is there lacks something. One that is taken away meanwhile is not there."""
    try:
        sums = json.loads((version / "sums.json").read_text())
        broken = any(
            hashlib.sha256((version / name).read_bytes()).hexdigest() != sums[name] for name in FILES
        )
    except (OSError, ValueError):
        broken = True
    return broken and version.exists()


def broken_versions(base: Path) -> list[str]:
    return [str(number) for number in published_versions(base) if is_broken(base / str(number))]


def publish_next(models: Path, keep: int | None = None) -> None:
    publish(build, lambda path: GOOD, models, NAME, {"recipe.toml": "seed = 0\n"}, keep=keep)


def publish_unsafely(models: Path) -> None:
    build(models / NAME / str(max(published_versions(models / NAME), default=0) + 1))


def go_back(models: Path) -> None:
    try:
        roll_back(models, NAME)
    except UserError:  # nothing earlier is left
        publish_next(models)


ACTIONS: dict[str, Callable[[Path], object]] = {
    "publish": publish_next,
    "publish and prune": lambda models: publish_next(models, keep=3),
    "go back": go_back,
    "prune": lambda models: prune_versions(models / NAME, 2),
}


def fork(act: Callable[[Path], object], models: Path) -> int:
    child = os.fork()
    if child == 0:
        random.seed()
        try:
            act(models)
        finally:
            os._exit(0)
    return child


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--unsafe", action="store_true", help="build in the numeric folder: the negative control"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0, help="stop after this long")
    options = parser.parse_args()
    draw, started = random.Random(options.seed), time.perf_counter()
    actions = {"publish": publish_unsafely} if options.unsafe else ACTIONS
    lasts: dict[str, collections.deque[float]] = {name: collections.deque(maxlen=20) for name in actions}
    counts: collections.Counter[str] = collections.Counter()
    looks = 0
    with tempfile.TemporaryDirectory(prefix="kerastl-kills-") as folder:
        models, base = Path(folder), Path(folder) / NAME
        publish_next(models)
        while counts["killed"] < options.kills and time.perf_counter() - started < options.minutes * 60:
            name = draw.choice(list(actions))
            alone = (
                len(lasts[name]) < 5 or draw.random() < 0.05
            )  # the time that it takes is measured as we go
            limit = 60.0 if alone else draw.uniform(0.0, 1.1) * statistics.median(lasts[name])
            newest, begun = published_versions(base)[-1], time.perf_counter()
            child, ended = fork(actions[name], models), False
            while not ended and (left := limit - (time.perf_counter() - begun)) > 0:
                time.sleep(min(left, 0.002))
                ended = os.waitpid(child, os.WNOHANG)[0] != 0
                if draw.random() < 0.05 and not options.unsafe:  # looking takes longer than some actions do
                    looks += 1
                    counts["broken while it ran"] += len(broken_versions(base))
            if ended and alone:
                lasts[name].append(time.perf_counter() - begun)
            if not ended:
                os.kill(child, signal.SIGKILL)
                counts["killed" if os.waitpid(child, 0)[1] == signal.SIGKILL else "ended"] += 1
            found = broken_versions(base)
            looks += 1
            counts["broken after a kill"] += len(found)
            for number in found:
                shutil.rmtree(base / number)
            counts["newest gone"] += not options.unsafe and not (base / str(newest)).exists()
            if counts["killed"] % 10 == 9 or len(published_versions(base)) > MOST_VERSIONS:
                for left_behind in base.glob(".tmp-*"):
                    counts["leftovers of dead writers"] += 1
                    os.utime(left_behind, (time.time() - 2 * ABANDONED_SECONDS,) * 2)
                seen = max(published_versions(base), default=0)
                publish_next(models, keep=4)
                counts["next publication failed"] += max(published_versions(base)) <= seen
                counts["leftovers that stayed"] += sum(not child.name.isdigit() for child in base.iterdir())
    print(
        f"{counts['killed']} kills in {time.perf_counter() - started:.0f} s, {looks} looks at all visible versions"
    )
    wrong = (
        "broken after a kill",
        "broken while it ran",
        "newest gone",
        "next publication failed",
        "leftovers that stayed",
    )
    for what in ("leftovers of dead writers", *wrong):
        print(f"  {what}: {counts[what]}")
    bad = sum(counts[what] for what in wrong)
    raise SystemExit((bad == 0) if options.unsafe else (bad != 0))


if __name__ == "__main__":
    main()
