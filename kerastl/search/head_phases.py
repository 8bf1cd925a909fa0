"""Head phases that were run: kept in the search's folder, so that trials which differ in the fine-tune phase share them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastl import __version__
from kerastl.features.frozen import FEATURES_VERSION
from kerastl.locking import FileLock
from kerastl.progress import Progress
from kerastl.recipe import Settings
from kerastl.recipe.keys import affecting, value_at
from kerastl.search.hyperparameters import FINETUNE
from kerastl.training.phase import PhaseResult
from kerastl.writing import replace_atomically

PAUSE_SECONDS = 0.2


def head_key(recipe: Settings, data: str, fold: int | None) -> dict[str, Any]:
    """All that a head phase depends on, in plain values; the fine-tune phase is no part of it.

    Args:
        recipe: resolved.
        data: fingerprint of the data and its splits.
        fold: which fold is held out; None without folds.
    """
    trained = affecting(Settings, "data", "features", "head", "step", "value")
    names = [name for name in trained if not name.startswith(FINETUNE)]
    return {
        **{name: value_at(recipe, name) for name in ("seed", "deterministic", *names)},
        "fingerprint": data,
        "fold": fold,
        "precision": keras.config.dtype_policy().name,
        "versions": [__version__, keras.__version__, tf.__version__, FEATURES_VERSION],
    }


class HeadPhases:
    """Head phases on disk, by what they depend on.

    Args:
        folder: where they are kept; made when the first is written.
        progress: listens.

    Attributes:
        trained: how many were run.
        reused: how many were taken from here.
    """

    def __init__(self, folder: Path, progress: Progress = Progress()) -> None:
        self.folder, self._progress = folder, progress
        self.trained = self.reused = 0

    def get(self, key: Mapping[str, Any], train: Callable[[], PhaseResult]) -> PhaseResult:
        """The head phase under this key: read, or run now."""
        text = json.dumps(key, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        path = self.folder / f"{name}.npz"
        before = self.trained
        result = self._read(path, text) or self._run(path, text, train)
        self.reused += self.trained == before
        return result

    def _run(self, path: Path, key: str, train: Callable[[], PhaseResult]) -> PhaseResult:
        """Run a head phase, or wait for the process that runs the same one and read its result."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")) as lock:
            while not lock.acquire(exclusive=True):
                time.sleep(PAUSE_SECONDS)
            result = self._read(path, key)
            if result is None:
                result = train()
                self.trained += 1
                if result.ended != "interrupted":
                    self._write(path, key, result)
            return result

    def _write(self, path: Path, key: str, result: PhaseResult) -> None:
        facts = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "weights"}
        arrays = {f"weights_{place}": array for place, array in enumerate(result.weights)}
        with replace_atomically(path) as temporary:
            np.savez(temporary, **{"key": np.array(key), "facts": np.array(json.dumps(facts)), **arrays})  # type: ignore[arg-type]

    def _read(self, path: Path, key: str) -> PhaseResult | None:
        if not path.is_file():
            return None
        try:
            # The archive's own checksums find what is damaged.
            with np.load(path, allow_pickle=False) as held:
                if str(held["key"]) != key:
                    return None
                facts = json.loads(str(held["facts"]))
                weights = tuple(held[f"weights_{place}"] for place in range(len(held.files) - 2))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self._progress.warn(f"{path} is damaged ({error}); this head phase is run again")
            return None
        facts["history"] = tuple(facts["history"])
        return PhaseResult(weights=weights, **facts)
