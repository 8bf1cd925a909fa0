"""The folder of a store: who uses what in it, how much room there is, and what makes room.

What a process is about to compute, and what it reads, it says in a marker: a file that it holds a lock on as long as it
lives. A marker whose lock is free belongs to nobody any more. Nothing is evicted that a living process reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.locking import FileLock
from kerastl.progress import size_text
from kerastl.store.block import is_block
from kerastl.writing import NoSpaceError, WriteError, explain_write_errors

DISK_SHARE = 0.5
MANY_FILES = 2**16
KEY_FILE, CLAIM, HOLD = "array.json", ".claim", ".hold"
# Nothing else in the folder is the store's to count, list or remove: people keep things beside it. An array of this
# format has `KEY_FILE`; before it there were arrays of these three kinds.
ARRAY_NAME = re.compile(r"[a-z_]+-[0-9a-f]{24}")
OLD_NAME = re.compile(r"(pixels|pooled|activations)-[0-9a-f]{24}")


@dataclass(frozen=True)
class Stored:
    """Entry of an array in a listing.

    Attributes:
        name: its folder.
        kind: the output, such as `pooled`.
        bytes: on disk.
        blocks: files of rows.
        used: when any of it was last used, in seconds since 1970.
        created: when it was begun; 0 where that is not known.
        facts: what its rows depend on.
        about: which data it was first made for.
        complete: False for what an earlier version of kerastl left, in another format.
        in_use: whether a living process reads it or adds to it.
    """

    name: str
    kind: str
    bytes: int
    blocks: int
    used: float
    created: float
    facts: Mapping[str, Any]
    about: Mapping[str, Any]
    complete: bool
    in_use: bool


class Folder:
    """The folder of a store, of bounded size, which several processes may use.

    Args:
        root: the folder; made when it is first written to.
        max_bytes: the size that it may not exceed; what was not used for longest makes room.
        disk_share: largest part of what is free on the disk that may be taken at once.
        shared: whether other processes use it, too; one that nobody else knows of needs no locks to be safe.
    """

    def __init__(
        self, root: Path, max_bytes: int, disk_share: float = DISK_SHARE, shared: bool = True
    ) -> None:
        self.root, self.max_bytes, self.disk_share, self.shared = root, max_bytes, disk_share, shared

    @contextlib.contextmanager
    def marker(self, folder: Path, suffix: str, content: bytes) -> Iterator[None]:
        """A file that says something of this process as long as it lives."""
        path = folder / f"{secrets.token_hex(8)}{suffix}"
        with FileLock(path) as lock:
            while not self.acquire(lock):  # a listing tries it for a moment
                time.sleep(0.001)
            try:
                with explain_write_errors(path):
                    path.write_bytes(content)
                yield
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the store for a moment: to look who computes what, and to evict.

        Raises:
            WriteError: the store cannot be written, or lies where there are no locks.
        """
        with explain_write_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock") as lock:
            while not self.acquire(lock):
                time.sleep(0.01)
            yield

    def acquire(self, lock: FileLock) -> bool:
        """Take a lock if it is free; says whether it was.

        Raises:
            WriteError: there are no locks, and others use the store.
        """
        try:
            return lock.acquire(exclusive=True)
        except OSError as error:
            if not self.shared:
                return True
            raise WriteError(
                f"{self.root} gives no locks ({error.strerror}), without which processes would spoil each other's work. Point "
                "cache.directory or $KERASTL_CACHE_DIR to a folder on a disk of this machine, or on another file system"
            ) from error

    @property
    def writable(self) -> bool:
        """True if this user may write there, as far as the system says."""
        return os.access(existing_folder(self.root), os.W_OK)

    def room(self) -> int:
        """Bytes that may still be written: what the cap leaves, and no more than a share of the free disk.

        What could be evicted counts as free. 0 where the store cannot be written to.
        """
        if not self.writable:
            return 0
        try:
            used, free = self._extents()
        except OSError:
            return 0
        idle = sum(size for _, size, _ in self._idle())
        return max(0, min(self.max_bytes - used + idle, int(self.disk_share * (free + idle))))

    def make_room(self, lacking: int) -> None:
        """Evict blocks that were not used for longest until so many bytes fit; never what is in use.

        Raises:
            NoSpaceError: they cannot fit; nothing was evicted.
        """
        with self.locked():
            if (room := self.room()) < lacking:
                raise NoSpaceError(
                    f"{size_text(lacking)} do not fit into {self.root}: room for {size_text(room)} is left"
                )
            used, free = self._extents()
            for path, size, _ in sorted(self._idle(remove=True), key=lambda each: each[2]):
                if min(self.max_bytes - used, int(self.disk_share * free)) >= lacking:
                    return
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    used, free = used - size, free + size

    def _extents(self) -> tuple[int, int]:
        """Bytes of all arrays, and what is free on the disk."""
        used = sum(_extent(folder)[0] for folder in self._folders())
        return used, shutil.disk_usage(existing_folder(self.root)).free

    def _idle(self, remove: bool = False) -> list[tuple[Path, int, float]]:
        """Path, size and last use of what may be evicted: blocks, and whole arrays of another format."""
        found = []
        for folder in self._folders():
            if not (folder / KEY_FILE).is_file():
                size, _, used = _extent(folder)
                found += [] if FileLock(folder.with_suffix(".lock")).held() else [(folder, size, used)]
                continue
            held = {name for text in living(folder, HOLD, remove) for name in text.decode().split("\n")}
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                blocks = [entry for entry in entries if is_block(entry.name) and entry.name not in held]
                found += [
                    (Path(each.path), (state := each.stat()).st_size, state.st_mtime) for each in blocks
                ]
        return found

    def arrays(self) -> list[Stored]:
        """All arrays on the disk, the most recently used first."""
        found = [stored for folder in self._folders() if (stored := _stored(folder))]
        return sorted(found, key=lambda array: -array.used)

    def old(self) -> list[Stored]:
        """Arrays of a format that an earlier version wrote."""
        return [array for array in self.arrays() if not array.complete]

    def remove(self, name: str) -> bool:
        """Remove an array, unless a living process uses it or it is not ours to remove; says whether it is gone."""
        folder = self.root / name
        if not folder.is_dir():
            return True
        if not _is_array(folder):
            return False
        try:
            with self.locked():
                stored = _stored(folder)
                if stored is not None and stored.in_use:
                    return False
                shutil.rmtree(folder)
                folder.with_suffix(".lock").unlink(missing_ok=True)
        except (OSError, WriteError):
            return False
        return True

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if _is_array(path))


