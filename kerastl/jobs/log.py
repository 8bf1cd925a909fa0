"""Keeps what was said while a run went on, its epochs and its result, in the run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

from kerastl.progress import Progress, Tracker
from kerastl.writing import explain_write_errors


class Log(Progress):
    """Passes everything on to another listener and writes notes, warnings and stages of the work to a file."""

    def __init__(self, listener: Progress, path: Path) -> None:
        self._listener = listener
        self._path = path

    def note(self, message: str) -> None:
        """A line worth knowing."""
        self.write(message)
        self._listener.note(message)

    def warn(self, message: str) -> None:
        """Something that the user may want to act on."""
        self.write(f"warning: {message}")
        self._listener.warn(message)

    def track(self, label: str, total: int, unit: str = "examples") -> Tracker:
        """Announce a piece of work."""
        self.write(f"{label}: {total} {unit}")
        return _Stages(self, label, self._listener.track(label, total, unit))

    def write(self, text: str) -> None:
        """Write lines to the file alone: what the listener shows in another way."""
        now = datetime.now().isoformat(timespec="seconds")
        with explain_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.writelines(f"{now} {line}\n" for line in text.splitlines())

    @contextmanager
    def end_written(self) -> Iterator[None]:
        """Write down what ends the work within, if an error does."""
        try:
            yield
        except KeyboardInterrupt:
            self.write("stopped")
            raise
        except BaseException as error:
            self.write(f"ended by {type(error).__name__}: {error}")
            raise


class _Stages(Tracker):
    """Passes the work on and writes each of its stages, such as an epoch, to the log."""

    def __init__(self, log: Log, label: str, listener: Tracker) -> None:
        self._log, self._label, self._listener = log, label, listener
        self._stages = 0

    def advance(self, count: int = 1, detail: str = "") -> None:
        """`count` more units are done; with none it is a stage that has ended."""
        if detail and not count:
            self._stages += 1
            self._log.write(f"{self._label}, epoch {self._stages}: {detail}")
        self._listener.advance(count, detail)

    def __enter__(self) -> _Stages:
        self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The work ended, well or not."""
        self._listener.__exit__(kind, error, traceback)
