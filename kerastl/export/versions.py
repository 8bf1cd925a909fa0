"""Published versions: listing, going back, and removing old ones.

TensorFlow Serving serves the largest number. Going back is therefore publishing an older version's files again
under the next number: it works with every server, is one rename like every other version, and can itself be undone.
Which contents were withdrawn follows from that history, so that none of them is served again unless it is named.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kerastl.errors import UserError, nearest
from kerastl.export.folders import (
    is_model_name,
    published_versions,
    remove_leftovers,
    show,
    take_away,
    workspace,
)
from kerastl.writing import explain_write_errors, write_json_atomic, write_text_atomic

EXTRA_FOLDER = "assets.extra"
FACTS_FILE, CARD_FILE = "model.json", "model_card.md"
_ROLLED_BACK = "> **Rolled back:**"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a published model; what its `model.json` does not say is None.

    Attributes:
        name: of the model.
        version: its number.
        path: its folder.
        served: whether it is the one that TensorFlow Serving serves, the largest number.
        rollback_of: the version whose files these are, where it was published by going back.
        withdrawn: whether its files were gone back from; only naming it serves them again.
        accuracy: on the test split.
        test_count: number of examples behind it.
        exported: when, in UTC.
        backbone: the pretrained network.
        recipe: name of the recipe.
        bytes: size of its files. Going back makes links, whose bytes lie on the disk once.
        whole: whether it holds a SavedModel at all.
    """

    name: str
    version: int
    path: Path
    served: bool
    rollback_of: int | None
    accuracy: float | None
    test_count: int | None
    exported: str | None
    backbone: str | None
    recipe: str | None
    bytes: int
    whole: bool
    withdrawn: bool = False

    @property
    def content(self) -> int:
        """The version in which these files first appeared."""
        return self.version if self.rollback_of is None else self.rollback_of


