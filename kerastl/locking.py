"""Locks between processes, which end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from kerastl.errors import UserError
from kerastl.writing import explain_write_errors

try:
    import fcntl
except ImportError:  # Windows: help, listings and asking a server need no locks
    fcntl = None  # type: ignore[assignment]

# What a file system says that gives no locks, or none of this kind.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
_MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_locks() -> None:
    """Raise UserError where the system has no locks of this kind: before the work, which would end at the first."""
    if fcntl is None:
        raise UserError(
            "This needs file locks (Python's module fcntl), which Windows does not have: they keep several processes from "
            "writing the same files. kerastl trains and publishes on Linux, macOS and in Windows' Linux subsystem (WSL, "
            "`wsl --install`); help, listings and `kerastl predict` work here as well."
        )


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
        """Take the lock if it is free for this use; says whether it was.

        Raises:
            WriteError: the file can neither be opened nor made.
            OSError: its folder is missing, or the file system gives no locks (`NO_LOCKS`).
            UserError: the whole system has none.
        """
        check_locks()
        while True:
            descriptor = self._open(exclusive)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:
                os.close(descriptor)
                raise
            # Whoever held the lock before may have removed the file: then this lock is on nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                    self._descriptor = descriptor
                    return True
            os.close(descriptor)

    def _open(self, exclusive: bool) -> int:
        with explain_write_errors(self.path):
            if exclusive:
                try:  # NFS locks a file exclusively only for those who may write to it
                    return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except OSError as error:
                    if error.errno not in _MAY_NOT_WRITE:
                        raise
            with contextlib.suppress(FileNotFoundError):  # of a store that somebody else owns, too
                return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @property
    def acquired(self) -> bool:
        """True if this object holds it."""
        return self._descriptor is not None

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
        """True if some process, this one included, holds it now, or if that cannot be told."""
        if not self.path.exists():
            return False
        with FileLock(self.path) as probe:
            try:
                return not probe.acquire(exclusive=True)
            except (OSError, UserError):
                return True
