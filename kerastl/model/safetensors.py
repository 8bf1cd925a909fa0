"""Tensors in a `.safetensors` file: eight bytes of length, a JSON header, and the raw arrays one after the other.

Nothing in such a file is executed. The header is checked whole before the first array is read, by the rules of the format
(https://github.com/huggingface/safetensors, section "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.errors import WeightsError, nearest

# Bytes of the header that the format allows.
MOST_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"
# NumPy has no bfloat16: it is read as its upper half of a float32.
BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file.

    Attributes:
        name: As the file calls it.
        dtype: As the format names it, `F16`.
        shape: Of the array.
        path: Of the file.
        position: Of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    position: int

    def read(self) -> np.ndarray:
        """Its values in the stored dtype, bfloat16 as float32.

        Raises:
            WeightsError: The file became shorter since its header was read.
        """
        values = np.fromfile(self.path, DTYPES[self.dtype], math.prod(self.shape), offset=self.position)
        if values.size != math.prod(self.shape):
            raise WeightsError(
                f"'{self.path}': tensor '{self.name}' ends before its last value. Fetch the file again."
            )
        if self.dtype == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape)


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a file by name, in the order of their bytes; their values are not read yet.

    Args:
        path: Of a `.safetensors` file.

    Raises:
        WeightsError: It cannot be read, or is no such file, or damaged: too short, of an unknown dtype, or with arrays that
            overlap, leave a gap or run out. The message names file and tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
                raise _damaged(path, f"its header should have {length:,} bytes, the file has {size:,}")
            header = json.loads(file.read(length), object_pairs_hook=_once)
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # no UTF-8, no JSON, or a name that stands there twice
        raise _damaged(path, f"its header is no JSON of tensors ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    spans = [_span(path, name, entry) for name, entry in header.items() if name != METADATA]
    _check_spans(path, spans, size - 8 - length)
    return {
        name: TensorEntry(name, header[name]["dtype"], tuple(header[name]["shape"]), path, 8 + length + start)
        for start, _, name in sorted(spans)
    }


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{name}' stands there twice")
        found[name] = value
    return found


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """First byte, end and name of a tensor, whose entry is checked by itself."""
    if not isinstance(entry, Mapping) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _damaged(path, f"tensor '{name}' lacks its dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if str(dtype) not in DTYPES:
        raise WeightsError(
            f"'{path}': tensor '{name}' has dtype '{dtype}'.{nearest(str(dtype), DTYPES)} Expected one of "
            f"{', '.join(DTYPES)}; save it as F32 or F16."
        )
    if not (_whole(shape) and _whole(offsets) and len(offsets) == 2):
        raise _damaged(path, f"tensor '{name}' has shape {shape} and data_offsets {offsets}")
    wanted = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != wanted:
        raise _damaged(
            path,
            f"tensor '{name}' of shape {shape} and dtype {dtype} takes {wanted:,} bytes, its data_offsets are {offsets}",
        )
    return offsets[0], offsets[1], name


def _whole(values: Any) -> bool:
    """True for a list of whole numbers that are not negative."""
    return isinstance(values, list) and all(type(each) is int and each >= 0 for each in values)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    end, before = 0, ""
    for start, stop, name in sorted(spans):
        if start < end:
            raise _damaged(path, f"tensor '{name}' overlaps '{before}'")
        if start > end:
            raise _damaged(path, f"{start - end:,} bytes before tensor '{name}' belong to none")
        if stop > size:
            raise _damaged(
                path, f"tensor '{name}' ends at byte {stop:,} of its arrays, of which there are {size:,}"
            )
        end, before = stop, name
    if end != size:
        raise _damaged(path, f"{size - end:,} bytes at its end belong to no tensor")


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"'{path}' is no whole .safetensors file: {reason}. Nothing was loaded; fetch it again."
    )
