"""The folder of one search: paths of its pieces, and the records of its trials."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.errors import UserError
from kerastl.locking import FileLock
from kerastl.report.search_report import TrialRecord
from kerastl.writing import replace_atomically, write_json_atomic


def _at(name: str) -> Any:
    return property(lambda folder: folder.path / name)


@dataclass(frozen=True)
class SearchFolder:
    """The folder of one search; each attribute is the path of one piece, whether or not it exists yet.

    Attributes:
        path: of the folder.
        search_json: the search spec; another search may not go on here.
        store: Keras Tuner's state, and a folder for each trial.
        oracle_json: Keras Tuner's state of the search.
        heads: head phases that were run.
        baseline: the record of the recipe as it was given.
        lock: held by the process that searches here.
        clock_json: how long the search took so far, over all its starts.
        trials_csv: all trials as a table.
        winner_toml: the winning recipe, ready for `kerastl fit`.
        page_md: the result, for people.
        result_json: the result, for programs; it appears when all is done.
    """

    path: Path
    search_json = _at("search.json")
    store = _at("store")
    oracle_json = _at("store/oracle.json")
    heads = _at("heads")
    baseline = _at("baseline")
    lock = _at(".lock")
    clock_json = _at("clock.json")
    trials_csv = _at("trials.csv")
    winner_toml = _at("winner.toml")
    page_md = _at("search.md")
    result_json = _at("result.json")

    def of_trial(self, trial_id: str) -> Path:
        """Folder of one trial, the same as Keras Tuner's."""
        return self.path / "store" / f"trial_{trial_id}"


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


def write_record(folder: Path, record: TrialRecord) -> None:
    """Write a trial's record, and before it its losses in a file of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    if record.losses is not None:
        with replace_atomically(folder / "losses.npy") as temporary:
            np.save(temporary, record.losses)
    values = asdict(dataclasses.replace(record, losses=None))
    del values["losses"]
    write_json_atomic(folder / "result.json", values)


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
    """Losses of a finished trial: what each validation example added to its score.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return np.load(folder / "losses.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder / "losses.npy", error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """The error of a file of the search that cannot be read."""
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
