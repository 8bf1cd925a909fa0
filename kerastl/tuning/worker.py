"""The program of a worker process: `python -m kerastl.tuning.worker FOLDER`.

FOLDER is the search's, shared with its chief; Keras Tuner's three variables say who the worker is and where the chief
answers: KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from kerastl.tuning.job import open_runner, oracle_of
from kerastl.tuning.question import Question, check_same
from kerastl.tuning.records import SearchFolder
from kerastl.tuning.search import search
from kerastl.tuning.workers import NAME, read_question, worker_file

WATCH_SECONDS = 1.0


def main(path: str) -> None:
    """Run trials until the chief has no more."""
    folder = SearchFolder(Path(path))
    question = Question.from_dict(read_question(folder))
    # Scores on other images, or of another version's keys, would be compared with the chief's.
    check_same(folder, question)
    parent = os.getppid() if os.environ[NAME].startswith("worker-") else None
    threading.Thread(target=_end_with, args=(parent, worker_file(folder)), daemon=True).start()
    with open_runner(question, folder) as runner:
        search(oracle_of(question), folder, runner)


def _end_with(parent: int | None, asked: Path) -> None:
    """A chief that was killed, or has ended, cannot stop its workers: they would ask it for an hour."""
    while parent in (None, os.getppid()) and asked.exists():
        time.sleep(WATCH_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
