"""Progress of the work, reported without knowing who shows it.

The library calls a `Progress`; the command line passes one that draws bars on the terminal, `kerastl.fit` in Python one that
passes warnings on to `logging`; other calls get the silent one unless they pass their own.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

_LOGGER = logging.getLogger("kerastl")


class Tracker:
    """One piece of work of known length; use it as a context manager."""

    def advance(self, count: int = 1, detail: str = "") -> None:
        """`count` more units are done, none where an epoch ended; `detail` is a short word on the state, such as a loss."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The work ended, well or not."""


class Progress:
    """Receives notes, warnings and progress, and shows nothing."""

    def note(self, message: str) -> None:
        """A line worth knowing."""

    def warn(self, message: str) -> None:
        """Something that the user may want to act on."""

    def track(self, label: str, total: int, unit: str = "examples") -> Tracker:
        """Announce `total` units of work; the tracker takes their progress."""
        return Tracker()


class Logging(Progress):
    """Passes warnings and notes on to Python's `logging`, under the name `kerastl`: by its defaults warnings are shown."""

    def note(self, message: str) -> None:
        """A line worth knowing."""
        _LOGGER.info(message)

    def warn(self, message: str) -> None:
        """Something that the user may want to act on."""
        _LOGGER.warning(message)


def size_text(count: float) -> str:
    """A number of bytes as people say it: `640 KB`, `37 MB`, `4.2 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:,.0f} {unit}"
    return f"{max(count, 0):.0f} bytes"
