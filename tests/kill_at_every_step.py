"""A publisher that is killed at every step. Run as a program, so that it can fork before TensorFlow is there.

    python tests/kill_at_every_step.py FOLDER SCENARIO

Every call of the file system that Python makes raises an audit event just before it; `os.fsync` and the parts of a
file are made to. A child is killed at the first, another at the second, and so on until one comes to its end. After each,
what a server would see is checked. Prints JSON: the number of steps, and what was wrong.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kerastl.export.compare import CheckResult
from kerastl.export.folders import ABANDONED_SECONDS, published_versions
from kerastl.export.publish import publish
from kerastl.export.versions import prune_versions, roll_back

NAME = "m"
GOOD = CheckResult(largest_difference=0.0, count=1, tolerance=1e-5, signatures=("serving_default",))
FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data", "assets/labels.txt")
EVENTS = ("open", "os.", "shutil.", "fcntl.", "tempfile.", "test.")


def build(path: Path) -> None:
    """A version that can be checked: its last file holds the digests of all others."""
    sums = {}
    for number, name in enumerate(FILES):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = f"{path} {number}".encode() * 500
        with file.open("wb") as stream:
            for start in range(0, len(content), 4096):
                stream.write(content[start : start + 4096])
                stream.flush()
                sys.audit("test.part")
        sums[name] = hashlib.sha256(content).hexdigest()
    (path / "sums.json").write_text(json.dumps(sums))


def broken_versions(base: Path) -> list[str]:
    """What is wrong with what a server sees."""
    found = []
    for version in published_versions(base):
        try:
            sums = json.loads((base / str(version) / "sums.json").read_text())
            wrong = [
                name
                for name, digest in sums.items()
                if hashlib.sha256((base / str(version) / name).read_bytes()).hexdigest() != digest
            ]
        except (OSError, ValueError) as error:
            wrong = [str(error)]
        found += [f"version {version}: {each}" for each in wrong]
    return found


def publish_next(models: Path, **options: Any) -> int:
    return publish(build, lambda path: GOOD, models, NAME, {"recipe.toml": "seed = 0\n"}, **options).version


def versions(count: int) -> Callable[[Path], None]:
    return lambda models: [publish_next(models) for _ in range(count)] and None


def leftovers(models: Path) -> None:
    publish_next(models)
    build(models / NAME / ".tmp-1-dead" / "version")
    build(models / NAME / ".tmp-1-older")
    build(models / NAME / ".removed-9-1-x")
    grow_old(models / NAME)


def unsafe(models: Path) -> None:
    build(models / NAME / str(max(published_versions(models / NAME), default=0) + 1))


# scenario -> what is there before, what is killed
SCENARIOS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "first": (lambda models: models.mkdir(), publish_next),
    "next": (versions(2), publish_next),
    "keep": (versions(4), lambda models: publish_next(models, keep=2)),
    "rollback": (versions(3), lambda models: roll_back(models, NAME, 1)),
    "prune": (versions(4), lambda models: prune_versions(models / NAME, 1)),
    "leftovers": (leftovers, publish_next),
    "unsafe": (versions(1), unsafe),
}


def grow_old(base: Path) -> None:
    """As if all that is at work there had stopped long ago."""
    for child in base.glob(".tmp-*"):
        os.utime(child, (time.time() - 2 * ABANDONED_SECONDS,) * 2)


def dies_at(step: int, act: Callable[[Path], Any], models: Path) -> bool:
    """Whether `act` in a process of its own was killed at its step, rather than come to its end."""
    child = os.fork()
    if child == 0:
        seen = itertools.count(1)

        def hook(event: str, arguments: object) -> None:
            if event.startswith(EVENTS) and next(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            act(models)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"step {step} ended with status {status}"
    return status == signal.SIGKILL


def main(folder: Path, scenario: str) -> dict[str, Any]:
    # A killed process loses nothing that it has written, only a machine without power does: waiting proves nothing.
    os.fsync = lambda descriptor: sys.audit("test.fsync")  # type: ignore[assignment]
    prepare, act = SCENARIOS[scenario]
    prepare(folder / "before")
    problems = []
    for step in itertools.count(1):
        models = folder / "models"
        shutil.copytree(folder / "before", models)
        base = models / NAME
        grow_old(base)
        before = published_versions(base)
        killed = dies_at(step, act, models)
        problems += [f"step {step}: {each}" for each in broken_versions(base)]
        if before and before[-1] not in published_versions(base):
            problems.append(f"step {step}: version {before[-1]} is gone")
        grow_old(base)
        seen = max(published_versions(base), default=0)
        if publish_next(models) <= seen:
            problems.append(f"step {step}: the next publication did not become the largest number")
        problems += [f"step {step}, after the next: {each}" for each in broken_versions(base)]
        problems += [
            f"step {step}: {child.name} was left" for child in base.iterdir() if not child.name.isdigit()
        ]
        shutil.rmtree(models)
        if not killed:
            return {"steps": step - 1, "problems": problems}
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
