"""A folder with one folder a class, flat or under train/, validation/ and test/: what most users have."""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kerastl.backbones import BUNDLED_DATA
from kerastl.data.duplicates import equal_files
from kerastl.data.examples import (
    CARVE,
    TRAIN,
    Examples,
    files_in,
    fingerprint,
    listed,
    repeated,
    text_column,
)
from kerastl.data.kinds import Kind, kind_in
from kerastl.data.names import SPLIT_WORDS
from kerastl.data.skipped import SkippedNames, printable
from kerastl.errors import DataError
from kerastl.modality.image.files import is_hidden, suffix_of

_SAME_NAMES = 2


@dataclass
class _Found:
    """Columns while they grow, a row for each file of an example."""

    kind: Kind
    ids: list[str] = field(default_factory=list)
    labels: array[int] = field(default_factory=lambda: array("i"))
    splits: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    changed: array[int] = field(default_factory=lambda: array("q"))
    skipped: SkippedNames = field(init=False)
    barren: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.skipped = SkippedNames(self.kind.lost_suffixes)


def open_folder(root: Path, group_subfolders: bool = False, kind: Kind | None = None) -> Examples:
    """Index a folder of images or texts: the name of a class is the name of its folder.

    Folders nested below a class belong to it. Links to files and folders are followed; a folder that
    one class reaches in two ways is read once, so that neither circles nor copies of an image under a
    second identity come of it. A file counts as a picture by its suffix, or else by its first bytes; other
    files are counted in `warnings` and listed in `skipped`. Texts without a label that lie in a folder beside the
    classes (`train/unsup` of the Large Movie Review Dataset) are left out.

    Args:
        root: either the folder of classes, or one with train/ and perhaps validation/ (also val/,
            valid/) and test/, in any case.
        group_subfolders: examples in folders of the same name below class folders are one group.
        kind: of its files; what most of them are without it.

    Raises:
        DataError: if there are no examples, they do not lie in class folders, or a class folder holds only files
            that are none.
    """
    root_text = str(root)
    kind = kind or kind_in(root)
    found, layout = _Found(kind), kind.layout
    folders, files = _listing(root_text, "", found)
    loose = [name for name in files if suffix_of(name) in kind.suffixes]
    if not folders and not files:
        raise DataError(f"The data folder '{root}' is empty. {layout}.")
    if not folders:
        what = (
            f"{len(loose):,} {kind.noun}s, but no class folders"
            if loose
            else f"no {kind.noun}s and no class folders"
        )
        raise DataError(
            f"The data folder '{root}' holds {what}. {layout}; or write a manifest (.csv) of the files."
        )
    _skip_loose(found, "", files)
    parts = _parts(root, folders, found)
    classes = {below: [name for name in names if not is_hidden(name)] for below, (_, names) in parts.items()}
    folder_names = sorted({name for names in classes.values() for name in names})
    # Not class_name(): a folder's blanks are its name, and another folder may have it without.
    composed = {name: unicodedata.normalize("NFC", name) for name in folder_names}
    spellings = Counter(composed.values())
    class_names = tuple(sorted(spellings))
    numbers = {name: code for code, name in enumerate(class_names)}
    codes = {name: numbers[composed[name]] for name in folder_names}
    real = root.resolve()
    above = {_identity(folder) for folder in (real, *real.parents)}
    for below, (split, _) in parts.items():
        for name in classes[below]:
            _walk(root_text, below + name, split, codes[name], found, above | {_identity(root / below)})
    if not found.ids:
        raise DataError(
            f"The data folder '{root}' holds no {kind.file_word}s in its class folders. {layout}."
        )
    if found.barren:
        raise DataError(
            f"Class folders of '{root}' hold files, but no {kind.file_word}: {listed(found.barren)}. {' '.join(found.skipped.warnings())} "
            f"Bring the {kind.file_word}s there into {kind.formats}, mend what is said of them, or take these folders out."
        )
    if len(class_names) < len(folder_names):
        several = [name for name in class_names if spellings[name] > 1]
        found.warnings.append(
            f"Folders whose names are the same word in two Unicode forms are one class: {listed(several)}."
        )
    if "" in parts and not group_subfolders:
        found.warnings += _nested_alike(found)
    depth = (0 if "" in parts else 1) + 1 if group_subfolders else None
    return _columns(root, class_names, found, depth)


