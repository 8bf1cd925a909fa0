"""PNG by hand: arrays become files, so that they go the way of all other images."""

from __future__ import annotations

import struct
import zlib

import numpy as np

# Of the header: https://www.w3.org/TR/png/, table 11.1.
_GREY, _RGB = 0, 2


def encode_png(pixels: np.ndarray, level: int = -1) -> bytes:
    """A lossless PNG; Pillow is slower to load than to do without, and TensorFlow takes seconds.

    Args:
        pixels: uint8 [height, width], or [height, width, 3] RGB.
        level: of zlib, from 1 (fast) to 9 (small).
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if pixels.ndim == 2 else _RGB, 0, 0, 0)
    rows = np.zeros(
        (height, 1 + width * (1 if pixels.ndim == 2 else 3)), np.uint8
    )  # each begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), level))
        + chunk(b"IEND", b"")
    )
