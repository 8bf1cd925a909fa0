"""Making a version visible to servers: all of it at once, and only after it passed its check.

TensorFlow Serving polls `saved_models/<name>/` and serves the largest folder whose name is a number.
A version is therefore built and checked in a folder of another name, and renamed at the very end.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kerastl.errors import ExportError, UserError
from kerastl.export.parity import ParityResult
from kerastl.run import safe_name
from kerastl.writing import explain_write_errors, flush_to_disk

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[0-9]+")
EXTRA_FOLDER = "assets.extra"


@dataclass(frozen=True)
class ExportedModel:
    """A version that servers can see.

    Attributes:
        path: its folder, `<models_dir>/<name>/<version>`.
        name: of the model.
        version: its number.
        signatures: names of its signatures.
        largest_difference: of a probability between this version, reloaded, and the model in memory.
        image_count: number of images on which the two were compared.
    """

    path: Path
    name: str
    version: int
    signatures: tuple[str, ...]
    largest_difference: float
    image_count: int


def publish(
    build: Callable[[Path], None],
    check: Callable[[Path], ParityResult],
    models_dir: Path | str,
    name: str,
    extra_files: Mapping[str, str | bytes] | None = None,
) -> ExportedModel:
    """Build a version, check it, and make it visible by one rename.

    Older versions stay. Several processes may publish the same name at once: each gets a number of its own.

    Args:
        build: writes the SavedModel into the folder that it is given, which does not exist yet.
        check: compares what was written with the model in memory.
        models_dir: folder that TensorFlow Serving watches; made where it is missing.
        name: of the model: letters, digits, `_`, `-` and `.`.
        extra_files: file name → content, written to `assets.extra/`, which servers leave alone.

    Raises:
        UserError: if the name is not one that TensorFlow Serving takes.
        ExportError: if the check did not pass; says what differed.
        WriteError: if the folder cannot be written, or the disk is full.
        Whatever else happens, a Ctrl-C included: nothing is visible and the temporary folder is gone.
    """
    check_model_name(name)
    base = Path(models_dir) / name
    is_new = not base.exists()
    temporary = base / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with explain_write_errors(base):
            base.mkdir(parents=True, exist_ok=True)
            build(temporary)
            _write_extra_files(temporary, extra_files or {})
            result = check(temporary)
            if not result.passed:
                raise ExportError(_failure(name, base, result))
            for path in (*temporary.rglob("*"), temporary):
                flush_to_disk(path)
            version = _rename_to_next_version(temporary, base)
            flush_to_disk(base)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # another writer published meanwhile
                base.rmdir()
        raise
    return ExportedModel(
        path=base / str(version),
        name=name,
        version=version,
        signatures=result.signatures,
        largest_difference=result.largest_difference,
        image_count=result.count,
    )


def published_versions(base: Path) -> list[int]:
    """Numbers of the versions in a model's folder, rising; empty where there is none."""
    try:
        return sorted(int(child.name) for child in base.iterdir() if _VERSION.fullmatch(child.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_model_name(name: str) -> None:
    """Raise UserError unless `name` can be a model's name in TensorFlow Serving's URLs and on the disk."""
    if not _MODEL_NAME.fullmatch(name):
        raise UserError(
            f"A model cannot be named {name!r}: expected letters, digits, '_', '-' and '.', not beginning with '-' "
            f"or '.'. For example {safe_name(name, otherwise='model')!r}."
        )


def _write_extra_files(temporary: Path, extra_files: Mapping[str, str | bytes]) -> None:
    for name, content in extra_files.items():
        target = temporary / EXTRA_FOLDER / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def _rename_to_next_version(temporary: Path, base: Path) -> int:
    """Rename to the lowest free number above all others.

    A folder cannot be renamed onto one that holds files, so of two writers with the same number the later
    one fails and takes the next.
    """
    version = max(published_versions(base), default=0) + 1
    while True:
        target = base / str(version)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.exists():
                raise
            version += 1
        else:
            return version


def _failure(name: str, base: Path, result: ParityResult) -> str:
    versions = published_versions(base)
    stays = f"version {versions[-1]} stays the latest" if versions else "there is no version yet"
    lines = "\n".join(f"  - {problem}" for problem in result.problems)
    return (
        f"The exported model '{name}' does not answer as the model it was made from, over {result.count} images. "
        f"Nothing was published; {stays}.\n{lines}"
    )
