"""Log of a running search: a line for each trial, the best so far, and the time that is left; also its clock."""

from __future__ import annotations

import json
import shutil
import time
from types import TracebackType

from kerastl.progress import Progress
from kerastl.report.search_report import TrialRecord
from kerastl.search.hyperparameters import NOTHING_THAWED, UNFREEZE_POINT
from kerastl.search.search_folder import SearchFolder, damaged, read_record, read_records
from kerastl.task import sign_of
from kerastl.wording import duration, wrapped
from kerastl.writing import write_json_atomic

# Of a terminal in which the figures of a trial stand in columns, with some room for its values.
FULL_COLUMNS = 70
FULL = "{:>7}  {:>7} {:1}  {:>7}  {:>7}  {:>6}  {:>11}  {}"
NARROW = "{}  {}{}  {}  {}  {}  {}  {}"
VALUES_INDENT = 9
SHORT = {UNFREEZE_POINT: "from", "finetune_phase.": "ft.", "head_phase.": "hp.", "learning_rate": "rate"}


class TrialLog:
    """Writes the log of a search, and keeps its clock.

    Args:
        folder: of the search.
        monitor: metric that is the score.
        trials: how many are expected; None where that is not known.
        budget_seconds: after which no trial begins, counted over all restarts; None for no limit.
        progress: listens.
    """

    def __init__(
        self,
        folder: SearchFolder,
        monitor: str,
        trials: int | None,
        budget_seconds: float | None,
        progress: Progress,
    ) -> None:
        self.folder, self.monitor, self.trials = folder, monitor, trials
        self.budget_seconds, self.progress = budget_seconds, progress
        self.sign = sign_of(monitor)
        earlier = read_records(folder)
        self.done = len(earlier)
        self._spent, self._began = seconds_in(folder), time.monotonic()
        self._best: TrialRecord | None = None
        for record in earlier:
            self._compare(record)
        self._tracker = progress.track("trials", trials or 0, "trials")

    def __enter__(self) -> TrialLog:
        self._tracker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The search ended, well or not."""
        self._note_time()
        self._tracker.__exit__(kind, error, traceback)

    def out_of_time(self) -> bool:
        """True where no further trial may begin."""
        return self.budget_seconds is not None and self._seconds() >= self.budget_seconds

    def start(self, baseline: TrialRecord | None) -> None:
        """Log the score of the recipe as it is, and how far an earlier search came."""
        if baseline is not None and baseline.score is not None:
            self.progress.note(
                f"recipe as it is: {self.monitor} {baseline.score:.4f}, {baseline.seconds:.1f} s"
            )
            self._compare(baseline)
        if self.done:
            best = f", the best {self._best.score:.4f}" if self._best and self._best.score is not None else ""
            self.progress.note(f"Going on in {self.folder.path}: {self.done} trials have ended{best}")
            self._tracker.advance(self.done)
        self._line(
            "trial", "score", "", "best", "seconds", "in all", "left", f"values; the score is {self.monitor}"
        )

    def ended(self, trial_id: str) -> None:
        """Log a trial that ended."""
        record = read_record(self.folder.of_trial(trial_id))
        if record is None:
            return
        self.done += 1
        self._note_time()
        self._compare(record)
        best = "–" if self._best is None else f"{self._best.score:.4f}"
        score = "failed" if record.score is None else f"{record.score:.4f}"
        mark = "*" if record is self._best else ""
        count = f"{self.done}/{self.trials}" if self.trials else f"{self.done}"
        spent, wall = f"{record.seconds:.1f}", f"{self._seconds():.0f}"
        self._line(count, score, mark, best, spent, wall, self._left(), shown_values(record))
        self._tracker.advance(1, f"best {best}")

    def _line(self, *columns: str) -> None:
        """Write a line of the table, as long as a line of the terminal at most."""
        width = shutil.get_terminal_size().columns
        row = FULL if width >= FULL_COLUMNS else NARROW
        self.progress.note("\n".join(wrapped(row.format(*columns), width, VALUES_INDENT)))

    def _compare(self, record: TrialRecord) -> None:
        if record.score is None or record.share < 1:
            return
        if self._best is None or self.sign * record.score < self.sign * float(self._best.score or 0.0):
            self._best = record

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _note_time(self) -> None:
        write_json_atomic(self.folder.clock_json, {"seconds": self._seconds()})

    def _left(self) -> str:
        spent = self._seconds()
        seconds = float("inf")
        if self.trials:
            seconds = spent / max(self.done, 1) * max(self.trials - self.done, 0)
        if self.budget_seconds is not None:
            seconds = min(seconds, max(self.budget_seconds - spent, 0.0))
        return "?" if seconds == float("inf") else duration(seconds)


def seconds_in(folder: SearchFolder) -> float:
    """Seconds of all starts of the search, up to the last trial that ended."""
    if not folder.clock_json.is_file():
        return 0.0
    try:
        return float(json.loads(folder.clock_json.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder.clock_json, error) from error


def shown_values(record: TrialRecord) -> str:
    """The values of a trial in one line, or why it failed."""
    if record.score is None:
        return record.reason
    words = []
    for key, value in record.values.items():
        for long, short in SHORT.items():
            key = key.replace(long, short)
        words.append(f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words).replace(f"from {NOTHING_THAWED}", "nothing unfrozen")
