"""The folder of one run: where each piece lies, and how it is written so that no reader ever sees half of it.

Everything needed to repeat, audit or export a run lies in `runs/<time>-<name>/`. Each file is written
beside its place and renamed over it, so an interrupted run leaves either the old file or the new one.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kerastl.errors import UserError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REPORTED_PACKAGES = (
    "kerastl",
    "tensorflow",
    "keras",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "tensorflow-datasets",
)


class WriteError(UserError):
    """A file or folder cannot be written where it should go."""


class NoSpaceError(WriteError):
    """The disk, or the user's share of it, is full."""


@dataclass(frozen=True)
class Run:
    """The folder of one run. Each property is the path of one piece, whether or not it exists yet."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name, `<time>-<name>`."""
        return self.path.name

    @property
    def recipe_toml(self) -> Path:
        """The recipe as resolved; `kerastl fit` on it repeats the run."""
        return self.path / "recipe.toml"

    @property
    def environment_json(self) -> Path:
        """What `environment()` said when the run began."""
        return self.path / "environment.json"

    @property
    def data_json(self) -> Path:
        """Origin, fingerprint, counts and unreadable files of the data."""
        return self.path / "data.json"

    @property
    def splits_csv(self) -> Path:
        """The split of each example."""
        return self.path / "splits.csv"

    @property
    def plan_txt(self) -> Path:
        """Which block trains in which phase, at which rate."""
        return self.path / "plan.txt"

    @property
    def head_phase_csv(self) -> Path:
        """History of the head phase, a row an epoch."""
        return self.path / "head_phase.csv"

    @property
    def finetune_phase_csv(self) -> Path:
        """History of the fine-tune phase, a row an epoch."""
        return self.path / "finetune_phase.csv"

    @property
    def model_keras(self) -> Path:
        """The winner, loadable with Keras alone."""
        return self.path / "model.keras"

    @property
    def report_json(self) -> Path:
        """The result, for programs."""
        return self.path / "report.json"

    @property
    def report_md(self) -> Path:
        """The result, for people."""
        return self.path / "report.md"

    @property
    def curves_png(self) -> Path:
        """Learning curves of both phases."""
        return self.path / "curves.png"

    @property
    def confusion_png(self) -> Path:
        """Confusion matrix of the test split."""
        return self.path / "confusion.png"

    @property
    def augmentation_png(self) -> Path:
        """Some training images beside their augmented views."""
        return self.path / "augmentation.png"

    @property
    def log_txt(self) -> Path:
        """What was said while the run went on."""
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files, where they were asked for."""
        return self.path / "tensorboard"

    @property
    def scratch(self) -> Path:
        """Folder of what may be thrown away when the run has ended."""
        return self.path / "scratch"


def create_run(runs_dir: Path | str, name: str) -> Run:
    """Make the folder of a new run.

    Args:
        runs_dir: the folder of all runs; made where it is missing.
        name: of the run: letters, digits, `_`, `-` and `.`; `safe_name` makes one from any text.

    Returns:
        The run; its folder `<YYYYmmdd-HHMMSS>-<name>` is new, also when two begin in one second
        (the later one ends in `-2`).

    Raises:
        UserError: if the name cannot be part of a folder's name.
        WriteError: if the folder cannot be made.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"A run cannot be named {name!r}: expected letters, digits, '_', '-' and '.', beginning with a letter "
            f"or digit. For example {safe_name(name)!r}."
        )
    runs = Path(runs_dir)
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    with explain_write_errors(runs / stem):
        runs.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = runs / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return Run(path)


def open_run(path: Path | str, needs: Sequence[str] = ("recipe.toml", "model.keras")) -> Run:
    """The run in a folder that `create_run` made.

    Args:
        path: the run's folder.
        needs: names of the pieces that must be there.

    Raises:
        UserError: if there is no such folder, or pieces are missing; each of them is named.
    """
    folder = Path(path)
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected the folder of a run.{_hint_of_parent(folder)}")
    if not folder.is_dir():
        near = nearest(folder.name, _folder_names(folder.parent))
        raise UserError(f"There is no run at {folder}.{near} Expected a folder that `kerastl fit` made.")
    missing = [name for name in needs if not (folder / name).exists()]
    if not missing:
        return Run(folder)
    runs = sorted(child for child in _folder_names(folder) if (folder / child / "recipe.toml").exists())
    if runs:
        raise UserError(
            f"{folder} holds {len(runs)} runs; name one of them, for example {folder / runs[-1]}."
        )
    if len(missing) < len(needs):
        how = "The run was not finished, or it was moved in part: repeat it with `kerastl fit`."
        if (folder / "recipe.toml").exists():
            how = f"The run was not finished: repeat it with `kerastl fit {folder / 'recipe.toml'}`."
        raise UserError(f"The run {folder} lacks {', '.join(missing)}. {how}")
    raise UserError(f"{folder} is not the folder of a run: it lacks {', '.join(missing)}.")


def _folder_names(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir() if child.is_dir()]
    except OSError:
        return []


def _hint_of_parent(file: Path) -> str:
    return f" Did you mean '{file.parent}'?" if (file.parent / "recipe.toml").exists() else ""


def safe_name(text: str, otherwise: str = "run") -> str:
    """A name made from any text that can stand in a path and in a TensorFlow Serving URL.

    Example:
        >>> safe_name("Cats & dogs/2024")
        'Cats-dogs-2024'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:80] or otherwise


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


def write_json_atomic(path: Path | str, value: Any) -> None:
    """Write plain Python values as indented JSON.

    NaN and infinities are refused: other programs cannot read them. `None` stands for what is not known.

    Raises:
        TypeError, ValueError: if `value` holds what JSON does not know; nothing is written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
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


def environment() -> dict[str, Any]:
    """What a run depends on beside its recipe: Python, machine and package versions (`None`: not installed)."""
    versions: dict[str, str | None] = {}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count() or 1,
        "versions": versions,
    }
