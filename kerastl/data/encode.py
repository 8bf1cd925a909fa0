"""Encoded examples of whatever a Python call hands over: arrays, bytes, paths, pictures of Pillow, or texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.kinds import TEXT, Kind
from kerastl.data.pixels import images_of, pixels_of
from kerastl.data.png import encode_png
from kerastl.data.texts import utf8_texts
from kerastl.errors import DataError
from kerastl.modality import RawExample, bytes_of
from kerastl.modality.image.files import find_images
from kerastl.modality.text_files import find_texts
from kerastl.progress import Progress

_IMAGES = "an array [height, width, 3], encoded bytes, a path, a picture of Pillow, or several of one kind"


def contents_of(found: tuple[str, RawExample]) -> tuple[str, bytes | str]:
    """The name of an example with its bytes, or with why it cannot be read."""
    name, raw = found
    try:
        return name, bytes_of(raw)
    except OSError as error:
        return name, error.strerror or str(error)


def encoded_of(x: Any, kind: Kind, progress: Progress) -> tuple[bool, list[tuple[str, bytes | str]]]:
    """True for one example alone; and name and bytes of each.

    Args:
        x: what was handed over.
        kind: of the examples; a str is a text, or the path of an image.
        progress: listens.
    """
    if kind is TEXT:
        return _texts(x, progress)
    if isinstance(x, (bytes, bytearray)):
        return True, [("bytes", bytes(x))]
    if isinstance(x, (str, Path)):
        paths = find_images([str(x)], progress)
        return Path(x).is_file(), [contents_of((path, Path(path))) for path in paths]
    if (
        isinstance(x, (list, tuple))
        and x
        and all(isinstance(each, (bytes, bytearray, str, Path)) for each in x)
    ):
        return False, list(_files(x, progress))
    shape: tuple[int, ...] = np.shape(x) if hasattr(x, "__array__") else ()
    one = hasattr(x, "convert") or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not one and len(shape) not in (3, 4) and not isinstance(x, (list, tuple)):
        raise DataError(f"Cannot read a {type(x).__name__} of shape {shape} as images. Expected {_IMAGES}")
    pixels = pixels_of([x] if one else images_of(x, "x"), "x")
    return one, [(f"x[{number}]", encode_png(image, 1)) for number, image in enumerate(pixels)]


def _files(x: Sequence[Any], progress: Progress) -> Iterator[tuple[str, bytes | str]]:
    for number, each in enumerate(x):
        if isinstance(each, (bytes, bytearray)):
            yield f"x[{number}]", bytes(each)
        else:
            yield from (contents_of((path, Path(path))) for path in find_images([str(each)], progress))


def _texts(x: Any, progress: Progress) -> tuple[bool, list[tuple[str, bytes | str]]]:
    if isinstance(x, Path):
        return x.is_file(), [contents_of(each) for each in find_texts([str(x)], progress)]
    one = isinstance(x, (str, bytes))
    # Empty ones are answered as files that cannot be read.
    texts = utf8_texts([x] if one else x, "x", allow_empty=True)
    return one, [(f"x[{row}]", text) for row, text in enumerate(texts)]
