"""Images that are handed over in Python: arrays, tensors and pictures of Pillow, checked and as 8-bit pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kerastl.errors import DataError

EXPECTED = (
    "Expected images [height, width, 3] (RGB), [height, width, 1] or [height, width], with values 0..255"
)


def images_of(x: Any, name: str = "x") -> Sequence[Any] | np.ndarray:
    """The images in a batch, one by one.

    Args:
        x: an array or tensor [n, height, width, 3], [n, height, width, 1] or [n, height, width], or a sequence of images
            of any sizes.
        name: of the argument, for messages.

    Raises:
        DataError: it is neither.
    """
    if (
        isinstance(x, (list, tuple))
        or not hasattr(x, "__array__")
        or str(getattr(x, "dtype", "")) == "object"
    ):
        picture = isinstance(getattr(x, "mode", None), str)
        if picture or isinstance(x, (str, bytes)) or not hasattr(x, "__iter__"):
            raise DataError(
                f"{name} is one {type(x).__name__}; expected several images, in an array or a list"
            )
        return list(x)
    batch = np.asarray(x)
    if batch.ndim not in (3, 4):
        raise DataError(
            f"{name} has the shape {batch.shape}; expected [n, height, width, 3], [n, height, width, 1] or [n, height, width], "
            "or a list of images"
        )
    if batch.ndim == 4 and batch.shape[3] not in (1, 3):
        _check_shape(batch.shape[1:], f"each image of {name}")
    return batch


def pixels_of(images: Iterable[Any], name: str = "x") -> Iterator[np.ndarray]:
    """Each image as uint8 [height, width] or [height, width, 3]; fractions are rounded to the next level.

    Args:
        images: arrays or tensors of whole numbers or fractions 0..255, or pictures of Pillow.
        name: of the argument, for messages.

    Raises:
        DataError: a shape, type or value that no image has; also, once all were seen, where fractions do not exceed 1, since
            black images would come of them.
    """
    highest, fractions = 0.0, False
    for number, image in enumerate(images):
        where = f"{name}[{number}]"
        pixels = np.asarray(_opened(image, where))
        _check_shape(pixels.shape, where)
        pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        if pixels.dtype != np.uint8:
            _check_values(pixels, where)
            fractions |= pixels.dtype.kind == "f"
            highest = max(highest, float(pixels.max()))
            pixels = np.rint(pixels).astype(np.uint8)
        yield pixels
    if fractions and 0 < highest <= 1:
        raise DataError(
            f"The values of {name} are fractions of at most {highest:g}. Expected 0..255, not 0..1: pass {name} * 255"
        )


def _opened(image: Any, where: str) -> Any:
    mode = getattr(image, "mode", None)
    if not isinstance(mode, str) or not hasattr(image, "convert"):
        return image
    if mode[0] in "IF":
        raise DataError(
            f"{where} is a picture of mode {mode}, with more than 8 bits. Scale it to 0..255 and pass an array"
        )
    return image.convert("L" if mode in ("1", "L") else "RGB")


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3)) and all(shape):
        return
    hint = ""
    if len(shape) == 3 and shape[2] in (2, 4):
        hint = ". Leave out the alpha channel: x[..., :3] (or x[..., :1])"
    elif len(shape) == 3 and shape[0] in (1, 3):
        hint = ". Channels come last here: np.moveaxis(x, -3, -1)"
    raise DataError(f"{where} has the shape {shape}. {EXPECTED}{hint}")


def _check_values(pixels: np.ndarray, where: str) -> None:
    if pixels.dtype.kind not in "iuf":
        hint = ": pass x * np.uint8(255)" if pixels.dtype == bool else ""
        raise DataError(f"{where} holds values of type {pixels.dtype}. {EXPECTED}, as uint8 or float{hint}")
    if not np.isfinite(pixels).all():
        raise DataError(f"{where} holds values that are no finite numbers (NaN or infinity). {EXPECTED}")
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 255:
        return
    hint = ""
    if low >= -1 and high <= 1:
        hint = ". If they are scaled to -1..1, pass (x + 1) * 127.5"
    elif low >= 0 and pixels.dtype.kind in "iu" and high <= 65_535:
        hint = ". If they have 16 bits, pass x / 257"
    raise DataError(f"{where} holds values from {low:g} to {high:g}. {EXPECTED}{hint}")
