"""Locks between processes, which end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from kerastl.writing import explain_write_errors


class FileLock:
    """A file lock of the system, shared or exclusive; it ends with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self, exclusive: bool) -> bool:
        """Take the lock if it is free for this use; says whether it was."""
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            # Whoever held the lock before may have removed the file: then this lock is on nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                    self._descriptor = descriptor
                    return True
            os.close(descriptor)

    def _open(self) -> int:
        with contextlib.suppress(FileNotFoundError):  # of a store that somebody else owns, too
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        with explain_write_errors(self.path):
            return os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def share(self) -> None:
        """Turn an exclusive lock into a shared one."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go; harmless when nothing is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def held(self) -> bool:
        """Whether some process, this one included, holds it now."""
        if not self.path.exists():
            return False
        with FileLock(self.path) as probe:
            return not probe.acquire(exclusive=True)
