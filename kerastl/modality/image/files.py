"""Image files before they are decoded: which files count, where they are, and why one cannot be read.

It stands low in the house and needs no TensorFlow, because a client of a served model has none.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerastl.errors import UserError, nearest
from kerastl.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

SERVED = ("jpeg", "png", "gif", "bmp", "webp")
"""Formats that TensorFlow decodes in the exported graph; others go through Pillow first and become PNG."""

SERVED_WORDS = "JPEG, PNG, GIF, BMP and WebP"
NOT_SERVED = "HEIF, AVIF, TIFF and others, and run-length coded BMP, have to be converted first, as `kerastl predict` does"
IMAGE_SUFFIXES = frozenset(
    ["jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib", "webp", "heic", "heif", "hif",
     "avif", "tif", "tiff", "jp2", "j2k", "jpf", "jpx", "jxl", "ico", "psd", "dds", "tga", "pbm", "pgm", "ppm",
     "pnm", "qoi", "svg", "cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf", "pef"]
)  # fmt: skip
"""Files with these suffixes are pictures, and so is what begins like one under another suffix, or under none."""

# First bytes of formats; of those that share a container the brand follows.
BEGINNINGS = (
    (b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM????\0\0\0\0", "bmp"), (b"RIFF????WEBP", "webp"),
    (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"), (b"MM\0+", "tiff"),
    (b"????ftypavi", "avif"), (b"????ftyphe", "heif"), (b"????ftypmif1", "heif"), (b"????ftypmsf1", "heif"),
    (b"????ftypcrx", "camera raw"), (b"FUJIFILMCCD-RAW", "camera raw"), (b"????jP  \r\n\x87\n", "jpeg 2000"),
    (b"\xffO\xffQ", "jpeg 2000"), (b"\xff\n", "jpeg xl"), (b"\0\0\0\x0cJXL ", "jpeg xl"), (b"8BPS", "psd"),
    (b"\0\0\1\0", "ico"), (b"DDS ", "dds"), (b"qoif", "qoi"),
)  # fmt: skip
BEGINNING_BYTES = 32
# What is found in the place of pictures, by its first bytes in lower case.
_NO_PICTURES = (
    (b"version https://git-lfs", ", but a pointer of Git LFS: `git lfs pull` fetches the image"),
    (b"<!doctype html", ", but a web page"), (b"<html", ", but a web page"), (b"<svg", ", but SVG"), (b"<?xml", ", but XML or SVG"),
    (b"%pdf", ", but PDF"),
)  # fmt: skip
# In lower case. The folders of Synology (@eaDir) and QNAP (.@__thumb, hidden by its dot) hold small copies of all pictures.
_LEFT_BEHIND = frozenset(
    ["__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
     "lost+found", "@eadir", "#recycle", "@recycle"]
)  # fmt: skip
# TIFF's tags of what is only a preview of a camera's raw data, and of Adobe's raw format.
PREVIEW_TAG, DNG_TAG = 254, 50706
MORE_PAGES = " of several pages: the first"
HEIF_HINT = "heif picture: pip install 'kerastl[heif]', or convert it to jpeg"
CONVERTED = (
    f"were turned into PNG by Pillow before they were decoded. An exported model takes {SERVED_WORDS} alone: what asks "
    "a server has to do the same first, as `kerastl predict` does"
)

# Words of TensorFlow's messages, and what they mean to somebody who looks for a bad file.
MEANINGS = (
    ("input is empty", "empty file"),
    ("unknown image file format", "not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)"),
    ("is empty or no jpeg", "empty, or not an image TensorFlow decodes (jpeg, png, gif, bmp, webp)"),
    ("no such file", "no such file"),
    ("is a directory", "a folder, not a file"),
    ("permission denied", "no permission to read it"),
    ("compressed bmp", "run-length coded or otherwise compressed bmp; convert it to png"),
    ("unknown bmp", "bmp of an unknown kind; convert it to png"),
    ("invalid jpeg data", "truncated or damaged jpeg"),
    ("invalid png data", "truncated or damaged png"),
    ("invalid gif data", "truncated or damaged gif"),
    ("decode webp", "truncated or damaged webp"),
    ("incomplete bmp", "truncated or damaged bmp"),
)


def find_images(patterns: Sequence[str], progress: Progress = Progress()) -> list[str]:
    """Files, folders and globs as a list of image files without repeats; a named file counts as an image.

    Args:
        patterns: what was asked for.
        progress: told how many files of a folder are no pictures.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files, hidden = _files_below(path)
            # Of pipes and sockets nothing can be said without waiting for them.
            files_only = [each for each in files if os.path.isfile(each) or os.path.islink(each)]
            matches = [each for each in files_only if is_picture(each)]
            left_out = no_pictures(sorted(set(files).difference(matches)), hidden)
            if not matches:
                raise UserError(
                    f"No picture in '{pattern}'{': ' + left_out if left_out else ''}. Expected files such as .jpg or .png"
                )
            if left_out:
                progress.warn(f"{pattern}: {left_out}")
        elif path.exists() or path.is_symlink():
            matches = [str(path)]
        else:
            matches = sorted(m for m in glob.glob(str(path), recursive=True) if not Path(m).is_dir())
            if not matches:
                siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
                raise UserError(
                    f"No image '{pattern}'.{nearest(path.name, siblings)} Expected a file, a folder or a pattern "
                    "such as 'photos/*.jpg'"
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def _files_below(folder: Path) -> tuple[list[str], int]:
    """All files below a folder, sorted, links followed but no folder read twice; and how many hidden entries there are.

    A link that leads nowhere is among them: whoever reads it says so.
    """
    files: list[str] = []
    hidden, seen = 0, set()

    def refuse(error: OSError) -> None:
        raise UserError(
            f"Cannot read the folder '{error.filename}': {error.strerror}. Mend its permissions, or take it out."
        )

    for below, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        state = os.stat(below)
        hidden += 0 if (state.st_dev, state.st_ino) in seen else sum(map(is_hidden, (*folders, *names)))
        visible = [name for name in folders if not is_hidden(name)]
        if (state.st_dev, state.st_ino) in seen:
            visible, names = [], []
        seen.add((state.st_dev, state.st_ino))
        # Real folders first, so that a link renames no file.
        folders[:] = sorted(visible, key=lambda name: (os.path.islink(os.path.join(below, name)), name))
        files += [str(Path(below, name)) for name in names if not is_hidden(name)]
    return sorted(files), hidden


def is_hidden(name: str) -> bool:
    """True if a name is one that file managers, systems and network disks leave behind and users never see."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def suffix_of(name: str) -> str:
    """The suffix in lower case without its dot; '' for none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_picture(path: Path | str) -> bool:
    """True if a file is meant to be a picture: by its suffix, or else by its first bytes."""
    if suffix_of(Path(path).name) in IMAGE_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return bool(format_of(file.read(BEGINNING_BYTES)))
    except OSError:
        return False


def format_of(data: bytes) -> str:
    """The format of a picture by its first bytes, such as `jpeg` or `heif`; '' for what begins like none."""
    for beginning, name in BEGINNINGS:
        head = data[: len(beginning)]
        if len(head) == len(beginning) and all(
            b in (ord("?"), a) for a, b in zip(head, beginning, strict=True)
        ):
            return name
    return ""


def no_pictures(names: Sequence[str], hidden: int = 0) -> str:
    """Files that are no pictures, counted by suffix, for a message; '' for none."""
    kinds = Counter(
        "." + suffix_of(Path(name).name) if suffix_of(Path(name).name) else "no suffix" for name in names
    )
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common()]
    parts += [f"{hidden:,} hidden"] if hidden else []
    total = len(names) + hidden
    return (
        f"{total:,} {'file is no picture' if total == 1 else 'files are no pictures'} and left out ({', '.join(parts)})"
        if total
        else ""
    )


