"""The program of a worker process: `python -m kerastl.search.worker FOLDER`.

FOLDER is the search's, shared with its chief; Keras Tuner's three variables say who the worker is and where the chief
answers: KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from kerastl.errors import KerastlError, UserError
from kerastl.search.job import open_runner, oracle_of
from kerastl.search.search_folder import SearchFolder
from kerastl.search.spec import SearchSpec, check_same
from kerastl.search.trial import search
from kerastl.search.workers import IP, NAME, PORT, life_file, worker_file

WATCH_SECONDS = 1.0
# As long as Keras Tuner's own workers wait for their chief; it runs the recipe as it is before it asks for help.
WAIT_SECONDS = 3600.0
LIFE_SECONDS = 10.0


def main(path: str) -> None:
    """Run trials until the chief has no more.

    Raises:
        UserError: the chief did not come, or asks of other examples or keys than lie here.
    """
    name = os.environ.get(NAME)
    if not name:
        raise UserError(f"{NAME} is not set. Expected a name of its own for each worker, such as machine-2.")
    folder = SearchFolder(Path(path))
    if not await_chief(folder):
        sys.stderr.write(f"{folder.path}: the search has ended\n")
        return
    spec = SearchSpec.from_dict(json.loads(worker_file(folder).read_text(encoding="utf-8")))
    from keras_tuner.src.distribute.oracle_client import OracleClient  # Keras Tuner has no public name for it

    # Scores on other examples, or of another version's keys, would be compared with the chief's.
    check_same(folder, spec)
    parent = os.getppid() if name.startswith("worker-") else None
    threading.Thread(target=_live, args=(parent, folder, name), daemon=True).start()
    with open_runner(spec, folder) as runner:
        search(OracleClient(oracle_of(spec)), runner, name)


def await_chief(folder: SearchFolder) -> bool:
    """Wait for the chief's search spec; False where the search has ended.

    A cluster starts chief and workers at the same moment, and the chief has work to do before it wants them.

    Raises:
        UserError: it did not come within an hour.
    """
    last = time.monotonic() + WAIT_SECONDS
    noted = False
    while not worker_file(folder).is_file():
        if folder.result_json.is_file():
            return False
        if time.monotonic() > last:
            raise UserError(
                f"No chief asked for workers in {folder.path} within {WAIT_SECONDS / 60:.0f} minutes. Start `kerastl tune` with "
                f"--directory {folder.path} and {IP} and {PORT} first, or at the same time."
            )
        if not noted:
            sys.stderr.write(f"{folder.path}: waiting for the chief\n")
            noted = True
        time.sleep(WATCH_SECONDS)
    return True


def _live(parent: int | None, folder: SearchFolder, name: str) -> None:
    """Say that this worker lives, and end with its chief: one that was killed, or has ended, cannot stop its workers.

    They would ask it for an hour.
    """
    touched = -LIFE_SECONDS
    while parent in (None, os.getppid()) and worker_file(folder).exists():
        if parent is None and time.monotonic() - touched >= LIFE_SECONDS:
            with contextlib.suppress(OSError):  # the next time may be better
                life_file(folder, name).write_text(f"{time.time()}\n", encoding="utf-8")
            touched = time.monotonic()
        time.sleep(WATCH_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KerastlError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