def model_names(models_dir: Path | str) -> list[str]:
    """Models with at least one version, by name."""
    try:
        return sorted(
            base.name for base in Path(models_dir).iterdir() if is_model_name(base.name) and _versions(base)
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_models(models_dir: Path | str, name: str | None = None) -> list[ModelVersion]:
    """All versions of all models, or of one, in rising order.

    Raises:
        UserError: if there is no model of that name.
    """
    names = model_names(models_dir)
    if name is not None and name not in names:
        raise UserError(
            f"There is no model '{name}' in {models_dir}.{nearest(name, names)} Expected "
            f"{'one of: ' + ', '.join(names) if names else 'a model that `kerastl fit` or `kerastl export` made'}."
        )
    return [version for each in names if name in (None, each) for version in _versions_of(models_dir, each)]


def roll_back(models_dir: Path | str, name: str, to: int | None = None) -> ModelVersion:
    """Publish an earlier version again as the next number, so that servers go back to it.

    Args:
        models_dir: folder that TensorFlow Serving watches.
        name: of the model.
        to: the version to go back to. Without it the newest content before what is served now that was not itself
            withdrawn: what was served when a version was gone back from, and what was passed over on the way.

    Returns:
        The new version, which holds the same files and says so in its card and its `model.json`.

    Raises:
        UserError: if there is no such model or version, or it is what is served already.
        WriteError: if the folder cannot be written, or the disk is full.
    """
    target = _target(list_models(models_dir, name), name, to)
    base = Path(models_dir) / name
    with explain_write_errors(base):
        remove_leftovers(base)
        with workspace(base) as temporary:
            _copy_version(target.path, temporary)
            _mark(temporary, target)
            number = show(temporary, base)
    return _read_version(base, number, served=True)


def prune_versions(base: Path, keep: int) -> list[int]:
    """Remove old versions of a model.

    Args:
        base: the model's folder.
        keep: how many of the newest stay, at least 1. The newest is what servers use. Where it came from going
            back, the version that it repeats stays as well.

    Returns:
        Numbers of the removed versions.

    Raises:
        UserError: if `keep` is below 1.
    """
    check_keep(keep)
    versions = _versions(base)
    repeated = _origin(facts_of(base / str(versions[-1])), versions[-1]) if versions else None
    doomed = [number for number in versions[:-keep] if number != repeated]
    with explain_write_errors(base):
        removed = [number for number in doomed if take_away(base, number)]
        remove_leftovers(base)
    return removed


def check_keep(keep: int | None) -> None:
    """Raise UserError unless this many versions can be kept; None keeps all."""
    if keep is not None and keep < 1:
        raise UserError(f"keep = {keep}: expected at least 1, the version that is served.")


def _versions(base: Path) -> list[int]:
    """Numbers whose folders bear them as they are: `007` is a version to servers, and not here."""
    return [number for number in published_versions(base) if (base / str(number)).is_dir()]


def _versions_of(models_dir: Path | str, name: str) -> list[ModelVersion]:
    base = Path(models_dir) / name
    numbers = _versions(base)
    found = [_read_version(base, number, served=number == numbers[-1]) for number in numbers]
    found = [version for version in found if version.path.exists()]  # some may have gone meanwhile
    withdrawn = _withdrawn(found)
    return [replace(version, withdrawn=version.content in withdrawn) for version in found]


def _read_version(base: Path, number: int, served: bool) -> ModelVersion:
    path = base / str(number)
    facts = facts_of(path)
    test = facts.get("test")
    return ModelVersion(
        name=base.name,
        version=number,
        path=path,
        served=served,
        rollback_of=_origin(facts, number),
        accuracy=_fact(test, "accuracy", int, float),
        test_count=_fact(test, "count", int),
        exported=_fact(facts, "exported", str),
        backbone=_fact(facts, "backbone", str),
        recipe=_fact(facts, "recipe", str),
        bytes=_bytes(path),
        whole=(path / "saved_model.pb").is_file(),
    )


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process removes the version
                total += os.stat(os.path.join(place, file)).st_size
    return total


def facts_of(version: Path) -> Mapping[str, Any]:
    """Content of `model.json`; empty where there is none, as in versions that other programs made."""
    try:
        facts = json.loads((version / EXTRA_FOLDER / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _fact(facts: Any, key: str, *kinds: type) -> Any:
    """A value of a description, which another program may have written; None where it is of another kind."""
    value = facts.get(key) if isinstance(facts, dict) else None
    return value if isinstance(value, kinds) else None


def _origin(facts: Mapping[str, Any], number: int) -> int | None:
    """The version that this one repeats; a description that came with files from elsewhere may name no earlier one."""
    origin = facts.get("rollback_of")
    return origin if isinstance(origin, int) and 0 <= origin < number else None


def _withdrawn(versions: list[ModelVersion]) -> set[int]:
    """Contents that were gone back from, or passed over on the way, and not named by --to since."""
    withdrawn: set[int] = set()
    served = -1
    for version in versions:
        withdrawn |= {each.content for each in versions if version.content < each.content <= served}
        withdrawn.discard(version.content)
        served = version.content
    return withdrawn


def _target(versions: list[ModelVersion], name: str, to: int | None) -> ModelVersion:
    whole = [version for version in versions if version.whole]
    numbers = ", ".join(str(version.version) for version in whole)
    if not whole:
        raise UserError(f"No version of model '{name}' holds a SavedModel: there is nothing to go back to.")
    served = versions[-1]
    if to is None:
        before = [version for version in whole if version.content < served.content]
        earlier = [version for version in before if not version.withdrawn]
        if not earlier:
            passed = ", ".join(str(content) for content in sorted({version.content for version in before}))
            raise UserError(
                f"There is no version of model '{name}' before {served.content}, which is served"
                f"{f', but what was withdrawn ({passed})' if passed else ''}. Versions: {numbers}. Name one with --to."
            )
        return max(earlier, key=lambda version: (version.content, version.version))
    found = [version for version in whole if version.version == to]
    if not found:
        raise UserError(f"Model '{name}' has no version {to}. Expected one of: {numbers}.")
    if found[0].content == served.content:
        raise UserError(
            f"Version {to} of model '{name}' is what is served already, as version {served.version}."
        )
    return found[0]


def _copy_version(source: Path, target: Path) -> None:
    """The same files in another folder, by links where the file system has them."""
    try:
        shutil.copytree(source, target, copy_function=_link_or_copy)
    except (FileNotFoundError, shutil.Error) as error:
        if source.exists():
            raise
        # It is renamed before its first file is deleted, so a path that still leads there leads to all of it.
        raise UserError(
            f"{source} was removed while it was read. Nothing was changed; choose another version."
        ) from error


def _link_or_copy(source: str, target: str) -> None:
    if os.access(source, os.W_OK):
        try:
            os.link(source, target)
        except OSError:  # links across devices, or to another user's file, or none at all
            pass
        else:
            return
    shutil.copyfile(source, target)


def _mark(copy: Path, target: ModelVersion) -> None:
    """Say in the copy what it is. The files are replaced, never written to: they may be links."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    extra = copy / EXTRA_FOLDER
    extra.mkdir(exist_ok=True)
    write_json_atomic(
        extra / FACTS_FILE, {**facts_of(copy), "rollback_of": target.content, "rolled_back": now}
    )
    card = extra / CARD_FILE
    title, *rest = card.read_text(encoding="utf-8").splitlines() if card.is_file() else [f"# {target.name}"]
    rest = [line for line in rest if not line.startswith(_ROLLED_BACK)]
    line = f"{_ROLLED_BACK} these are the files of version {target.content}, published again at {now}."
    write_text_atomic(card, "\n".join([title, "", line, *rest]) + "\n")
