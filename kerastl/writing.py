"""Writing files so that nobody ever sees half of one, and saying how to mend it where that fails."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kerastl.errors import UserError


class WriteError(UserError):
    """A file or folder cannot be written where it should go."""


class NoSpaceError(WriteError):
    """The disk, or the user's share of it, is full."""


@contextmanager
def replace_atomically(path: Path | str) -> Iterator[Path]:
    """Write a file so that readers see the old one or the whole new one, never a part.

    Args:
        path: where the file will be, with its final suffix; its folder must exist.

    Yields:
        The path to write to: in the same folder (a rename is atomic only within one file system) and with
        the same suffix (Keras chooses the format by it). If the body raises, it is removed and `path` stays.

    Raises:
        WriteError: if the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
    try:
        with explain_write_errors(target):
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, target)
            flush_to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8; see `replace_atomically`."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json_atomic(path: Path | str, value: Any, compact: bool = False) -> None:
    """Write plain Python values as JSON, indented unless it is to be compact.

    NaN and infinities are refused: other programs cannot read them. `None` stands for what is not known.

    Raises:
        TypeError, ValueError: if `value` holds what JSON does not know; nothing is written.
    """
    text = json.dumps(value, indent=None if compact else 2, ensure_ascii=False, allow_nan=False)
    write_text_atomic(path, text + "\n")


def flush_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, lie on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # file systems without fsync
            raise
    finally:
        os.close(descriptor)


@contextmanager
def explain_write_errors(path: Path | str) -> Iterator[None]:
    """Turn what the system says while `path` is written into a message that says how to mend it.

    Raises:
        NoSpaceError: if the disk or the quota is full, also where HDF5 or TensorFlow found out.
        WriteError: if the place is not writable. Other errors pass as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        text = str(error)
        if (
            code in (errno.ENOSPC, errno.EDQUOT)
            or "No space left on device" in text
            or "quota exceeded" in text
        ):
            raise NoSpaceError(
                f"No space left while writing {path}{_free_space(Path(path))}. Nothing incomplete was left there. "
                "Free some space, or point to another disk, and start again."
            ) from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WriteError(
                f"{path} cannot be written ({os.strerror(code)}). Expected a folder in which you may write: change its "
                "permissions, or point to another one."
            ) from error
        if code in (errno.ENOTDIR, errno.EEXIST):
            raise WriteError(
                f"{path} cannot be made: a file is in the way. Point to another folder."
            ) from error
        raise


def _free_space(path: Path) -> str:
    existing = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    try:
        return f" ({shutil.disk_usage(existing).free / 2**20:.0f} MiB free)" if existing else ""
    except OSError:
        return ""
