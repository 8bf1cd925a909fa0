"""What converters, browsers, instruments and old programs write: against Pillow, or against the pixels that were put in."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from kerastl.modality.image.decode import decode_original
from kerastl.modality.image.files import reason_of

HEIGHT, WIDTH = 17, 29
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB = np.stack([COLUMNS * 8, ROWS * 15, (COLUMNS + ROWS) * 5], -1).astype(np.uint8)
PICTURE = Image.fromarray(RGB)
in_graph = tf.function(
    lambda data: decode_original(data), input_signature=[tf.TensorSpec([], tf.string)], autograph=False
)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """Pillow's pixels, upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def assert_as_pillow(data: bytes) -> None:
    np.testing.assert_array_equal(in_graph(data).numpy(), pillow(data))


def refusal(data: bytes) -> str:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        in_graph(tf.constant(data))
    return reason_of(caught.value.message)


# Animated WebP without alpha: the decoder is asked in a process of its own, with glibc's checks of the heap.

PROBE = """
import sys
import numpy as np
from kerastl.modality.image.decode import decode_original
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    for _ in range(3):
        pixels = decode_original(data).numpy()
    np.save(path + ".npy", pixels)
"""


def probe(*paths: Path) -> int:
    checked = Path("/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_CHECK_": "3"}
    if checked.exists():
        environment["LD_PRELOAD"] = str(checked)
    command = [sys.executable, "-c", PROBE, *map(str, paths)]
    return subprocess.run(command, env=environment, capture_output=True).returncode


@pytest.mark.parametrize("alpha", [False, True])
def test_animated_webp_ends_no_process_and_shows_its_first_frame(tmp_path: Path, alpha: bool) -> None:
    paths = []
    for side in (30, 64, 300):
        frames = [Image.effect_noise((side, side), 30 + 20 * turn).convert("RGB") for turn in range(3)]
        for frame in frames if alpha else []:
            frame.putalpha(128)
        path = tmp_path / f"{side}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        assert bool(path.read_bytes()[20] & 0x10) is alpha, "the control: this is the file that kills"
        paths.append(path)
    assert probe(*paths) == 0
    for path in paths:
        np.testing.assert_array_equal(np.load(f"{path}.npy"), pillow(path.read_bytes()))


# Orientation.

XMP = b'<x:xmpmeta xmlns:tiff="t"><rdf:RDF><rdf:Description %s</rdf:RDF></x:xmpmeta>'
AS_ATTRIBUTE = XMP % b'tiff:Orientation="%d"/>'
AS_ELEMENT = XMP % b"><tiff:Orientation>%d</tiff:Orientation></rdf:Description>"


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x010F] = orientation, "a maker"
    return found


def png_with(*chunks: tuple[bytes, bytes], at_end: bool = False) -> bytes:
    made = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    plain = saved(PICTURE, "PNG")
    at = len(plain) - 12 if at_end else 33
    return plain[:at] + made + plain[at:]


def profile(orientation: int) -> bytes:
    """Exif data in a text of a PNG, as ImageMagick writes it."""
    body = exif(orientation).tobytes()
    digits = body.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return f"\nexif\n{len(body):8}\n{lines}\n".encode()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_and_xmp_turn_png_webp_and_jpeg_as_in_pillow(orientation: int) -> None:
    tiff = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    attribute, element = AS_ATTRIBUTE % orientation, AS_ELEMENT % orientation
    keyword = b"XML:com.adobe.xmp\0"
    files = {
        "png exif": saved(PICTURE, "PNG", exif=exif(orientation)),
        "png exif behind pixels": png_with((b"eXIf", tiff), at_end=True),
        "png exif with prefix": png_with((b"eXIf", b"Exif\0\0" + tiff)),
        "png xmp": png_with((b"iTXt", keyword + b"\0\0\0\0" + attribute)),
        "png xmp packed": png_with((b"iTXt", keyword + b"\1\0en\0x\0" + zlib.compress(element))),
        "png profile": png_with((b"tEXt", b"Raw profile type exif\0" + profile(orientation))),
        "png profile packed": png_with(
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile(orientation)))
        ),
        "webp exif": saved(PICTURE, "WEBP", lossless=True, exif=exif(orientation)),
        "webp exif alone": saved(PICTURE, "WEBP", lossless=True, exif=tiff),
        "webp xmp": saved(PICTURE, "WEBP", lossless=True, xmp=element),
        "webp animated": saved(
            PICTURE, "WEBP", lossless=True, exif=exif(orientation), save_all=True, append_images=[PICTURE.rotate(9)]
        ),
        "jpeg xmp": saved(PICTURE, "JPEG", xmp=attribute),
        "jpeg exif before xmp": saved(PICTURE, "JPEG", exif=exif(orientation), xmp=AS_ATTRIBUTE % 3),
    }  # fmt: skip
    for name, data in files.items():
        expected = pillow(data)
        assert expected.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT)), name
        np.testing.assert_array_equal(in_graph(data).numpy(), expected, err_msg=name)