def as_png(data: bytes) -> tuple[bytes, str]:
    """A picture as a lossless PNG, upright: what TensorFlow cannot decode is read by Pillow.

    Of several pages the first counts. Grey of 16 bits stays so; other depths and colours become 8 bits a channel, and
    transparency is dropped, as by Pillow's `convert("RGB")`.

    Args:
        data: the bytes of a file.

    Returns:
        The PNG, and the format of the file in a word.

    Raises:
        ValueError: Pillow cannot read it; the text says why in a few words.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    kind = format_of(data) or "picture"
    kind = f"unusual {kind}" if kind in SERVED else kind
    if kind == "heif":
        try:
            import pillow_heif
        except ImportError:
            raise ValueError(HEIF_HINT) from None
        pillow_heif.register_heif_opener()
    try:
        with Image.open(io.BytesIO(data)) as opened:
            tags = getattr(opened, "tag_v2", {})
            if DNG_TAG in tags or tags.get(PREVIEW_TAG, 0) & 1:
                raise ValueError("camera raw")
            image = ImageOps.exif_transpose(opened)
            kind = (opened.format or kind).lower() if kind == "picture" else kind
            if image.mode == "F":
                raise ValueError("floating-point pixels; bring them to 8 or 16 bits")
            if image.mode.startswith("I"):
                levels = np.asarray(image)
                if levels.min() < 0 or levels.max() > 0xFFFF:
                    raise ValueError("pixels of 32 bits; bring them to 8 or 16")
                image = Image.fromarray(levels.astype(np.uint16))
            else:
                image = Image.fromarray(np.asarray(image.convert("RGB")))
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            pages = _more_pages(opened, kind)
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        if not data:
            raise ValueError("empty file") from error
        if kind == "picture":
            found = next(
                (what for start, what in _NO_PICTURES if data.lstrip().lower().startswith(start)), ""
            )
            raise ValueError(f"not an image that TensorFlow or Pillow decodes{found}") from error
        if isinstance(error, UnidentifiedImageError) or "truncated" in str(error).lower():
            # Pillow's words hold addresses and counts, which would tell like reasons apart.
            raise ValueError(f"truncated, damaged or unknown kind of {kind}") from error
        raise ValueError(f"{kind} that Pillow cannot read: {' '.join(str(error).split())[:80]}") from error
    return buffer.getvalue(), kind + pages


def _more_pages(opened: Image.Image, kind: str) -> str:
    """A note about a file that holds more pictures than the first; frames of a PSD are its layers."""
    with contextlib.suppress(Exception):  # a damaged second page is no reason to do without the first
        return MORE_PAGES if kind in ("tiff", "heif", "avif") and getattr(opened, "n_frames", 1) > 1 else ""
    return ""


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
