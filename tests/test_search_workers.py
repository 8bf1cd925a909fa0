"""Several processes for one search."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searches import LINE, command, opened, tiny

from kerastl.errors import UserError


@pytest.mark.slow
def test_workers_share_a_search_and_a_killed_one_takes_its_trial_up_again(
    solid_colours: Path, tmp_path: Path
) -> None:
    words = command(
        solid_colours, "--trials", "6", "--workers", "2", "--set", f"cache.directory={tmp_path / 'store'}"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "kerastl", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    store = tmp_path / "tuning" / "colours" / "store"
    try:
        while not list(store.glob("trial_*/result.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "search.worker"], capture_output=True, text=True
        )
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
        output, errors = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "was killed (SIGKILL); started again" in errors
    assert len(list(store.glob("trial_*/result.json"))) == 6 and "winner.toml" in output


@pytest.mark.slow
def test_a_worker_of_another_machine_joins_and_is_told_when_it_is_over(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.search.workers import IP, NAME, PORT, free_port

    words = command(solid_colours, "--trials", "6", "--set", f"cache.directory={tmp_path / 'store'}")
    place = {**os.environ, IP: "127.0.0.1", PORT: str(free_port())}
    folder = tmp_path / "tuning" / "colours"
    options: Any = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A cluster starts all at once: the worker comes first, and the folder is not there yet.
    remote = subprocess.Popen(
        [sys.executable, "-m", "kerastl.search.worker", "tuning/colours"], env={**place, NAME: "machine-2"}, **options
    )  # fmt: skip
    chief = subprocess.Popen([sys.executable, "-m", "kerastl", *words], env=place, **options)
    try:
        output, errors = chief.communicate(timeout=500)
        assert chief.returncode == 0, errors
        said = remote.communicate(timeout=60)
        assert remote.returncode == 0, said
    finally:
        for process in (chief, remote):
            process.kill()
    states = [json.loads(path.read_text()) for path in folder.glob("store/trial_*/trial.json")]
    assert len(states) == 6 and "winner.toml" in output
    records = [json.loads(path.read_text()) for path in folder.glob("store/trial_*/result.json")]
    assert {record["worker"] for record in records} == {"worker-1", "machine-2"}
    # no head phase was run twice: each belongs to a rate and a dropout
    keys = ("head_phase.learning_rate", "head.dropout")
    different = {tuple(record["values"][key] for key in keys) for record in records}
    assert sum(record["heads"] for record in records) <= len(different)
    assert not (folder / "workers.json").exists()


class Played:
    """In the place of worker processes: `play(number of the start)` is all that one does before it ends."""

    def __init__(self, play: Callable[[int], object] = lambda number: None) -> None:
        self.play = play
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **options: Any) -> Played:
        self.environments.append(env)
        self.play(len(self.environments))
        return self

    def poll(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("gpus", "visible", "dealt"),
    [
        (2, None, ["0", "1", "0"]),
        (2, "3, GPU-5a", ["3", "GPU-5a", "3"]),
        (1, "7", ["7", "7", "7"]),
        (0, None, [None] * 3),
        (0, "-1", ["-1"] * 3),
    ],
)
def test_each_worker_gets_a_gpu_of_its_own_where_there_are_enough(
    gpus: int, visible: str | None, dealt: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from kerastl.progress import Progress
    from kerastl.search import workers

    processes = Played()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] * gpus)
    monkeypatch.setattr(workers.subprocess, "Popen", processes)
    monkeypatch.delenv(workers.GPUS, raising=False)
    if visible is not None:
        monkeypatch.setenv(workers.GPUS, visible)
    workers.search_with_workers(opened(tmp_path, "random", LINE, 2), {}, 3, Progress())
    assert [environment.get(workers.GPUS) for environment in processes.environments] == dealt


@pytest.mark.slow
def test_the_trial_of_a_worker_that_is_silent_goes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.progress import Progress
    from kerastl.search import workers

    warned: list[str] = []

    class Listening(Progress):
        def warn(self, message: str) -> None:
            warned.append(message)

    oracle = opened(tmp_path, "random", LINE, 2)
    lost: list[Any] = []

    def finish(tuner_id: str) -> Any:
        trial = oracle.create_trial(tuner_id)
        oracle.update_trial(trial.trial_id, {"score": 0.5})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        return trial

    def play(start: int) -> None:
        # The other machine takes a trial and is lost; the worker here does the other one and is told to end.
        if start == 1:
            lost.append(oracle.create_trial("machine 2/ü"))
            assert [finish("worker-1").trial_id, oracle.create_trial("worker-1").status] == ["1", "STOPPED"]
        else:
            assert finish("worker-1").trial_id == "0"

    processes = Played(play)
    monkeypatch.setattr(workers.subprocess, "Popen", processes)
    monkeypatch.setattr(workers, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(workers, "FAREWELL_SECONDS", 0.1)
    workers.search_with_workers(oracle, {}, 1, Listening())
    assert len(processes.environments) == 2 and oracle.end_order == ["1", "0"]
    assert len(warned) == 1 and "machine 2/ü was silent" in warned[0] and "trial 0" in warned[0]
    # if it lives after all, what it says of a trial that has ended changes nothing
    late = copy.copy(lost[0])
    late.status = "FAILED"
    oracle.end_trial(late)
    assert oracle.trials["0"].status == "COMPLETED" and oracle.end_order == ["1", "0"]


def test_a_worker_that_is_heard_of_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerastl.search import workers
    from kerastl.search.search_folder import SearchFolder

    clock = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    folder = SearchFolder(tmp_path)
    silence = workers.Silence(folder)
    for minute in range(20):
        clock[0] += 60
        # its clock may be years behind
        workers.life_file(folder, "a/b").write_text("x")
        os.utime(workers.life_file(folder, "a/b"), (minute, minute))
        assert silence.lost(["a/b", "never"]) == (["never"] if minute in (6, 13) else [])
    clock[0] += workers.SILENT_SECONDS + 1
    assert silence.lost(["a/b"]) == ["a/b"]


def test_a_worker_waits_for_its_chief_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.search import worker
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.workers import NAME, worker_file

    folder = SearchFolder(tmp_path / "search")
    monkeypatch.setattr(worker, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(worker, "WAIT_SECONDS", 0.2)
    with pytest.raises(UserError, match="No chief asked for workers"):
        worker.await_chief(folder)
    monkeypatch.setattr(worker, "WAIT_SECONDS", 60.0)
    folder.path.mkdir()
    chief = threading.Timer(0.3, lambda: worker_file(folder).write_text("{}"))
    chief.start()
    assert worker.await_chief(folder)
    chief.join()
    # after the end there is nothing to wait for
    worker_file(folder).unlink()
    folder.result_json.write_text("{}")
    assert not worker.await_chief(folder)
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(UserError, match=f"{NAME} is not set"):
        worker.main(str(folder.path))


def test_a_worker_with_other_data_is_refused(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.jobs.open import open_splits
    from kerastl.search import worker
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same
    from kerastl.search.workers import NAME, worker_file

    recipe, folder = tiny(solid_colours, tmp_path / "store"), SearchFolder(tmp_path / "search")
    spec = SearchSpec(recipe, *open_splits(recipe)[:1], LINE, SearchSettings(), open_splits(recipe)[1])
    folder.path.mkdir()
    check_same(folder, spec)
    worker_file(folder).write_text(json.dumps(spec.to_dict()))
    known = json.loads(folder.search_json.read_text())
    folder.search_json.write_text(json.dumps({**known, "data": "of the chief"}))
    monkeypatch.setenv(NAME, "machine-2")
    with pytest.raises(UserError, match="other than there: data"):
        worker.main(str(folder.path))
