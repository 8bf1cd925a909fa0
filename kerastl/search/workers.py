"""Several processes, or machines, for one search: Keras Tuner's chief here, its workers wherever they are.

The chief holds the oracle and answers over gRPC; a worker asks for trials, runs them on the shared store and reports.
Keras Tuner's own chief waits forever for a worker that was killed. This one starts its own again under the same name, and
Keras Tuner then gives them the trial that they had. Workers on other machines touch a file in the search's folder while they
live; the trial of one that has been silent for long goes to another.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from kerastl.errors import KerastlError
from kerastl.pipeline import usable_cores
from kerastl.progress import Progress
from kerastl.search.oracle import Oracle
from kerastl.search.search_folder import SearchFolder
from kerastl.search.trial import NAME
from kerastl.writing import write_json_atomic

IP, PORT = "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"
GPUS = "CUDA_VISIBLE_DEVICES"
STARTS = 5
PAUSE_SECONDS = 0.2
FAREWELL_SECONDS = 20.0
# A file system that machines share may show a change a minute late.
SILENT_SECONDS = 300.0
LOG_LINES = 15


class Worker:
    """A worker process on this machine, and how often it was started; on a GPU of its own where `gpu` names one."""

    def __init__(
        self, name: str, folder: SearchFolder, address: tuple[str, int], threads: int, gpu: str | None = None
    ) -> None:
        self.name, self.folder, self.gpu = name, folder, gpu
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
        if self.gpu is not None:
            settings[GPUS] = self.gpu
        command = [sys.executable, "-m", "kerastl.search.worker", str(self.folder.path)]
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


def search_with_workers(oracle: Oracle, spec: dict[str, Any], count: int, progress: Progress) -> None:
    """Be the chief of some workers on this machine, and of those that join from others.

    Args:
        oracle: chooses the trials; it was opened.
        spec: what the workers need to know, in plain values.
        count: workers to start here.
        progress: listens.

    Raises:
        KerastlError: a worker failed by a fault that is not its setting's, or was killed too often.
    """
    from keras_tuner.src import protos  # Keras Tuner has no public name for its server
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    folder = oracle.folder
    write_json_atomic(worker_file(folder), spec)
    host, port = os.environ.get(IP, "127.0.0.1"), int(os.environ.get(PORT, "0")) or free_port()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(oracle), server)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    threads = max(1, usable_cores() // max(count, 1))
    gpus = visible_gpus()
    workers = []
    for number in range(count):
        gpu = gpus[number % len(gpus)] if gpus else None
        workers.append(Worker(f"worker-{number + 1}", folder, (host, port), threads, gpu))
    silence = Silence(folder)
    try:
        for worker in workers:
            worker.start()
        while True:
            running = _go_on(workers, progress)
            for name in silence.lost(set(oracle.ongoing_trials) - {worker.name for worker in workers}):
                trial = oracle.take_back(name)
                progress.warn(
                    f"{name} was silent for {SILENT_SECONDS / 60:.0f} minutes: its trial {trial} goes to another worker"
                )
            if not running and workers and oracle.waiting and not oracle.out_of_time():
                workers[0].start()  # all had been told that nothing was left to do
            elif not running and not oracle.ongoing_trials:
                break
            time.sleep(PAUSE_SECONDS)
        # Those on other machines are told that it is over when they ask for their next trial.
        last = time.monotonic() + FAREWELL_SECONDS
        while oracle.tuner_ids and time.monotonic() < last:
            time.sleep(PAUSE_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
        # Workers that are late, or were not heard of, see by this that the search is over.
        worker_file(folder).unlink(missing_ok=True)
        for left in folder.path.glob("*.alive"):
            left.unlink(missing_ok=True)
        server.stop(None).wait()
        oracle.save()


class Silence:
    """Silence of workers on other machines, by the clock of this one.

    Args:
        folder: of the search, in which they touch their files.
    """

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._heard: dict[str, tuple[int, float]] = {}

    def lost(self, names: Iterable[str]) -> list[str]:
        """Names of workers with a trial whose file has not changed for too long."""
        now, lost = time.monotonic(), []
        for name in names:
            try:
                touched = life_file(self._folder, name).stat().st_mtime_ns
            except OSError:
                touched = 0
            if self._heard.setdefault(name, (touched, now))[0] != touched:
                self._heard[name] = (touched, now)
            elif now - self._heard[name][1] > SILENT_SECONDS:
                del self._heard[name]
                lost.append(name)
        return lost


def life_file(folder: SearchFolder, name: str) -> Path:
    """The file that a worker of another machine touches while it lives."""
    return folder.path / f"{urllib.parse.quote(name, safe='')}.alive"


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; none without a GPU."""
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    named = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    # TensorFlow knows none of those after one that does not exist.
    return (named or [str(number) for number in range(count)])[:count]


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
    """The file from which workers read the search spec."""
    return folder.path / "workers.json"


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
