"""Several processes, or machines, for one search: Keras Tuner's chief here, its workers wherever they are.

The chief holds the oracle and answers over gRPC; a worker asks for trials, runs them on the shared store and reports.
Keras Tuner's own chief waits forever for a worker that was killed; this one starts it again under the same name, and
Keras Tuner then gives it the trial that it had.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from kerastl.errors import KerastlError
from kerastl.progress import Progress
from kerastl.tuning.oracles import Durable
from kerastl.tuning.records import SearchFolder
from kerastl.tuning.search import NAME, silent_keras_tuner
from kerastl.writing import write_json_atomic

IP, PORT = "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"
STARTS = 5
PAUSE_SECONDS = 0.2
FAREWELL_SECONDS = 20.0
LOG_LINES = 15


class Worker:
    """A worker process on this machine, and how often it was started."""

    def __init__(self, name: str, folder: SearchFolder, address: tuple[str, int], threads: int) -> None:
        self.name, self.folder = name, folder
        self.starts = 0
        self.log = folder.path / f"{name}.log"
        self._address, self._threads = address, threads
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        self.starts += 1
        settings = {IP: self._address[0], PORT: str(self._address[1]), NAME: self.name}
        # Each worker would otherwise start a thread for every core of the machine.
        threads = {"TF_NUM_INTRAOP_THREADS": str(self._threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
        # And the first would take all memory of a GPU.
        threads["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        command = [sys.executable, "-m", "kerastl.tuning.worker", str(self.folder.path)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**threads, **os.environ, **settings},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def search_with_workers(
    oracle: Durable, folder: SearchFolder, question: dict[str, Any], count: int, progress: Progress
) -> None:
    """Be the chief of some workers on this machine, and of those that join from others.

    Args:
        oracle: chooses the trials.
        folder: of the search.
        question: what the workers need to know, in plain values.
        count: workers to start here.
        progress: listens.

    Raises:
        KerastlError: a worker failed by a fault that is not its setting's, or was killed too often.
    """
    from keras_tuner.src import protos  # Keras Tuner has no public name for its server
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    write_json_atomic(worker_file(folder), question)
    oracle._set_project_dir(str(folder.path), folder.store.name)  # type: ignore[attr-defined]
    if folder.oracle_json.exists():
        oracle.reload()
    else:
        oracle.save()
    host, port = os.environ.get(IP, "127.0.0.1"), int(os.environ.get(PORT, "0")) or free_port()
    with silent_keras_tuner():
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
        server.add_insecure_port(f"{host}:{port}")
        server.start()
        threads = max(1, (os.cpu_count() or 1) // count)
        workers = [Worker(f"worker-{number + 1}", folder, (host, port), threads) for number in range(count)]
        try:
            for worker in workers:
                worker.start()
            while _go_on(workers, progress) or oracle.ongoing_trials:  # type: ignore[attr-defined]
                time.sleep(PAUSE_SECONDS)
            # Those on other machines are told that it is over when they ask for their next trial.
            last = time.monotonic() + FAREWELL_SECONDS
            while oracle.tuner_ids and time.monotonic() < last:  # type: ignore[attr-defined]
                time.sleep(PAUSE_SECONDS)
        finally:
            for worker in workers:
                worker.stop()
            # Workers that are late, or were not heard of, see by this that the search is over.
            worker_file(folder).unlink(missing_ok=True)
            server.stop(None).wait()
            oracle.save()


def _go_on(workers: list[Worker], progress: Progress) -> bool:
    """Start again what was killed; says whether any worker still runs."""
    running = False
    for worker in workers:
        assert worker.process is not None
        code = worker.process.poll()
        if code is None:
            running = True
        elif code < 0:
            killed = f"{worker.name} was killed ({signal.Signals(-code).name})"
            if worker.starts >= STARTS:
                raise KerastlError(
                    f"{killed} {STARTS} times; is there memory for so many workers? Lower --workers. The same command goes on."
                )
            progress.warn(f"{killed}; started again, with the trial that it had")
            worker.start()
            running = True
        elif code > 0:
            lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            end = "\n".join(lines[-LOG_LINES:])
            raise KerastlError(f"{worker.name} ended with exit code {code}; {worker.log} says:\n{end}")
    return running


def worker_file(folder: SearchFolder) -> Path:
    """What workers read to know the search."""
    return folder.path / "workers.json"


def read_question(folder: SearchFolder) -> dict[str, Any]:
    """What the chief wrote for its workers."""
    values: dict[str, Any] = json.loads(worker_file(folder).read_text(encoding="utf-8"))
    return values


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
