"""The folder of one search: where each piece lies, and what each finished trial left there."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.errors import UserError
from kerastl.locking import FileLock
from kerastl.tuning.hyperparameters import Space
from kerastl.writing import replace_atomically, write_json_atomic, write_text_atomic

COMPLETED, FAILED = "completed", "failed"


@dataclass(frozen=True)
class SearchFolder:
    """The folder of one search. Each property is the path of one piece, whether or not it exists yet."""

    path: Path

    @property
    def search_json(self) -> Path:
        """What was asked; another search may not go on here."""
        return self.path / "search.json"

    @property
    def store(self) -> Path:
        """Keras Tuner's own trial store."""
        return self.path / "store"

    @property
    def oracle_json(self) -> Path:
        """Keras Tuner's state of the search."""
        return self.store / "oracle.json"

    @property
    def heads(self) -> Path:
        """Head phases that were run."""
        return self.path / "heads"

    @property
    def baseline(self) -> Path:
        """What the recipe scored as it was given."""
        return self.path / "baseline"

    @property
    def lock(self) -> Path:
        """Held by the process that searches here."""
        return self.path / ".lock"

    @property
    def clock_json(self) -> Path:
        """How long the search took so far, over all its starts."""
        return self.path / "clock.json"

    @property
    def trials_csv(self) -> Path:
        """All trials as a table."""
        return self.path / "trials.csv"

    @property
    def winner_toml(self) -> Path:
        """The winning recipe, ready for `kerastl fit`."""
        return self.path / "winner.toml"

    @property
    def page_md(self) -> Path:
        """The result, for people."""
        return self.path / "search.md"

    @property
    def result_json(self) -> Path:
        """The result, for programs; it appears when all is done."""
        return self.path / "result.json"

    def of_trial(self, trial_id: str) -> Path:
        """Folder of one trial, the same as Keras Tuner's."""
        return self.store / f"trial_{trial_id}"


@contextlib.contextmanager
def scratch_folder(folder: SearchFolder) -> Iterator[Path]:
    """A folder for this process alone, removed at its end; those of processes that were killed are removed as well."""
    for left in folder.path.glob("scratch-*.lock"):
        with FileLock(left) as lock:
            if lock.acquire(exclusive=True):
                _remove_scratch(left)
    # The search's folder may be shared between machines, whose processes may have the same number.
    path = folder.path / f"scratch-{socket.gethostname()}-{os.getpid()}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path) as lock:
        lock.acquire(exclusive=True)
        try:
            yield path.with_suffix("")
        finally:
            _remove_scratch(path)


def _remove_scratch(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrialRecord:
    """What is written down of a trial.

    Attributes:
        trial_id: its number, as text.
        values: recipe keys that it set.
        share: of the epochs that it was allowed, 1 for all.
        status: `completed` or `failed`.
        score: mean of the monitored metric; None where it failed.
        metrics: means of all validation metrics.
        scores: the monitored metric of each training.
        winner: phase that was kept.
        seconds: wall time.
        reason: why it failed.
        forward_passes: of the frozen part that it needed; none where all features lay there.
        heads: head phases that it ran.
        worker: name of the process that ran it; empty where the search has one alone.
    """

    trial_id: str
    values: dict[str, Any]
    share: float
    status: str
    score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    winner: str = ""
    seconds: float = 0.0
    reason: str = ""
    forward_passes: int = 0
    heads: int = 0
    worker: str = ""


def write_record(folder: Path, record: TrialRecord, losses: np.ndarray | None = None) -> None:
    """Write a trial's record, and before it what each validation image added to the score."""
    folder.mkdir(parents=True, exist_ok=True)
    if losses is not None:
        with replace_atomically(folder / "losses.npy") as temporary:
            np.save(temporary, losses)
    write_json_atomic(folder / "result.json", asdict(record))


def read_record(folder: Path) -> TrialRecord | None:
    """The record of a trial; None where it has not ended.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["scores"] = tuple(values["scores"])
        values["values"] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["values"].items()
        }
        return TrialRecord(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, error) from error


def read_losses(folder: Path) -> np.ndarray:
    """What each validation image added to the score of a finished trial.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return np.load(folder / "losses.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder / "losses.npy", error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file of the search that cannot be read."""
    return UserError(
        f"{path} is damaged ({error}). Expected what a trial of this search wrote. Remove the folder {path.parent} to go on "
        "without that trial, or the whole folder of the search to begin anew."
    )


def read_records(folder: SearchFolder) -> list[TrialRecord]:
    """The records of all trials that ended, in their order."""
    places = sorted(folder.store.glob("trial_*"), key=lambda place: (len(place.name), place.name))
    return [record for place in places if (record := read_record(place)) is not None]


def whole_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The finished trials that were allowed all their epochs: only they compare with the recipe as it was."""
    return [record for record in records if record.score is not None and record.share >= 1]


def best_of(records: Sequence[TrialRecord], sign: int) -> TrialRecord | None:
    """The best finished trial among those that were allowed all their epochs; of equals the first.

    Args:
        records: any trials.
        sign: 1 where a smaller score is better, -1 where a larger one is.
    """
    return min(whole_trials(records), key=lambda record: sign * float(record.score or 0.0), default=None)


def write_trials(path: Path, records: Sequence[TrialRecord], space: Space) -> None:
    """Write all trials as a table that every spreadsheet reads."""
    text = io.StringIO()
    keys = [hp.key for hp in space]
    metrics = list(dict.fromkeys(name for record in records for name in record.metrics))
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["trial", "status", "score", *keys, "share_of_epochs", *metrics, "kept_phase", "seconds", "reason"]
    )
    for one in records:
        values = [one.values.get(key, "") for key in keys]
        shown = [list(value) if isinstance(value, tuple) else value for value in values]
        score = "" if one.score is None else one.score
        numbers = [one.metrics.get(name, "") for name in metrics]
        rows.writerow(
            [
                one.trial_id,
                one.status,
                score,
                *shown,
                one.share,
                *numbers,
                one.winner,
                round(one.seconds, 2),
                one.reason,
            ]
        )
    write_text_atomic(path, text.getvalue())
