"""Encoded images of whatever a Python call hands over: arrays, bytes, paths, or pictures of Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.data.pixels import images_of, pixels_of
from kerastl.data.png import encode_png
from kerastl.errors import DataError
from kerastl.modality.image.files import find_images
from kerastl.progress import Progress

_IMAGES = "an array [height, width, 3], encoded bytes, a path, a picture of Pillow, or several of one kind"


def contents_of(path: str) -> tuple[str, bytes | str]:
    """The name of a file with its bytes, or with why it cannot be read."""
    try:
        return path, Path(path).read_bytes()
    except OSError as error:
        return path, error.strerror or str(error)


def encoded_of(x: Any, progress: Progress) -> tuple[bool, list[tuple[str, bytes | str]]]:
    """True for one image alone; and name and bytes of each."""
    if isinstance(x, (bytes, bytearray)):
        return True, [("bytes", bytes(x))]
    if isinstance(x, (str, Path)):
        paths = find_images([str(x)], progress)
        return Path(x).is_file(), [contents_of(path) for path in paths]
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
            yield from map(contents_of, find_images([str(each)], progress))
