"""Measured rows in a file, each under a key of all that it depends on: an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Rows:
    """The rows of a file of JSON lines.

    Args:
        path: made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.known: dict[str, dict[str, Any]] = {
            row["key"]: row for row in map(json.loads, path.read_text().splitlines())
        }

    def row(self, condition: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a condition: the one that is there, or measured now, printed and kept."""
        key = key_of(condition)
        if key not in self.known:
            self.known[key] = {"key": key, **measure(), **condition}
            line = json.dumps(self.known[key])
            with self.path.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)
        return self.known[key]


def key_of(condition: dict[str, Any]) -> str:
    """Under which a row is kept."""
    return hashlib.sha256(json.dumps(condition, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(files: Iterable[Path], settings: str = "") -> str:
    """Of settings and the content of some files."""
    digest = hashlib.sha256(settings.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def package_files() -> tuple[Path, ...]:
    """The package's modules that were imported when this was first asked: before a run imports more."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "kerastl"]
    return tuple(sorted({Path(module.__file__) for module in modules if module.__file__}))
