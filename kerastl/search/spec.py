"""Search spec: recipe, space and settings in one value that all processes of a search agree on."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from kerastl.backbones import get_backbone
from kerastl.data.examples import Splits, listed
from kerastl.errors import UserError, nearest
from kerastl.features.frozen import weights_digest
from kerastl.jobs.artifacts import with_own_files
from kerastl.jobs.open import open_splits
from kerastl.modality import modality_of
from kerastl.model.weights import sha256_of
from kerastl.progress import Progress
from kerastl.recipe import PhaseRecipe, Recipe, Settings, recipe_from_dict, recipe_to_dict
from kerastl.recipe.keys import value_at
from kerastl.recipe.rule import resolve_augment
from kerastl.recipe.schema import HANDED
from kerastl.search.hyperparameters import Hyperparameter, Space, with_values
from kerastl.search.search_folder import SearchFolder, damaged
from kerastl.training.two_phase import finetunes
from kerastl.writing import write_json_atomic

TUNERS = ("bayesian", "hyperband", "random", "grid")
DEFAULT_TRIALS = 20
# Keys whose values may be names of files.
FROM_FILES = ("backbone.name", "backbone.weights", "head.layers")
# What Keras writes down of a layer that is not its own.
OWN_LAYER = re.compile(rb'"registered_name": "([^"]+>[^"]+)"')


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        tuner: `bayesian`, `hyperband`, `random` or `grid`.
        trials: at most; None for 20, and for hyperband and grid as many as they take.
        budget_seconds: no trial begins after so long, counted over all restarts; None for no limit.
        repeats: trainings a trial, each with a seed of its own.
        folds: 0 for the validation split, or into how many parts train and validation together are divided.
        workers: processes on this machine.
    """

    tuner: str = "bayesian"
    trials: int | None = None
    budget_seconds: float | None = None
    repeats: int = 1
    folds: int = 0
    workers: int = 1


