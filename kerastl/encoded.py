"""Image files before they are decoded: which files count, where they are, and why one cannot be read.

It stands low in the house and needs no TensorFlow, because a client of a served model has none.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from kerastl.errors import UserError, nearest

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "gif", "bmp", "webp")
"""What `tf.io.decode_image` reads, and WebP; TIFF and HEIC it cannot."""

# Words of TensorFlow's messages, and what they mean to somebody who looks for a bad file.
MEANINGS = (
    ("input is empty", "empty file"),
    ("unknown image file format", "not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)"),
    ("is empty or no jpeg", "empty, or not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)"),
    ("no such file", "no such file"),
    ("is a directory", "a folder, not a file"),
    ("permission denied", "no permission to read it"),
    ("must be 1, 3 or 4, was", "bmp with 1, 4 or 16 bits a pixel; convert it to png"),
    ("os/2 header", "bmp with an OS/2 header; convert it to png"),
    ("invalid jpeg data", "truncated or damaged jpeg"),
    ("invalid png data", "truncated or damaged png"),
    ("invalid gif data", "truncated or damaged gif"),
    ("decode webp", "truncated or damaged webp"),
    ("input size should match", "truncated or damaged bmp"),
    ("incomplete bmp", "truncated or damaged bmp"),
)


def find_images(patterns: Sequence[str]) -> list[str]:
    """Files, folders and globs as a list of image files without repeats; a named file counts as an image.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_image(p) and p.is_file())
            matches = [
                str(p) for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)
            ]
            if not matches:
                raise UserError(
                    f"No image in '{pattern}': expected files of type {', '.join(IMAGE_SUFFIXES)}"
                )
        elif path.is_file():
            matches = [str(path)]
        else:
            matches = sorted(m for m in glob.glob(str(path), recursive=True) if Path(m).is_file())
            if not matches:
                siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
                raise UserError(
                    f"No image '{pattern}'.{nearest(path.name, siblings)} Expected a file, a folder or a pattern "
                    "such as 'photos/*.jpg'"
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def reason_of(message: str) -> str:
    """Why an image could not be read or decoded, in a few words.

    Args:
        message: what TensorFlow said, here or in a model server.

    Returns:
        One short line without TensorFlow's own framing; empty for an empty message.

    Example:
        >>> reason_of("{{function_node decode}} Input is empty. [[{{node cond}}]]")
        'empty file'
    """
    lowered = message.lower()
    for words, meaning in MEANINGS:
        if words in lowered:
            return meaning
    if "image too large" in lowered:
        # A failed assertion prints each of its values on a line, strings as Python's bytes.
        summary = message[lowered.index("image too large") :].replace("b'", "").replace("'", "")
        return " ".join(summary.split())[:120]
    line = message.replace("\n", " ").split("}} ")[-1].split(" [Op:")[0].split(" [[{{")[0]
    return line.strip()[:120]


def _is_image(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES
