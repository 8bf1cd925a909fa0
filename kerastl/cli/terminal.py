"""Output for the user: progress and warnings on stderr, results on stdout, TensorFlow's chatter nowhere.

The bar is written here and not taken from a library: click's knows no rate, tqdm's fills a log file
with one line of carriage returns, rich's shows nothing in a pipe, and the first two do not step aside for a message.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import click

from kerastl.progress import Progress, Tracker
from kerastl.wording import columns, duration, wrapped

# Shorter work shows no bar: it would flicker by.
QUIET_SECONDS = 1.0
REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
RATE_SECONDS = 15.0
WIDEST_COLUMNS = 100
PER = (("s", 1), ("min", 60), ("h", 3600))


class Terminal(Progress):
    """Listens to the work and shows it on stderr.

    On a terminal a bar is redrawn in place; in a file or a pipe a line is written every ten seconds.
    """

    def __init__(
        self, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet = quiet
        self.stream = stream if stream is not None else sys.stderr
        self.clock = clock
        self.rewrites = self.stream.isatty()
        self._drawn = 0

    def note(self, message: str) -> None:
        """Write a line, unless quiet."""
        if not self.quiet:
            self.line(message)

    def warn(self, message: str) -> None:
        """Write a line, also when quiet."""
        self.line(f"warning: {message}")

    def track(self, label: str, total: int, unit: str = "examples") -> Tracker:
        """A bar for `total` units of work."""
        return Tracker() if self.quiet else Bar(self, label, total, unit)

    def line(self, text: str) -> None:
        """Write whole lines; a bar that stands there makes room."""
        self.erase()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def draw(self, text: str) -> None:
        """Put `text` in the place of the bar that was drawn last."""
        self.stream.write("\r" + text + " " * (self._drawn - len(text)))
        self.stream.flush()
        self._drawn = len(text)

    def erase(self) -> None:
        """Leave nothing of the bar."""
        if self._drawn:
            self.stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    @property
    def columns(self) -> int:
        """Room for a line; the last column stays free, or some terminals would wrap."""
        return min(shutil.get_terminal_size().columns, WIDEST_COLUMNS) - 1


class Bar(Tracker):
    """One piece of work: how much is done, how fast it goes, how long it will take, and a word on its state."""

    def __init__(self, terminal: Terminal, label: str, total: int, unit: str) -> None:
        self.terminal, self.label, self.total, self.unit = terminal, label, total, unit
        self.done, self.detail = 0, ""
        self.started = self.shown = terminal.clock()
        self._recent: deque[tuple[float, int]] = deque([(self.started, 0)])

    def advance(self, count: int = 1, detail: str = "") -> None:
        """`count` more units are done."""
        self.done += count
        self.detail = detail or self.detail
        now = self.terminal.clock()
        if now - self._recent[-1][0] >= REDRAW_SECONDS:
            self._recent.append((now, self.done))
            while now - self._recent[0][0] > RATE_SECONDS and len(self._recent) > 2:
                self._recent.popleft()
        if now - self.started < QUIET_SECONDS:
            return
        if self.terminal.rewrites:
            if now - self.shown >= REDRAW_SECONDS or self.done >= self.total:
                self.shown = now
                self.terminal.draw(self.text(now))
        elif now - self.shown >= LINE_SECONDS:
            self.shown = now
            self.terminal.line(self.text(now))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave one line that says how long it took."""
        self.terminal.erase()
        seconds = self.terminal.clock() - self.started
        if seconds >= QUIET_SECONDS and self.done:
            parts = [
                duration(seconds),
                _rate(self.done / seconds, self.unit),
                *([self.detail] if self.detail else []),
            ]
            line = f"{self.label}: {', '.join([f'{self.done:,} {self.unit}', *parts])}"
            # How many examples that were in all epochs is what one misses least.
            fits = len(line) <= self.terminal.columns or not self.terminal.rewrites
            self.terminal.line(line if fits else f"{self.label}: {', '.join(parts)}")

    def text(self, now: float) -> str:
        """The bar at this moment, as long as the terminal is wide at most."""
        share = min(self.done / self.total, 1.0) if self.total else 0.0
        then, before = self._recent[0]
        rate = (self.done - before) / (now - then) if now > then else 0.0
        facts = [f"{share:4.0%}" if self.total else "", _rate(rate, self.unit)]
        if rate > 0 and self.total:
            facts.append(f"{duration(max(self.total - self.done, 0) / rate)} left")
        facts.append(self.detail)
        text = f"{self.label}  " + "  ".join(fact for fact in facts if fact)
        room = min(self.terminal.columns - len(text) - 3, 30) if self.terminal.rewrites else 0
        if room >= 8 and self.total:
            filled = round(share * room)
            text = f"{self.label} [{'#' * filled}{'.' * (room - filled)}]{text[len(self.label) + 1 :]}"
        return text[: self.terminal.columns] if self.terminal.rewrites else text


def _rate(rate: float, unit: str) -> str:
    time, length = next((each for each in PER if rate * each[1] >= 0.95 or not rate), PER[-1])
    count = rate * length
    return f"{f'{count:,.0f}' if count >= 10 else f'{count:.1f}'} {unit}/{time}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as the terminal at most (80 where there is none, or $COLUMNS); see `kerastl.wording.columns`."""
    return columns(header, rows, terminal_width())


def show(text: str) -> None:
    """Print text, its long lines broken between words."""
    width = terminal_width()
    click.echo("\n".join(piece for line in text.splitlines() for piece in wrapped(line, width)))


def terminal_width() -> int:
    """Cells in a line of the terminal: $COLUMNS where it is set, 80 where stdout is no terminal."""
    return shutil.get_terminal_size().columns


def print_json(value: Any) -> None:
    """Print a value of this project as JSON: dataclasses as objects, paths as text, null for NaN and infinity."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as CSV that every spreadsheet reads: fields with commas, quotes or line breaks are quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    click.echo(text.getvalue(), nl=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without importing NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def _stderr_aside() -> Iterator[None]:
    """File descriptor 2 leads to a file; if the body fails, what was written there is shown after all."""
    sys.stderr.flush()
    with tempfile.TemporaryFile(mode="w+", errors="replace") as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                aside.seek(0)
                sys.stderr.write(aside.read())


def quiet_tensorflow() -> None:
    """Import TensorFlow without the lines that its C++ writes to every terminal.

    TF_CPP_MIN_LOG_LEVEL silences all but those written while the library is loaded, before it reads the
    level (on 2.21: `port.cc` on oneDNN and `cudart_stub.cc` on CUDA, twice each). So file descriptor 2
    leads aside during the import, and only then: a later crash is seen. With --debug nothing is silenced.
    """
    context = click.get_current_context(silent=True)
    if context is not None and getattr(context.obj, "debug", False):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with _stderr_aside():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    # Pillow warns of large scans and odd palettes with a line of its own source; what it cannot read it says otherwise.
    warnings.filterwarnings("ignore", module=r"PIL\.")
