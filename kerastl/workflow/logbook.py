"""Keeps what was said while a run went on, in the run's folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from kerastl.progress import Progress, Tracker
from kerastl.writing import explain_write_errors


class Logbook(Progress):
    """Passes everything on to another listener and writes notes and warnings to a file."""

    def __init__(self, listener: Progress, path: Path) -> None:
        self._listener = listener
        self._path = path

    def note(self, message: str) -> None:
        """A line worth knowing."""
        self._write(message)
        self._listener.note(message)

    def warn(self, message: str) -> None:
        """Something that the user may want to act on."""
        self._write(f"warning: {message}")
        self._listener.warn(message)

    def track(self, label: str, total: int, unit: str = "images") -> Tracker:
        """Announce a piece of work."""
        self._write(f"{label}: {total} {unit}")
        return self._listener.track(label, total, unit)

    def _write(self, line: str) -> None:
        with explain_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {line}\n")