def test_exif_is_found_behind_large_profiles() -> None:
    plain = saved(PICTURE, "JPEG", exif=exif(6))
    filling = b"".join(b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(12))
    late = plain[:2] + filling + plain[2:]
    assert late.index(b"Exif") > 1 << 19
    assert_as_pillow(late)
    assert in_graph(late).shape == (WIDTH, HEIGHT, 3)


def test_a_text_that_only_names_exif_turns_nothing() -> None:
    for data in (
        png_with((b"tEXt", b"Comment\0eXIf and XML:com.adobe.xmp")),
        png_with((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\n"))),
        png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<none/>")),
        saved(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0nothing"),
    ):
        np.testing.assert_array_equal(in_graph(data).numpy(), RGB)


# BMP.


def bmp(
    header: int, bits: int, body: bytes, *, compression: int = 0, between: bytes = b"", top_down: bool = False
) -> bytes:
    """A BMP with this much header; `between` follows the first 40 bytes of it: masks or palette."""
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        info = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(body), 0, 0, 0, 0)
    head = (info + between).ljust(header, b"\0") if header > 12 else info + between
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + body


def rows(values: np.ndarray, kind: str) -> bytes:
    """Rows from the bottom up, each filled to a multiple of four bytes."""
    lines = [np.ascontiguousarray(row).astype(kind).tobytes() for row in values[::-1]]
    return b"".join(line + b"\0" * (-len(line) % 4) for line in lines)


def words(masks: tuple[int, int, int], kind: str) -> bytes:
    """Each level's upper bits, moved into the places of a mask."""
    total = np.zeros((HEIGHT, WIDTH), np.int64)
    for channel, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        total |= (RGB[..., channel].astype(np.int64) * (mask >> shift) // 255) << shift
    return rows(total, kind)


PLAIN = rows(RGB[..., ::-1].reshape(HEIGHT, -1), "u1")
MASKS_32 = {
    "usual": (0xFF0000, 0xFF00, 0xFF),
    "swapped": (0xFF, 0xFF00, 0xFF0000),
    "high": (0xFF000000, 0xFF0000, 0xFF00),
    "gap": (0xFF000000, 0xFF00, 0xFF),
    "ten bits": (0x3FF00000, 0xFFC00, 0x3FF),
}


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", MASKS_32)
def test_bmp_colours_are_where_the_masks_say(header: int, name: str) -> None:
    masks = MASKS_32[name]
    data = bmp(header, 32, words(masks, "<u4"), compression=3, between=struct.pack("<III", *masks))
    np.testing.assert_allclose(in_graph(data).numpy().astype(int), RGB, atol=1)


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), (0xF00, 0xF0, 0xF)])
def test_bmp_of_16_bits(masks: tuple[int, int, int]) -> None:
    data = bmp(40, 16, words(masks, "<u2"), compression=3, between=struct.pack("<III", *masks))
    np.testing.assert_allclose(in_graph(data).numpy().astype(int), RGB, atol=18)
    if masks[0] != 0xF00:
        assert_as_pillow(data)
    assert_as_pillow(bmp(40, 16, words((0x7C00, 0x3E0, 0x1F), "<u2")))