def check_apart(source: Path | str, *written: Path | str) -> None:
    """Raise DataError where a folder to write to would be a class of a data folder, with its pictures among the images.

    Args:
        source: of the data; what is no folder has no classes of this kind.
        written: folders that will be written to.
    """
    root = Path(source).expanduser().resolve()
    if source in BUNDLED_DATA or not root.is_dir():
        return
    beside_splits = any(SPLIT_WORDS.get(name.lower()) == TRAIN for name in os.listdir(root))
    for folder in written:
        path = Path(folder).resolve()
        if not path.is_relative_to(root):
            continue
        first = next(iter(path.relative_to(root).parts), "")
        if is_hidden(first) or (beside_splits and first.lower() not in SPLIT_WORDS):
            continue
        raise DataError(
            f"'{folder}' lies in the folder of the data, '{source}': there the next run would take it for a class. Call "
            "kerastl from another folder, or name others for what it writes (--runs, --models, --directory)."
        )


def _parts(root: Path, folders: list[str], found: _Found) -> dict[str, tuple[str, list[str]]]:
    """Places of class folders: path below the root ('' or 'train/') -> (given split, class folders there)."""
    by_split: dict[str, str] = {}
    has_train = any(SPLIT_WORDS.get(name.lower()) == TRAIN for name in folders)
    others = [name for name in folders if name.lower() not in SPLIT_WORDS]
    for name in folders:
        split = SPLIT_WORDS.get(name.lower(), "")
        if has_train and split in by_split:
            raise DataError(
                f"The data folder '{root}' holds both '{by_split[split]}' and '{name}', and both mean the {split} split. "
                "Keep one of them."
            )
        if split:
            by_split[split] = name
    if not has_train:
        return {"": (CARVE, folders)}
    listings = {split: _listing(str(root), name, found) for split, name in by_split.items()}
    if others and not listings[TRAIN][0]:
        # Car, bus, train: a class that is called train, not a split.
        return {"": (CARVE, folders)}
    for name in others:
        found.skipped.add(f"{name}/", "not one of train, validation and test")
    for split, name in by_split.items():
        inner, loose = listings[split]
        if not inner and any(suffix_of(file) in found.kind.suffixes for file in loose):
            raise DataError(
                f"The folder '{root / name}' holds {found.kind.noun}s, but no class folders. {found.kind.layout}."
            )
        _skip_loose(found, f"{name}/", loose)
        for unlabelled in found.kind.unlabelled.intersection(inner):
            inner.remove(unlabelled)
            count = len(os.listdir(root / name / unlabelled))
            found.skipped.add(f"{name}/{unlabelled}/", f"{count:,} {found.kind.noun}s without a label")
    return {f"{name}/": (split, listings[split][0]) for split, name in sorted(by_split.items())}


