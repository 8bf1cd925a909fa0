"""Every JPEG, PNG, GIF, BMP and WebP among Pillow's own test images, against Pillow; skipped where its source cannot be had."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from kerastl.modality.image.decode import MAGIC, decode_original
from kerastl.modality.image.files import reason_of

LEVELS = 8

# Where the graph and Pillow may differ, and why; everything else has to agree, in refusing as well.
REFUSED = {
    "bmp/b/badrle.bmp": "run-length", "bmp/b/rletopdown.bmp": "run-length", "bmp/g/pal4rle.bmp": "run-length",
    "bmp/g/pal8rle.bmp": "run-length", "bmp/q/pal4rletrns.bmp": "run-length", "bmp/q/pal8rletrns.bmp": "run-length",
    "hopper_rle8.bmp": "run-length", "hopper_rle8_grayscale.bmp": "run-length",
    "hopper_rle8_row_overflow.bmp": "run-length",
    "issue_2811.gif": "damaged gif",  # codes of 11 bits, of which GIF knows 8
}  # fmt: skip
READ_BY_THE_GRAPH_ALONE = {
    "apng/chunk_no_fctl.png", "png_decompression_dos.png", "unknown_compression_method.png",
    "bmp/b/badheadersize.bmp", "bmp/b/badpalettesize.bmp", "bmp/g/rgb32bf.bmp", "bmp/q/pal2.bmp",
    "bmp/q/pal8os2v2-16.bmp", "bmp/q/pal8oversizepal.bmp", "bmp/q/rgb16-231.bmp", "bmp/q/rgb32-111110.bmp",
    "bmp/q/rgba16-4444.bmp", "bmp/q/rgba32abf.bmp",
}  # fmt: skip
DIFFERENT = {"i_trns.png"}  # grey of 16 bits, which Pillow clips at 255


def pillow_images(folder: Path) -> Path:
    """Pillow's test images: those of `PILLOW_SOURCE`, or out of the source package of the installed version."""
    given = os.environ.get("PILLOW_SOURCE")
    if given:
        return Path(given) / "Tests" / "images"
    command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "-q"]
    command += ["--disable-pip-version-check", "-d", str(folder), f"pillow=={version('pillow')}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("Pillow's source package did not arrive within three minutes")
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"no source package of Pillow can be had: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/Tests/images"))


def pillow(data: bytes) -> np.ndarray | None:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_graph_decodes_pillows_own_test_images_as_pillow_does(tmp_path: Path) -> None:
    root = pillow_images(tmp_path)
    in_graph = tf.function(decode_original, input_signature=[tf.TensorSpec([], tf.string)])
    problems, compared = [], 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if not data.startswith(MAGIC) or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
            continue
        name, expected = path.relative_to(root).as_posix(), pillow(data)
        try:
            pixels, reason = in_graph(data).numpy(), ""
        except tf.errors.OpError as error:
            pixels, reason = None, reason_of(error.message)
        if name in REFUSED:
            good = REFUSED[name] in reason and expected is not None
        elif name in READ_BY_THE_GRAPH_ALONE:
            good = expected is None and pixels is not None
        elif expected is None or pixels is None:
            good = expected is None and pixels is None
        else:
            compared += 1
            same = expected.shape == pixels.shape
            good = same and (np.abs(pixels.astype(int) - expected).max() <= LEVELS or name in DIFFERENT)
        if not good:
            problems.append(
                f"{name}: {reason or 'read'}; Pillow: {'refused' if expected is None else 'read'}"
            )
    assert not problems, "\n".join(problems)
    assert compared > 500
