"""A process of its own, with TensorFlow loaded once, that runs command lines and functions one after the other.

Not the process of pytest: what a deterministic run switches on there cannot be switched off again, and tests of other
files would change the numbers that are held to the bit here.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import io
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command line ended with and wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed under --json; whoever asks for that expects the command to have done its work."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def command(words: tuple[str, ...], folder: Path) -> Answer:
    """Run the installed console script in this process, in a folder."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="kerastl")
    main, out, err, code = script.load(), io.StringIO(), io.StringIO(), None
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int), "the script ends with a number"
    return Answer(code, out.getvalue(), err.getvalue())


class Worker:
    """The process, which starts at the first call."""

    def __init__(self) -> None:
        # Not a fork, which would take along whatever the tests of other files have loaded.
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def run(self, *words: object, folder: Path) -> Answer:
        """`kerastl WORDS` in `folder`."""
        return self.pool.submit(command, tuple(map(str, words)), folder).result()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function of a module of this folder; arguments and result are pickled."""
        return self.pool.submit(function, *arguments).result()


class SharedResults:
    """What several tests look at, each made once, whichever of pytest's processes asks first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pool = folder, ThreadPoolExecutor(1)
        folder.mkdir(exist_ok=True)

    def begin(self, name: str, make: Callable[[Path], Any]) -> None:
        """Make it beside the work of the tests; `made` waits for it, or makes what has not begun."""
        self.pool.submit(self.made, name, make)

    def made(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What `make` returned for a folder of that name; made now, unless it has been before."""
        result = self.folder / f"{name}.pickle"
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                place = self.folder / name
                place.mkdir()
                try:
                    content = pickle.dumps(make(place))
                except BaseException:
                    shutil.rmtree(place)
                    raise
                result.write_bytes(content)
            return pickle.loads(result.read_bytes())


def shared_folder(own: Path) -> Path:
    """The folder for shared results: below pytest's own, or beside those of all processes of one pytest-xdist."""
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "net"