def _listing(root: str, below: str, found: _Found) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the other entries in one folder, without hidden ones."""
    folders: list[str] = []
    files: list[str] = []
    with _scan(root, below) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                found.skipped.add_hidden(os.path.join(below, entry.name), entry.is_dir())
            else:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


def _scan(root: str, below: str) -> os._ScandirIterator[str]:
    path = os.path.join(root, below) if below else root
    try:
        return os.scandir(path)
    except OSError as error:
        raise DataError(
            f"Cannot read the folder '{printable(path)}': {error.strerror}. Mend its permissions, or take it out."
        ) from error


def _skip_loose(found: _Found, prefix: str, files: list[str]) -> None:
    for name in files:
        found.skipped.add(prefix + name, "not in a class folder")


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _walk(
    root: str, class_folder: str, split: str, label: int, found: _Found, above: set[tuple[int, int]]
) -> None:
    """Append every example below one class folder; real folders first, so that links never rename a file.

    `above` are the folders that hold the class: a link back to one would bring all other classes in.
    """
    before, others = len(found.ids), 0
    folders = [class_folder]
    links: list[str] = []
    seen = set(above)
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        below = folders.pop() if folders else links.pop()
        identity = _identity(os.path.join(root, below))
        if identity in seen:
            found.skipped.add(f"{below}/", "a link to a folder that was read already, or that holds this one")
            continue
        seen.add(identity)
        with _scan(root, below) as entries:
            for entry in entries:
                name = entry.name
                path = f"{below}/{name}"
                if is_hidden(name):
                    found.skipped.add_hidden(path, entry.is_dir())
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif not entry.is_file():
                    found.skipped.add(path, "a broken link" if entry.is_symlink() else "not a regular file")
                    others += 1
                elif not found.kind.is_file(entry.path):
                    found.skipped.add(path, f"no {found.kind.file_word}")
                    others += 1
                elif printable(path) != path:
                    found.skipped.add(path, "its name is not valid UTF-8")
                    others += 1
                else:
                    info = entry.stat()
                    found.ids.append(path)
                    found.labels.append(label)
                    found.splits.append(split)
                    found.sizes.append(info.st_size)
                    found.changed.append(info.st_mtime_ns)
    if len(found.ids) == before and others:
        found.barren.append(printable(class_folder))
    elif len(found.ids) == before:
        found.skipped.add(f"{class_folder}/", f"no {found.kind.noun}s in this class folder")


def _group(identity: str, depth: int) -> str:
    """The folder next below the class folder, which lies so deep; without the class: a patient may be in several."""
    parts = identity.split("/", depth + 1)
    return parts[depth] if len(parts) > depth + 1 else ""


def _nested_alike(found: _Found) -> list[str]:
    """A warning where class folders hold folders of the same names: these may be the classes."""
    above: dict[str, set[str]] = {}
    for name, below, _ in (identity.split("/", 2) for identity in found.ids if identity.count("/") > 1):
        above.setdefault(below, set()).add(name)
    shared = {below: names for below, names in above.items() if len(names) > 1}
    if len(shared) < _SAME_NAMES:
        return []
    holders = sorted(set().union(*shared.values()))
    return [
        f"The folders {listed(holders)} were taken for classes, and hold folders of the same names: {listed(sorted(shared))}. If "
        f"these are the classes, call the folders above them train, validation and test; if they are groups of {found.kind.noun}s, set "
        "data.group_subfolders = true."
    ]


def _columns(root: Path, class_names: tuple[str, ...], found: _Found, depth: int | None) -> Examples:
    # Folders list their files in an order of their own; sorted, the same data give the same columns.
    order = np.array(sorted(range(len(found.ids)), key=found.ids.__getitem__), dtype=np.int64)
    ids = text_column(found.ids)[order]
    splits = text_column(found.splits)[order]
    codes = np.frombuffer(found.labels, dtype=np.intc)[order]
    present = np.unique(codes)
    renumbered = np.zeros(len(class_names), dtype=np.int32)
    renumbered[present] = np.arange(len(present))
    labels = renumbered[codes]
    names = tuple(class_names[code] for code in present)
    sizes = np.frombuffer(found.sizes, dtype=np.int64)[order]
    changed = np.frombuffer(found.changed, dtype=np.int64)[order]
    return Examples(
        ids=ids,
        labels=labels,
        class_names=names,
        groups=repeated("", len(ids))
        if depth is None
        else text_column([_group(each, depth) for each in ids]),
        splits=splits,
        raw=files_in(str(root), ids),
        noun=found.kind.noun,
        origin=f"folder {root}",
        place=os.path.abspath(root),
        stamps=np.stack([sizes, changed], axis=1),
        fingerprint=fingerprint((ids, splits), (labels, sizes, changed), *names),
        skipped=found.skipped.lines(),
        skipped_pictures=found.skipped.picture_count,
        warnings=(*found.skipped.warnings(), *found.warnings),
        contents=equal_files(str(root), ids, sizes),
    )