@pytest.mark.parametrize("header", [12, 40, 64, 124])
@pytest.mark.parametrize("bits", [1, 4, 8, 24])
def test_bmp_of_every_depth_and_header(header: int, bits: int) -> None:
    if bits == 24:
        data = bmp(header, bits, PLAIN)
        np.testing.assert_array_equal(in_graph(data).numpy(), RGB)
    else:
        numbers = (ROWS * 3 + COLUMNS) % (1 << bits)
        wide = np.pad(numbers, [(0, 0), (0, -WIDTH % (8 // bits))]).reshape(HEIGHT, -1, 8 // bits)
        packed = (wide << np.arange(8 - bits, -1, -bits)).sum(-1)
        entry = 3 if header == 12 else 4
        colors = np.random.default_rng(0).integers(0, 256, (1 << bits, entry), np.uint8)
        body = bmp(header, bits, rows(packed, "u1"))
        start = 14 + header
        data = (
            body[:10]
            + struct.pack("<I", start + colors.size)
            + body[14:start]
            + colors.tobytes()
            + body[start:]
        )
        np.testing.assert_array_equal(in_graph(data).numpy(), colors[numbers][..., 2::-1])
    assert_as_pillow(data)


def test_bmp_from_the_top_down_with_a_profile_behind_it_and_cut_padding() -> None:
    up = in_graph(bmp(40, 24, PLAIN)).numpy()
    np.testing.assert_array_equal(in_graph(bmp(40, 24, PLAIN, top_down=True)).numpy(), up[::-1])
    np.testing.assert_array_equal(in_graph(bmp(124, 24, PLAIN) + b"\0" * 3000).numpy(), RGB)
    np.testing.assert_array_equal(in_graph(bmp(40, 24, PLAIN)[:-1]).numpy(), RGB)
    assert refusal(bmp(40, 24, PLAIN)[:-2]) == "truncated or damaged bmp"
    assert "run-length" in refusal(bmp(40, 8, b"\0\1", compression=1))
    assert "unknown kind" in refusal(bmp(40, 7, PLAIN))


# GIF.


def gif(
    *parts: bytes, screen: tuple[int, int] = (WIDTH + 9, HEIGHT + 5), table: bytes | None = None
) -> bytes:
    table = bytes(range(7, 31)) if table is None else table
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x82 if table else 0x02, 0, 0)
        + table
        + b"".join(parts)
        + b";"
    )


def frame(left: int, top: int, local: bytes = b"") -> bytes:
    """Numbers 0..7, uncompressed: the code to begin anew stands before every second of them."""
    numbers = ((ROWS + COLUMNS) % 8).ravel()
    bits = "".join(f"{code:04b}"[::-1] for number in numbers for code in (8, number)) + f"{9:04b}"[::-1]
    packed = bytes(int(bits[at : at + 8][::-1].zfill(8), 2) for at in range(0, len(bits), 8))
    blocks = b"".join(
        bytes([len(packed[at : at + 255])]) + packed[at : at + 255] for at in range(0, len(packed), 255)
    )
    flags = 0x82 if local else 0
    return b"," + struct.pack("<HHHHB", left, top, WIDTH, HEIGHT, flags) + local + b"\3" + blocks + b"\0"


CONTROL = b"!\xf9\x04\x01\0\0%c\0"
COMMENT = b"!\xfe\5hello\0"
GIFS = {
    "whole": gif(frame(0, 0), screen=(WIDTH, HEIGHT)),
    "smaller than its screen": gif(frame(4, 2)),
    "larger than its screen": gif(frame(4, 2), screen=(9, 9)),
    "transparent": gif(CONTROL % 5, frame(4, 2)),
    "transparent, its colours alone": gif(CONTROL % 3, frame(1, 5, bytes(range(100, 124))), table=b""),
    "no colours": gif(frame(0, 0), screen=(WIDTH, HEIGHT), table=b""),
    "empty comment": gif(b"!\xfe\0", CONTROL % 1, frame(3, 3)),
    "comments": gif(COMMENT, b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0", COMMENT * 9, frame(0, 1)),
    "animated": gif(frame(2, 2), CONTROL % 5, frame(0, 0)),
    "followed by rubbish": gif(frame(2, 2)) + b"rubbish" * 99,
    "followed by a damaged frame": gif(frame(2, 2), b",\0\0\0"),
}


@pytest.mark.parametrize("name", GIFS)
def test_the_first_frame_of_a_gif_is_as_in_pillow(name: str) -> None:
    assert_as_pillow(GIFS[name])


def test_what_the_other_frames_of_a_gif_would_need_is_not_taken() -> None:
    huge = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\3\1\x00\0"
    np.testing.assert_array_equal(in_graph(gif(frame(2, 2), huge * 99)).numpy(), pillow(gif(frame(2, 2))))
    assert "too large" in refusal(gif(huge, frame(2, 2)))


def test_a_gif_that_is_cut_off_is_refused() -> None:
    whole = gif(COMMENT, frame(2, 2))
    for length in (13, 20, 37, 43, 44, 60, len(whole) - 2):
        assert refusal(whole[:length]) == "truncated or damaged gif", length
    assert in_graph(whole[:-1]).shape == (HEIGHT + 5, WIDTH + 9, 3)


# 16 bits.


def png_16(levels: np.ndarray, color_type: int) -> bytes:
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )  # fmt: skip


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_read_at_the_bits_that_it_uses(bits: int, channels: int) -> None:
    levels = np.repeat(
        (ROWS * WIDTH + COLUMNS)[..., None] * ((1 << bits) - 1) // (HEIGHT * WIDTH - 1), channels, -1
    )
    data = png_16(levels, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    pixels = decode_original(data, significant_bits=bits).numpy()
    np.testing.assert_allclose(pixels[..., 0].astype(float), levels[..., 0] / ((1 << bits) - 1) * 255, atol=1)
    assert pixels.max() == 255
    plain = decode_original(data).numpy()
    assert plain.max() == ((1 << bits) - 1) >> 8, "the control: as 16 bits it is dark"


def test_what_is_brighter_than_white_is_white() -> None:
    levels = np.full((3, 3), 5000)
    assert (decode_original(png_16(levels, 0), significant_bits=12).numpy() == 255).all()
