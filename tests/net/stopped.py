"""Command lines that are stopped from outside while they work."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What the net reads from messages: where these are worded anew, this is the place to follow.
FEATURES_BEGIN = re.compile(r"^Features", re.MULTILINE)
PASSES = re.compile(r"^Features of .*: (?:([\d,]+) forward passe?s?$|.*no forward pass$)", re.MULTILINE)
TRIAL = re.compile(r"^ +\d+ +\d+\.\d+ ", re.MULTILINE)
SECONDS = 300


@dataclass(frozen=True)
class Stopped:
    """A process that was sent a signal: what it ended with and what it wrote."""

    code: int
    out: str
    err: str
    folder: Path
    words: list[str]


def passes(err: str) -> list[int]:
    """How many images and views each extraction ran through the network, as a command told on stderr."""
    return [int((found[1] or "0").replace(",", "")) for found in PASSES.finditer(err)]


def stop(words: list[str], folder: Path, sent: signal.Signals, ready: Callable[[str], bool]) -> Stopped:
    """Start a command in a folder and send it a signal once `ready` of what it has written to stderr."""
    err = folder / "stderr.txt"
    with err.open("w") as errors, (folder / "stdout.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "kerastl", *words], cwd=folder, stdout=out, stderr=errors
        )
        try:
            deadline = time.monotonic() + SECONDS
            while not ready(err.read_text()):
                assert process.poll() is None, f"it ended before it was stopped: {err.read_text()}"
                assert time.monotonic() < deadline, f"it never came so far: {err.read_text()}"
                time.sleep(0.002)
            process.send_signal(sent)
            code = process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
    return Stopped(code, (folder / "stdout.txt").read_text(), err.read_text(), folder, words)


def kill_fit(words: list[str], folder: Path) -> Stopped:
    """A fit that is killed while it computes features, some of which it has kept by then.

    How far it is shows in how often its store was written to since it began. A machine that is too fast for that many
    looks has them all before it is killed; then an earlier moment is tried.
    """
    for changes in (9, 6, 3):
        place, seen = folder / f"after_{changes}", set[tuple[object, ...]]()
        place.mkdir()
        stopped = stop(
            [*words, "--set", f"cache.directory={place / 'store'}"],
            place,
            signal.SIGKILL,
            lambda err, place=place, seen=seen, changes=changes: has_changed(
                err, place / "store", seen, changes
            ),
        )
        if not passes(stopped.err):
            break
    return stopped


def has_changed(err: str, store: Path, seen: set[tuple[object, ...]], changes: int) -> bool:
    """Whether a store was seen to change so often since features are computed, or all of them are there."""
    if FEATURES_BEGIN.search(err):
        seen.add(changed(store))
    return len(seen) > changes or bool(PASSES.search(err))


def end_fit(words: list[str], folder: Path) -> Stopped:
    """A fit that would never end, asked to end after some epochs."""

    def learning(err: str) -> bool:
        return any("epoch 3" in log.read_text() for log in (folder / "runs").glob("*/log.txt"))

    endless = ["--no-finetune", "--head-epochs", "1000000", "--set", "head_phase.patience_epochs=0"]
    return stop([*words, *endless, "--cache", "memory"], folder, signal.SIGTERM, learning)


def kill_search(words: list[str], folder: Path) -> Stopped:
    """A search that is killed after a trial."""
    return stop(words, folder, signal.SIGKILL, lambda err: bool(TRIAL.search(err)))


def changed(folder: Path) -> tuple[object, ...]:
    """Something that differs after any file below a folder was written to."""
    seen = []
    for path in sorted(folder.rglob("*")):
        try:
            found = path.stat()
        except FileNotFoundError:  # renamed since it was listed
            continue
        seen.append((str(path), found.st_mtime_ns, found.st_blocks))
    return tuple(seen)