def existing_folder(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def allow_many_files() -> None:
    """Each block in use takes a file descriptor; systems allow few until one asks for more."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < MANY_FILES:
            limit = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def living(folder: Path, suffix: str, remove: bool = False) -> list[bytes]:
    """Contents of the markers of living processes; with `remove`, by a process that has the store to itself, other markers go."""
    found = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(OSError):
            if FileLock(path).held():
                found.append(path.read_bytes())
            elif remove:
                path.unlink()
    return found


def _is_array(path: Path) -> bool:
    """True if a store made this folder, by its name; a link may point to any other folder."""
    if path.is_symlink() or not path.is_dir():
        return False
    named = ARRAY_NAME.fullmatch(path.name) and (path / KEY_FILE).is_file()
    return bool(named or OLD_NAME.fullmatch(path.name))


def _extent(folder: Path) -> tuple[int, int, float]:
    """Bytes and number of the files of rows, and when the newest was used; of all files where the format is another."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        old = not (folder / KEY_FILE).is_file()
        states = [entry.stat() for entry in entries if old or is_block(entry.name)]
        used = max((state.st_mtime for state in states), default=0.0)
        return sum(state.st_size for state in states), len(states), used
    return 0, 0, 0.0


def _stored(folder: Path) -> Stored | None:
    size, blocks, used = _extent(folder)
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        read = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
        content = read if isinstance(read, dict) else {}
    in_use = bool(living(folder, HOLD) or living(folder, CLAIM))
    return Stored(
        name=folder.name,
        kind=folder.name.rsplit("-", 1)[0],
        bytes=size,
        blocks=blocks,
        used=used,
        created=created if isinstance(created := content.get("created"), (int, float)) else 0.0,
        facts=facts if isinstance(facts := content.get("facts"), dict) else {},
        about=about if isinstance(about := content.get("about"), dict) else {},
        complete=bool(content),
        in_use=in_use or FileLock(folder.with_suffix(".lock")).held(),
    )
