"""The folder of one run: where each piece lies, and how it is written so that no reader ever sees half of it.

Everything needed to repeat, audit or export a run lies in `runs/<time>-<name>/`. Each file is written
beside its place and renamed over it, so an interrupted run leaves either the old file or the new one.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kerastl import __version__
from kerastl.errors import UserError, nearest
from kerastl.wording import is_name, safe_name
from kerastl.writing import explain_write_errors

_REPORTED_PACKAGES = (
    "kerastl",
    "tensorflow",
    "keras",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "tensorflow-datasets",
)


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
        """Content of `environment()` when the run began, and the engine of the frozen part (None: all came from the store)."""
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
    def backbone_keras(self) -> Path:
        """The backbone, where it was handed over in Python."""
        return self.path / "backbone.keras"

    @property
    def head_keras(self) -> Path:
        """The head's own layers, where they were handed over in Python."""
        return self.path / "head.keras"

    @property
    def check_examples(self) -> Path:
        """Folder of some validation and test examples, where the data were handed over in Python: an export is checked on them."""
        return self.path / "images"

    @property
    def calibration_json(self) -> Path:
        """The temperatures that the winner's last layer holds, and the threshold of its answers."""
        return self.path / "calibration.json"

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
    def predictions_csv(self) -> Path:
        """The winner's answers to each validation and test example, the largest loss first."""
        return self.path / "predictions.csv"

    @property
    def near_copies_csv(self) -> Path:
        """Test and validation examples that are nearly the same as one that they are held out from."""
        return self.path / "near_copies.csv"

    @property
    def worst_png(self) -> Path:
        """The test examples that it is most wrong about."""
        return self.path / "worst.png"

    @property
    def worst_csv(self) -> Path:
        """The same of examples that are no pictures, with what the network saw of each."""
        return self.path / "worst.csv"

    @property
    def confusion_png(self) -> Path:
        """Confusion matrix of the test split."""
        return self.path / "confusion.png"

    @property
    def augmentation_png(self) -> Path:
        """Some training examples beside their augmented views."""
        return self.path / "augmentation.png"

    @property
    def log_txt(self) -> Path:
        """Messages of the run."""
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
    if not is_name(name):
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


def environment() -> dict[str, Any]:
    """Facts that a run depends on beside its recipe, as environment.json holds them.

    Returns:
        Python, system, processor, GPUs (known once TensorFlow is loaded, None before), the command line, versions of
        what does the work (None: not installed) and of all that is installed.
    """
    packages = {"kerastl": __version__}
    for each in importlib.metadata.distributions():
        packages.setdefault(each.name, each.version)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_count": os.cpu_count() or 1,
        "gpus": _gpus(),
        "command": _command(),
        "versions": {name: packages.get(name) for name in _REPORTED_PACKAGES},
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _processor() -> str:
    """The processor's own name, which `platform` knows on Windows alone."""
    try:
        if sys.platform == "darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> list[str] | None:
    """Names of the GPUs that TensorFlow sees. It is not loaded for that: it would take seconds."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return None
    config = tensorflow.config
    devices = config.list_physical_devices("GPU")
    return [
        config.experimental.get_device_details(device).get("device_name", device.name) for device in devices
    ]


def _command() -> str:
    """The command line of this process, without the folder of the program."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])