@dataclass(frozen=True, eq=False)
class SearchSpec:
    """Search spec: all that a search depends on.

    Attributes:
        recipe: as it was given.
        resolved: the same without open keys.
        space: what is varied.
        settings: how.
        splits: of the data.
        files: folder of networks and layers that were handed over in Python; None where none was.
    """

    recipe: Recipe
    resolved: Settings
    space: Space
    settings: SearchSettings
    splits: Splits
    files: Path | None = None

    @property
    def monitor(self) -> str:
        """The validation metric that is the score: that of the last phase of the recipe as it was given."""
        return self._last.monitor

    @property
    def full_epochs(self) -> int:
        """Hyperband's epochs of a trial that gets all it asks for."""
        return max(self._last.epochs or 1, 3)

    @property
    def trials(self) -> int | None:
        """At most so many; None where the space or Hyperband's brackets set the end."""
        counted = self.settings.tuner in ("bayesian", "random")
        return self.settings.trials or (DEFAULT_TRIALS if counted else None)

    @property
    def measured(self) -> str:
        """The measure of a score, in words."""
        folds, repeats = self.settings.folds, self.settings.repeats
        where = f"{folds} folds of train and validation" if folds else "the validation split"
        return f"`{self.monitor}` on {where}" + (f", mean over {repeats} seeds" if repeats > 1 else "")

    @property
    def _last(self) -> PhaseRecipe:
        last = self.resolved.finetune_phase
        return last if finetunes(last) else self.resolved.head_phase

    def identity(self) -> dict[str, Any]:
        """Plain values that may not change while a search goes on; more trials or time, other workers and another name may."""
        tables = recipe_to_dict(self.recipe)
        for word in ("name", "cache", "calibration"):  # no score depends on them
            tables.pop(word, None)
        for table, key in (name.split(".") for name in FROM_FILES):
            if self._handed(path := Path(str(tables.get(table, {}).get(key)))):
                tables[table][key] = path.name
        return {
            "recipe": tables,
            "space": [asdict(hp) for hp in self.space],
            "tuner": self.settings.tuner,
            "repeats": self.settings.repeats,
            "folds": self.settings.folds,
            "data": self.splits.fingerprint,
            **({"files": files} if (files := self._files()) else {}),
        }

    def _files(self) -> dict[str, str]:
        """sha256 hex of each file that networks or weights are read from: another file may come to have the same name."""
        asked = [value_at(self.recipe, key) for key in FROM_FILES]
        asked += [value for hp in self.space if hp.key in FROM_FILES for value in hp.values]
        paths = {name: Path(name).expanduser() for name in asked if isinstance(name, str)}
        return {
            path.name if self._handed(path) else name: content_of(path)
            if self._handed(path)
            else sha256_of(path)
            for name, path in sorted(paths.items())
            if path.is_file()
        }

    def _handed(self, path: Path) -> bool:
        return self.files is not None and path.parent == self.files

    def kept_in(self, folder: Path) -> SearchSpec:
        """Spec of the same search on copies in its folder of networks and layers that were handed over."""
        if self.files is None:
            return self
        recipe = with_own_files(self.recipe, folder, self.files)
        resolved = with_own_files(self.resolved, folder, self.files)
        return replace(self, recipe=recipe, resolved=resolved, files=folder)

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which another process makes the same spec."""
        return {
            "recipe": recipe_to_dict(self.recipe),
            "space": [asdict(hp) for hp in self.space],
            "settings": asdict(self.settings),
            "files": self.files and str(self.files),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SearchSpec:
        """The spec that `to_dict` wrote; opens the data."""
        recipe = recipe_from_dict(values["recipe"])
        resolved, splits = open_splits(recipe)
        every = [
            Hyperparameter(
                **{**hp, "values": tuple(tuple(v) if isinstance(v, list) else v for v in hp["values"])}
            )
            for hp in values["space"]
        ]
        settings, files = SearchSettings(**values["settings"]), values["files"] and Path(values["files"])
        return SearchSpec(recipe, resolved, Space(tuple(every)), settings, splits, files)


def content_of(path: Path) -> str:
    """sha256 hex of the graph and the weights in a `.keras` file.

    The file also holds when it was written, and names of layers that Keras numbers anew for each model that a process makes.
    """
    with zipfile.ZipFile(path) as file:
        graph = file.read("config.json").decode()
    names = {
        name: f"{place}" for place, name in enumerate(dict.fromkeys(re.findall(r'"name": ("[^"]+")', graph)))
    }
    graph = re.sub(r'"[^"]+"', lambda found: names.get(found[0], found[0]), graph)
    weights = weights_digest(keras.saving.load_model(path, compile=False))
    return hashlib.sha256(f"{graph} {weights}".encode()).hexdigest()


def check_shared(spec: SearchSpec) -> None:
    """Raise UserError where the workers of a search could not read what was handed over in Python."""
    if spec.recipe.data.source.startswith(HANDED):
        raise UserError(
            f"workers: {spec.splits.train.examples.origin} were handed over in Python and lie in this process alone. Use workers=1, or "
            "examples that workers can open themselves: kerastl.from_folder (also of a manifest) or from_tfds"
        )
    for path in map(Path, filter(None, (value_at(spec.recipe, key) for key in FROM_FILES))):
        if spec.files == path.parent and (own := OWN_LAYER.search(zipfile.ZipFile(path).read("config.json"))):
            raise UserError(
                f"workers: {path.name} holds the layer {own[1].decode()}, which only the module knows that registers it; workers do not "
                "import it. Use workers=1, or layers of Keras"
            )


def check_settings(settings: SearchSettings) -> None:
    """Raise UserError with all that is wrong with the settings."""
    problems = []
    if settings.tuner not in TUNERS:
        hint = nearest(settings.tuner, TUNERS)
        problems.append(f"tuner = {settings.tuner!r}: expected one of {', '.join(TUNERS)}.{hint}")
    if settings.folds == 1 or settings.folds < 0:
        problems.append(f"folds = {settings.folds}: expected at least 2, or 0 for the validation split")
    for name in ("trials", "repeats", "workers"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            problems.append(f"{name} = {value}: expected at least 1")
    if problems:
        raise UserError("\n".join(problems))


def check_folds(recipe: Recipe, resolved: Settings, space: Space, settings: SearchSettings) -> None:
    """Raise UserError where some trial's augmentation would mix held-out examples into those that it learns from.

    Args:
        recipe: as it was given.
        resolved: the same without open keys.
        space: what is varied.
        settings: how to search.
    """
    if not settings.folds:
        return
    mixing = [hp for hp in space if hp.key.startswith("augment.")]
    spec = get_backbone(resolved.backbone.name)
    for corner in itertools.product(*(hp.corners() for hp in mixing)):
        values = dict(zip((hp.key for hp in mixing), corner, strict=True))
        augment = resolve_augment(with_values(recipe, values).augment, 1, spec)
        if augment.mixup_alpha or augment.cutmix_alpha:
            shown = ", ".join(f"{key} = {value}" for key, value in values.items()) or "the recipe"
            raise UserError(
                f"folds: the augmentation mixes {modality_of(resolved).noun}s ({shown}), and would mix those that a fold holds out into those "
                "that it learns from. Use repeats, or an augmentation without MixUp and CutMix"
            )


def folder_for(spec: SearchSpec, first: Path, progress: Progress) -> SearchFolder:
    """The folder of this search where the user names none: `first`, or with a number where another search lies there."""
    for number in itertools.count(1):
        folder = SearchFolder(first if number == 1 else first.with_name(f"{first.name}-{number}"))
        if not folder.search_json.is_file() or not _differing(folder, spec):
            break
    if number > 1:
        progress.note(f"{first} holds another search; this one has {folder.path}")
    return folder


def _differing(folder: SearchFolder, spec: SearchSpec) -> list[str]:
    """Names of what differs between this search and that in a folder."""
    wanted = json.loads(json.dumps(spec.identity()))
    try:
        known = json.loads(folder.search_json.read_text(encoding="utf-8"))
        return [name for name in wanted if known.get(name) != wanted[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(folder.search_json, error) from error


def check_same(folder: SearchFolder, spec: SearchSpec) -> None:
    """Write the spec into a folder, or raise UserError where the folder belongs to another search."""
    if not folder.search_json.is_file():
        others = sorted(each.name for each in folder.path.iterdir() if not each.name.startswith("."))
        if others:
            raise UserError(
                f"{folder.path} is not the folder of a search and holds other files ({listed(others)}). Choose an empty or a new "
                "one with --directory."
            )
        write_json_atomic(folder.search_json, json.loads(json.dumps(spec.identity())))
        return
    differing = _differing(folder, spec)
    if differing:
        raise UserError(
            f"{folder.path} holds another search; other than there: {', '.join(differing)}. Trials of two searches "
            "cannot be compared: choose another folder with --directory, or remove this one."
        )
