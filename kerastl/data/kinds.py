"""Kinds of examples as sources find them: files of a folder, columns of a table, features of a TFDS set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kerastl.modality.image.files import IMAGE_SUFFIXES, is_hidden, is_picture, suffix_of
from kerastl.modality.text_files import TEXT_SUFFIXES, is_text_file

# Files below class folders that are looked at to tell which kind a folder holds.
_LOOKED_AT = 500
# Links may lead in circles.
_DEPTH = 4


@dataclass(frozen=True)
class Kind:
    """Examples of one modality in the places where they come from.

    Attributes:
        modality: its name.
        noun: one example, for messages.
        file_word: one file of them, for messages.
        suffixes: of files that hold one each, in lower case.
        lost_suffixes: of files that count as unreadable examples where they lie outside of class folders.
        is_file: true for a path that is meant to be one.
        column_key: the key of `[data]` that names a table's column with the examples.
        in_files: whether that column holds paths of files; else the examples themselves.
        feature: class of `tfds.features` that holds one.
        unlabelled: names of folders beside class folders that hold examples without a label.
        example_file: a file's name, for messages.
        formats: what to bring files to that are none, for messages.
    """

    modality: str
    noun: str
    file_word: str
    suffixes: frozenset[str]
    lost_suffixes: frozenset[str]
    is_file: Callable[[Path | str], bool]
    column_key: str
    in_files: bool
    feature: str
    unlabelled: frozenset[str]
    example_file: str
    formats: str

    @property
    def layout(self) -> str:
        """The folders that are expected, for messages."""
        file = self.example_file
        return (
            f"Expected one folder a class (FOLDER/cat/{file}, FOLDER/dog/{file.replace('1', '2')}), or these under train/, "
            f"validation/ and test/ (FOLDER/train/cat/{file})"
        )


IMAGE = Kind(
    modality="image",
    noun="image",
    file_word="picture",
    suffixes=IMAGE_SUFFIXES,
    lost_suffixes=IMAGE_SUFFIXES,
    is_file=is_picture,
    column_key="path_column",
    in_files=True,
    feature="Image",
    unlabelled=frozenset(),
    example_file="1.jpg",
    formats="a format such as JPEG or PNG",
)
TEXT = Kind(
    modality="text",
    noun="text",
    file_word="text",
    suffixes=TEXT_SUFFIXES,
    # READMEs and lists of addresses lie beside them.
    lost_suffixes=frozenset(),
    is_file=is_text_file,
    column_key="text_column",
    in_files=False,
    feature="Text",
    # as the Large Movie Review Dataset calls them (A. L. Maas et al., ACL 2011)
    unlabelled=frozenset(["unsup"]),
    example_file="1.txt",
    formats="files of plain text (.txt)",
)
KINDS = {kind.modality: kind for kind in (IMAGE, TEXT)}


def kind_in(root: Path) -> Kind:
    """The kind of the files in a folder's folders: texts where there are some and no pictures, else images."""
    found = {suffix_of(name) for name in islice(_names_below(str(root)), _LOOKED_AT)}
    return TEXT if found & TEXT.suffixes and not found & IMAGE.suffixes else IMAGE


def _names_below(folder: str, depth: int = 0) -> Iterator[str]:
    """Names of files in the folders of a folder, as they come: one with a million files is not listed for its first few."""
    folders = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # indexing says which cannot be read
        for entry in entries:
            if entry.is_dir():
                folders += [entry.path] * (not is_hidden(entry.name) and depth < _DEPTH)
            elif depth:  # beside class folders lie notes and lists, of pictures as well
                yield entry.name
    for each in sorted(folders):
        yield from _names_below(each, depth + 1)
