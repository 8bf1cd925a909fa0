"""The folder of one model's versions: every change of what servers see is one rename.

    saved_models/flowers/7/              a version: visible, whole, never changed
    saved_models/flowers/.tmp-…/         a writer at work: a lock, and `version/`, which becomes `8/`
    saved_models/flowers/.removed-…/     taken away already, still being deleted

TensorFlow Serving looks only at names that are numbers. A writer that is killed therefore leaves leftovers, never
half a version; its lock ends with it, so the next writer knows leftovers from the work of another.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kerastl.locking import NO_LOCKS, FileLock
from kerastl.writing import WriteError, flush_to_disk

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[0-9]+")
_WORKSPACE, _REMOVED, _LOCK = ".tmp-", ".removed-", "lock"
ABANDONED_SECONDS = 600
"""A lock that is free is proof on one machine only: over a network not every file system passes locks on."""


def is_model_name(name: str) -> bool:
    """True if it can be a model's name in TensorFlow Serving's URLs, on the disk, and unescaped in its config."""
    return _MODEL_NAME.fullmatch(name) is not None


def published_versions(base: Path) -> list[int]:
    """Numbers of the versions in a model's folder, rising; empty where there is none."""
    try:
        return sorted(int(child.name) for child in base.iterdir() if _VERSION.fullmatch(child.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def workspace(base: Path) -> Iterator[Path]:
    """A folder of this writer's own beside a model's versions, and gone afterwards, however the body ends.

    Args:
        base: the model's folder, made where it is missing; a new one goes again if nothing was published.

    Yields:
        The folder to build the version in; it is not there yet.
    """
    is_new = not base.exists()
    folder, lock = _open_workspace(base)
    try:
        yield folder / "version"
    finally:
        # First out of reach of those who clean up, then gone: they must not find it unlocked.
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # it holds a version
                base.rmdir()


def _open_workspace(base: Path) -> tuple[Path, FileLock]:
    while True:
        folder = base / f"{_WORKSPACE}{os.getpid()}-{secrets.token_hex(4)}"
        base.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            folder.mkdir()
        except FileNotFoundError:  # another writer failed, and took the new base away
            continue
        try:
            if lock.acquire(exclusive=True):
                return folder, lock
        except FileNotFoundError:  # another process took the folder for a leftover
            continue
        except (OSError, WriteError) as error:
            if isinstance(error, OSError) and error.errno in NO_LOCKS:
                return folder, lock  # a file system without locks: there no leftovers are removed
            shutil.rmtree(folder, ignore_errors=True)
            raise


def show(built: Path, base: Path) -> int:
    """Make a version visible: one rename to the lowest number above all others.

    A folder cannot be renamed onto one that holds files, so of two writers with the same number the later
    one fails and takes the next.

    Args:
        built: the version, whole, in a `workspace` of `base`.
        base: the model's folder.

    Returns:
        Its number.
    """
    for path in (*built.rglob("*"), built):
        flush_to_disk(path)
    version = max(published_versions(base), default=0) + 1
    while True:
        target = base / str(version)
        try:
            os.rename(built, target)
        except OSError:
            if not target.exists():
                raise
            version += 1
        else:
            flush_to_disk(base)
            return version


def take_away(base: Path, version: int) -> bool:
    """Remove a version: out of sight by one rename, then deleted; says whether it was there."""
    if not _hide(base / str(version)):
        return False
    flush_to_disk(base)
    remove_leftovers(base)
    return True


def remove_leftovers(base: Path) -> None:
    """Delete what writers left that were killed; what belongs to a living one stays."""
    try:
        children = list(base.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for child in children:
        if child.name.startswith(_REMOVED):
            if child.is_symlink():  # where to it leads is its owner's, and stays
                child.unlink(missing_ok=True)
            shutil.rmtree(child, ignore_errors=True)  # another may be deleting it, too
        elif child.name.startswith(_WORKSPACE) and _is_old(child):
            with FileLock(child / _LOCK) as lock, contextlib.suppress(OSError, WriteError):
                # Renamed before it is deleted: should its writer live after all, on a machine whose lock is not
                # seen here, then its own rename fails, and no part of it becomes visible.
                if lock.acquire(exclusive=True) and (hidden := _hide(child)):
                    shutil.rmtree(hidden, ignore_errors=True)


def _hide(folder: Path) -> Path | None:
    hidden = folder.with_name(f"{_REMOVED}{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        os.rename(folder, hidden)
    except FileNotFoundError:  # another process was faster
        return None
    return hidden


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False
