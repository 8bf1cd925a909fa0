"""A folder of units of bounded size, shared by all runs and by several processes at once.

One process builds a unit while the others wait (an exclusive lock); whoever reads it keeps it from being
evicted (a shared lock).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.features.sealing import MANIFEST, read_journal, read_manifest
from kerastl.features.unit import ROWS, Unit, UnitKey
from kerastl.locking import FileLock
from kerastl.progress import size_text
from kerastl.writing import NoSpaceError, WriteError, explain_write_errors

DISK_SHARE = 0.5
LISTING_SECONDS = 0.05
MANY_FILES = 16_384
# What `UnitKey.name` makes. Nothing else in the folder is ours to count, list or remove: people keep things beside it.
UNIT_NAME = re.compile(r"(pixels|pooled|activations)-[0-9a-f]{24}")


@dataclass(frozen=True)
class Stored:
    """What a listing says of a unit.

    Attributes:
        name: its folder.
        kind: `pixels`, `pooled` or `activations`.
        bytes: on disk.
        used: when it was last used, in seconds since 1970.
        created: when it was finished; 0 where it was not.
        facts: what its rows depend on.
        about: which data, split and view they were first made for.
        complete: False for a build that was interrupted.
        in_use: whether some process reads or builds it now.
    """

    name: str
    kind: str
    bytes: int
    used: float
    created: float
    facts: Mapping[str, Any]
    about: Mapping[str, Any]
    complete: bool
    in_use: bool


class FeatureStore:
    """A folder of units, of bounded size.

    Args:
        root: the folder; made when it is first written to.
        max_bytes: the size that building a unit may not exceed; the least recently used units make room.
        disk_share: largest part of what is free on the disk that one build may take.
        shared: whether other processes use it, too; one that nobody else knows of needs no locks to be safe.
    """

    def __init__(
        self, root: Path, max_bytes: int, disk_share: float = DISK_SHARE, shared: bool = True
    ) -> None:
        self.root, self.max_bytes, self.disk_share, self.shared = root, max_bytes, disk_share, shared

    @contextlib.contextmanager
    def lease(
        self, keys: Sequence[UnitKey], waiting: Callable[[UnitKey], None] = lambda key: None
    ) -> Iterator[dict[UnitKey, Unit]]:
        """Hold units: complete and verified ones for reading, all others for building.

        While the lease lasts nobody evicts them, and the units that are not `complete` are this process's to
        build, and nobody else's.

        Args:
            keys: which ones.
            waiting: called once for each unit that another process has to finish first.

        Raises:
            WriteError: the store cannot be written, or lies where there are no locks.
        """
        with explain_write_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            units: dict[UnitKey, Unit] = {}
            # One order for all processes, or two could wait for each other.
            for key in sorted(keys, key=lambda key: key.name):
                lock = stack.enter_context(FileLock(self.root / f"{key.name}.lock"))
                units[key] = self._hold(lock, key, waiting)
                stack.callback(units[key].release)
            yield {key: units[key] for key in keys}

    def _hold(self, lock: FileLock, key: UnitKey, waiting: Callable[[UnitKey], None]) -> Unit:
        pause, unsound = 0.0, ""
        while True:
            manifest = _text(self.root / key.name / MANIFEST)
            # What was found damaged is read again only when somebody has built it anew.
            if manifest not in ("", unsound) and self._acquire(lock, exclusive=False):
                unit = Unit(key, self.root / key.name, lock)
                if unit.complete and unit.verify():
                    _touch(unit.path / MANIFEST)
                    return unit
                lock.release()
                unsound = manifest
            if self._acquire(lock, exclusive=True):
                # Somebody else may have built it in between.
                unit = Unit(key, self.root / key.name, lock)
                if unit.complete and unit.verify():
                    lock.share()
                return unit
            if not pause:
                waiting(key)
            pause = min(1.0, pause + 0.1)
            time.sleep(pause)

    def has(self, key: UnitKey) -> bool:
        """Whether a unit is complete, by its manifest alone."""
        return self._unit(key).complete

    def notes(self, key: UnitKey) -> list[Mapping[str, str]]:
        """What was noted of the shards of a complete unit; empty where there is none."""
        return list(self._unit(key).notes.values())

    def lacking(self, keys: Iterable[UnitKey]) -> int:
        """Bytes that the disk still has to find room for; a build that was begun has its own already."""
        return sum(max(0, key.bytes - _size(self.root / key.name / ROWS)) for key in keys)

    def make_room(self, units: Sequence[Unit]) -> None:
        """Evict what was not used for longest until these units fit; never what is in use.

        Raises:
            NoSpaceError: they cannot fit; nothing was evicted.
        """
        wanted = self.lacking(unit.key for unit in units)
        if not wanted:
            return
        room = self.room()
        if room < wanted <= self.room(evicting=True):
            for unit in reversed(self.units()):
                if not unit.in_use and self.remove(unit.name):
                    room = self.room()
                if room >= wanted:
                    return
        if room < wanted:
            raise NoSpaceError(
                f"{size_text(wanted)} do not fit into {self.root}: room for {size_text(room)} is left"
            )

    @property
    def writable(self) -> bool:
        """Whether this user may write there, as far as the system says."""
        return os.access(existing_folder(self.root), os.W_OK)

    def room(self, evicting: bool = False, keeping: Collection[UnitKey] = ()) -> int:
        """Bytes that may still be written: what the cap leaves, and no more than a share of the free disk.

        Args:
            evicting: count what could be evicted as free.
            keeping: units that are not to be evicted though nobody holds them yet.

        Returns:
            0 where the store cannot be written to.
        """
        if not self.writable:
            return 0
        folder = existing_folder(self.root)
        units, kept = self.units(), {key.name for key in keeping}
        free = shutil.disk_usage(folder).free
        idle = sum(u.bytes for u in units if not u.in_use and u.name not in kept) if evicting else 0
        used = sum(unit.bytes for unit in units) - idle
        return max(0, min(self.max_bytes - used, int(self.disk_share * (free + idle))))

    def units(self) -> list[Stored]:
        """All units, the most recently used first."""
        if not self.root.is_dir():
            return []
        found = [self._stored(path) for path in self.root.iterdir() if _is_unit(path)]
        return sorted((unit for unit in found if unit), key=lambda unit: -unit.used)

    def remove(self, name: str) -> bool:
        """Remove a unit, unless some process uses it or it is not ours to remove; says whether it is gone."""
        if not (self.root / name).is_dir():
            return True
        if not _is_unit(self.root / name):
            return False
        try:
            return self._remove(name)
        except (PermissionError, WriteError):
            return False

    def _acquire(self, lock: FileLock, exclusive: bool) -> bool:
        try:
            return lock.acquire(exclusive)
        except OSError as error:
            if not self.shared:
                return True
            raise WriteError(
                f"{self.root} gives no locks ({error.strerror}), without which processes would spoil each other's work. Point "
                "cache.directory or $KERASTL_CACHE_DIR to a folder on a disk of this machine, or on another file system"
            ) from error

    def _remove(self, name: str) -> bool:
        lock = FileLock(self.root / f"{name}.lock")
        with lock:
            # A listing holds the lock for a moment, too.
            if not self._acquire(lock, exclusive=True):
                time.sleep(LISTING_SECONDS)
                if not self._acquire(lock, exclusive=True):
                    return False
            # The manifest goes first: what is left of an interrupted removal is no complete unit.
            (self.root / name / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.root / name, ignore_errors=True)
            lock.path.unlink(missing_ok=True)
        return True

    def _unit(self, key: UnitKey) -> Unit:
        """To look at, without a lock."""
        return Unit(key, self.root / key.name, FileLock(self.root / f"{key.name}.lock"))

    def _stored(self, path: Path) -> Stored | None:
        manifest = read_manifest(path)
        content = manifest or next(iter(read_journal(path)), {})
        try:
            rows = (path / ROWS).stat()
            used = (path / MANIFEST).stat().st_mtime if manifest else rows.st_mtime
        except OSError:
            return None
        return Stored(
            name=path.name,
            kind=path.name.split("-")[0],
            bytes=rows.st_size,
            used=used,
            created=float(content.get("created", 0)),
            facts=content.get("facts", {}),
            about=content.get("about", {}),
            complete=manifest is not None,
            in_use=FileLock(self.root / f"{path.name}.lock").held(),
        )


def existing_folder(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _is_unit(path: Path) -> bool:
    """Whether it is a folder that this store made, by its name; what a link points to may be anybody's."""
    return bool(UNIT_NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a store that may only be read is used all the same
        os.utime(path)


def allow_many_files() -> None:
    """Each unit takes two file descriptors; systems allow few until one asks for more."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < MANY_FILES:
            limit = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
