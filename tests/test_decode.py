"""Bytes to pixels: against Pillow, with damaged files, and the same in every place that decodes."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from tensorflow.core.protobuf import saved_model_pb2

from kerastl.errors import DataError
from kerastl.modality import read
from kerastl.modality.image import Image as Photograph
from kerastl.modality.image.decode import decode, decode_original, kind_of, resize_pixels
from kerastl.modality.image.header import PIXELS_AT_MOST
from kerastl.modality.image.orientation import jpeg_orientation
from kerastl.modality.read import decode_in_chunks

HEIGHT, WIDTH = 37, 53
STRING = tf.TensorSpec([], tf.string)
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB = np.stack([COLUMNS * 4, ROWS * 6, (COLUMNS + ROWS) * 2], -1).astype(np.uint8)
ALPHA = (COLUMNS * 5 % 256).astype(np.uint8)
PICTURE = Image.fromarray(RGB)
TRANSLUCENT = Image.fromarray(np.dstack([RGB, ALPHA]))
PALETTE = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)

in_graph = tf.function(decode_original, input_signature=[STRING])


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_16_bit(levels: np.ndarray, color_type: int) -> bytes:
    """Pillow writes no 16-bit colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


JPEG = saved(PICTURE, "JPEG", quality=95)
PNG = saved(PICTURE, "PNG")
CMYK = saved(PICTURE.convert("CMYK"), "JPEG", quality=95)
FLIPPED = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
ANIMATED_GIF = saved(PALETTE, "GIF", save_all=True, append_images=[FLIPPED.convert("P")], duration=100)
ANIMATED_WEBP = saved(PICTURE, "WEBP", save_all=True, append_images=[FLIPPED], lossless=True)

AS_PILLOW = {
    "jpeg": JPEG,
    "jpeg-subsampled": saved(PICTURE, "JPEG", quality=75),
    "jpeg-progressive": saved(PICTURE, "JPEG", progressive=True),
    "jpeg-grey": saved(PICTURE.convert("L"), "JPEG"),
    "jpeg-cmyk": CMYK,
    "jpeg-ycck": patched(CMYK, CMYK.index(b"Adobe") + 11, b"\x02"),
    "png": PNG,
    "png-rgba": saved(TRANSLUCENT, "PNG"),
    "png-grey": saved(PICTURE.convert("L"), "PNG"),
    "png-grey-alpha": saved(TRANSLUCENT.convert("LA"), "PNG"),
    "png-1-bit": saved(PICTURE.convert("1"), "PNG"),
    "png-palette": saved(PALETTE, "PNG"),
    "png-palette-16-colors": saved(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG"),
    "png-palette-transparent": saved(PALETTE, "PNG", transparency=3),
    "png-color-key": saved(PICTURE, "PNG", transparency=(0, 0, 0)),
    "png-rgb-16-bit": png_16_bit(RGB.astype(np.uint16) * 257, 2),
    "png-rgba-16-bit": png_16_bit(np.dstack([RGB, ALPHA]).astype(np.uint16) * 257, 6),
    "gif": saved(PICTURE, "GIF"),
    "gif-animated": ANIMATED_GIF,
    "webp": saved(PICTURE, "WEBP", quality=80),
    "webp-lossless": saved(PICTURE, "WEBP", lossless=True),
    "webp-rgba": saved(TRANSLUCENT, "WEBP", lossless=True, exact=True),
    "webp-animated": ANIMATED_WEBP,
    "bmp": saved(PICTURE, "BMP"),
    "bmp-rgba": saved(TRANSLUCENT, "BMP"),
    "bmp-grey": saved(PICTURE.convert("L"), "BMP"),
    "bmp-palette": saved(PALETTE, "BMP"),
    "bmp-1-bit": saved(PICTURE.convert("1"), "BMP"),
}


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", AS_PILLOW)
def test_every_format_decodes_as_pillow_does(name: str) -> None:
    np.testing.assert_array_equal(in_graph(AS_PILLOW[name]).numpy(), pillow(AS_PILLOW[name]))


def test_16_bit_grey_keeps_its_upper_bits() -> None:
    levels = (COLUMNS * 1000 + ROWS * 300).astype(np.uint16)
    pixels = decode_original(saved(Image.fromarray(levels), "PNG")).numpy()
    assert np.abs(pixels[..., 0].astype(int) - levels / 257).max() <= 1
    assert pillow(saved(Image.fromarray(levels), "PNG")).mean() > 250  # why Pillow is no model here


TOO_LARGE = {
    "png": patched(PNG, 16, struct.pack(">II", 60_000, 60_000)),
    "jpeg": patched(JPEG, JPEG.index(b"\xff\xc0") + 5, struct.pack(">HH", 65_000, 65_000)),
    "gif": patched(AS_PILLOW["gif"], 6, struct.pack("<HH", 65_535, 65_535)),
    "bmp": patched(AS_PILLOW["bmp"], 18, struct.pack("<ii", 60_000, -60_000)),
    "webp": patched(ANIMATED_WEBP, 24, b"\xff\xff\x00" * 2),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_decompression_bombs_are_refused(name: str) -> None:
    for function in (decode_original, in_graph):
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"(?s)too large.*{PIXELS_AT_MOST}"):
            function(tf.constant(TOO_LARGE[name]))


UNREADABLE = {
    "empty": (b"", "empty file"),
    "text": (b"not an image" * 9, "not an image that TensorFlow or Pillow decodes"),
    "jpeg-half": (JPEG[: len(JPEG) // 2], "truncated or damaged jpeg"),
    "jpeg-without-end": (JPEG[:-2], "truncated or damaged jpeg"),
    "jpeg-magic-only": (b"\xff\xd8", "truncated or damaged jpeg"),
    "png-half": (PNG[: len(PNG) // 2], "truncated or damaged png"),
    "png-without-end": (PNG[:-12], "truncated or damaged png"),
    "png-flipped-bits": (patched(PNG, len(PNG) // 2, b"\xff\x00\xff"), "truncated or damaged png"),
    "gif-half": (AS_PILLOW["gif"][:1000], "truncated or damaged gif"),
    "webp-half": (AS_PILLOW["webp"][: len(AS_PILLOW["webp"]) // 2], "truncated or damaged webp"),
    "bmp-half": (AS_PILLOW["bmp"][:3000], "truncated or damaged bmp"),
    "bmp-palette-half": (AS_PILLOW["bmp-palette"][:60], "truncated or damaged bmp"),
    "bmp-magic-only": (b"BM", "bmp of an unknown kind"),
    "bmp-run-length": (patched(AS_PILLOW["bmp-palette"], 30, b"\x01")[:1100], "run-length coded"),
    "bomb": (TOO_LARGE["png"], "image too large: 60000 x 60000 pixels"),
}


def with_exif(
    orientation: int, big_endian: bool = False, before: bytes = b"", entries_before: int = 1
) -> bytes:
    """A JPEG whose Exif segment is written by hand, with other segments before it if wanted."""
    order = ">" if big_endian else "<"
    entries = [struct.pack(order + "HHII", 0x0100 + n, 4, 1, 99) for n in range(entries_before)]
    entries.append(struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0))
    tiff = (b"MM" if big_endian else b"II") + struct.pack(order + "HIH", 42, 8, len(entries))
    exif = b"Exif\0\0" + tiff + b"".join(entries) + b"\0" * 4
    return JPEG[:2] + before + segment(0xE1, exif) + JPEG[2:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


turned_in_graph = tf.function(jpeg_orientation, input_signature=[STRING])


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(orientation: int, big_endian: bool) -> None:
    data = with_exif(orientation, big_endian)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(in_graph(data).numpy(), np.asarray(expected))
    assert expected.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))


def test_exif_written_by_pillow_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    assert turned_in_graph(saved(PICTURE, "JPEG", exif=exif)) == 6


@pytest.mark.parametrize(
    "before",
    [
        segment(0xE0, b"JFIF\0" + b"\0" * 9),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 60_000) + segment(0xE1, b"Exif"),
        b"\xff" * 9,
        b"\xff\x01" + segment(0xFE, b"a comment that says Exif\0\0 itself"),
    ],
    ids=["app0", "xmp", "fill-bytes", "comment"],
)
def test_exif_is_found_behind_other_segments(before: bytes) -> None:
    assert turned_in_graph(with_exif(8, before=before)) == 8


def test_without_exif_or_with_a_wrong_value_an_image_is_upright() -> None:
    late_exif = with_exif(6).replace(b"\xff\xe1", b"\xff\xda\x00\x02\xff\xe1")
    for data in (JPEG, PNG, b"", b"Exif\0\0", with_exif(0), with_exif(9), with_exif(65_535), late_exif):
        assert turned_in_graph(data) == 1
    assert turned_in_graph(with_exif(6)) == 6  # or else all of this would pass without a parser


def test_damaged_exif_neither_crashes_nor_hangs() -> None:
    random = np.random.default_rng(0)
    whole = with_exif(6, entries_before=3)[:300]
    answers = []
    for attempt in range(300):
        damaged = bytearray(whole[: random.integers(1, len(whole))] if attempt % 2 else whole)
        for at in random.integers(0, min(len(damaged), 90), size=attempt % 7):
            damaged[at] = random.integers(256)
        answers.append(int(turned_in_graph(bytes(damaged))))
    assert set(answers) <= set(range(1, 9))
    assert {1, 6} <= set(answers)
    for data in (b"\xff" * 200_000 + b"Exif\0\0", b"\xff\xd8" + b"\xff\xe1\x00\x02" * 40_000 + b"Exif\0\0"):
        assert turned_in_graph(data) == 1
    for offset in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00"):
        data = with_exif(6)
        assert turned_in_graph(patched(data, data.index(b"II*\0") + 4, offset)) == 1


def solid(height: int, width: int) -> bytes:
    return saved(Image.fromarray(np.full((height, width, 3), 200, np.uint8)), "PNG")


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (1, 90), (90, 1), (40, 40), (300, 7)])
def test_pad_centres_the_whole_image_on_black(height: int, width: int) -> None:
    size = 41
    pixels = decode(solid(height, width), size, "pad").numpy()
    rows, columns = np.nonzero(pixels.any(axis=(1, 2)))[0], np.nonzero(pixels.any(axis=(0, 2)))[0]
    longer = max(height, width)
    assert len(rows) == max(int(height * size / longer + 0.5), 1)
    assert len(columns) == max(int(width * size / longer + 0.5), 1)
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (size - 1 - columns[-1])) <= 1
    assert set(np.unique(pixels)) <= {0, 200}


def test_crop_takes_the_middle_and_stretch_takes_all() -> None:
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, :20], stripes[:, 20:40], stripes[:, 40:] = 10, 100, 250
    data = saved(Image.fromarray(stripes), "PNG")
    np.testing.assert_array_equal(decode(data, 20, "crop"), stripes[:, 20:40])
    stretched = decode(data, 20, "stretch").numpy()
    assert (stretched[:, 0], stretched[:, -1]) == (pytest.approx(10), pytest.approx(250))
    with pytest.raises(ValueError, match="stretch, crop, pad"):
        decode(data, 20, "squash")


def test_an_image_of_the_right_size_is_not_touched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = saved(Image.fromarray(noise), "PNG")
    for resize in ("stretch", "crop", "pad"):
        np.testing.assert_array_equal(decode(data, 32, resize), noise)


def test_resizing_agrees_with_pillow_to_a_level() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 201, 3), np.uint8))
    expected = np.asarray(noise.resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
    data = saved(noise, "PNG")
    assert np.abs(decode(data, 48, "stretch").numpy() - expected).max() <= 1
    without_antialias = tf.image.resize(decode_original(data), [48, 48]).numpy()
    assert np.abs(without_antialias - expected).max() > 20


def photograph(height: int, width: int, orientation: int = 1) -> bytes:
    """A JPEG with structure at all scales, as photographs have: noise whose amplitude falls with its frequency."""
    generator = np.random.default_rng(3)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    slope = 1.0 / np.maximum(np.hypot(rows, columns), 1.0 / max(height, width))
    planes = [
        np.fft.ifft2(np.fft.fft2(generator.normal(size=(height, width))) * slope).real for _ in range(3)
    ]
    pixels = np.stack([(p - p.min()) / np.ptp(p) * 255 for p in planes], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(pixels), "JPEG", quality=92, exif=exif.tobytes())


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_decoded_smaller_looks_the_same(resize: str, orientation: int) -> None:
    data = photograph(900, 1300, orientation)
    whole = resize_pixels(decode_original(data), 96, resize).numpy().astype(int)
    smaller = decode(data, 96, resize).numpy().astype(int)
    difference = np.abs(smaller - whole)
    assert (difference > 0).any(), "the control: it was decoded at a quarter of its size"
    assert difference.mean() < 1.0 and np.percentile(difference, 99.9) <= 4
    traced = tf.function(lambda encoded: decode(encoded, 96, resize), input_signature=[STRING])
    np.testing.assert_array_equal(traced(data).numpy(), smaller)


@pytest.mark.parametrize(
    ("shorter", "factor"), [(191, 1), (192, 1), (383, 1), (384, 2), (767, 2), (768, 4), (1536, 8)]
)
def test_a_jpeg_is_decoded_no_smaller_than_twice_the_input(shorter: int, factor: int) -> None:
    data = photograph(shorter, shorter + 8)
    shape = decode_original(data, enough=2 * 96).shape
    assert tuple(shape) == (-(-shorter // factor), -(-(shorter + 8) // factor), 3)


def test_training_and_serving_decode_the_same_bits(tmp_path: Path) -> None:
    images = [with_exif(6), *(AS_PILLOW[name] for name in ("png-rgba", "webp-rgba", "gif", "bmp-palette"))]
    eager = np.stack([decode(tf.constant(data), 32, "pad") for data in images])
    dataset = tf.data.Dataset.from_tensor_slices(images)
    dataset = dataset.map(lambda data: decode(data, 32, "pad"), num_parallel_calls=tf.data.AUTOTUNE)

    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def decode(self, images: tf.Tensor) -> tf.Tensor:
            output = tf.TensorSpec([32, 32, 3], tf.uint8)
            return tf.map_fn(lambda data: decode(data, 32, "pad"), images, fn_output_signature=output)

    tf.saved_model.save(Served(), str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served")).decode(tf.constant(images))
    np.testing.assert_array_equal(np.stack(list(dataset.as_numpy_iterator())), eager)
    np.testing.assert_array_equal(served, eager)
    # of graphs that know one format each
    (part,) = decode_in_chunks(Photograph(32, "pad"), images, [len(images)])
    np.testing.assert_array_equal(part.inputs["pixels"], eager)
    assert [kind_of(data) for data in images] == ["jpeg", "png", "webp", "gif", "bmp"]


def test_unreadable_images_are_named_and_do_not_end_the_pass(tmp_path: Path) -> None:
    good = [f"good-{n}" for n in range(150)]
    # Pillow reads a PNG whose pixels are whole, and the pass takes it from there.
    damaged = {name: each for name, each in UNREADABLE.items() if name != "png-without-end"}
    files = {name: solid(8, 8) for name in good} | {name: data for name, (data, _) in damaged.items()}
    names = sorted(files, key=lambda name: zlib.crc32(name.encode()))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    names = ["missing", *names[:80], "folder", *names[80:], "dangling"]
    reasons = {name: reason for name, (_, reason) in damaged.items()}
    reasons |= {"missing": "no such file", "dangling": "no such file", "folder": "a folder, not a file"}

    advanced: list[int] = []
    (part,) = decode_in_chunks(
        Photograph(8), [tmp_path / name for name in names], [len(names)], advanced.append
    )
    out, found = part.inputs["pixels"], part.reasons

    assert {names[position] for position in found} == set(reasons)
    for position, reason in found.items():
        assert reason.startswith(reasons[names[position]]), names[position]
        assert not out[position].any()
    assert all((out[position] == 200).all() for position in range(len(names)) if position not in found)
    assert sum(advanced) == len(names)


def test_readable_images_all_arrive_in_their_places(tmp_path: Path) -> None:
    for n in range(100):
        (tmp_path / f"{n}.png").write_bytes(saved(Image.new("RGB", (5, 9), (n, n, n)), "PNG"))
    raw = [tmp_path / f"{n}.png" for n in range(100)]
    parts = list(decode_in_chunks(Photograph(6, "crop"), raw, [70, 30]))
    assert [(part.start, part.count, part.reasons) for part in parts] == [(0, 70, {}), (70, 30, {})]
    pixels = np.concatenate([part.inputs["pixels"] for part in parts])
    np.testing.assert_array_equal(pixels[:, 3, 3, 0], np.arange(100))


def test_few_examples_are_read_ahead_of_those_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "usable_cores", lambda: 2)
    data, taken = saved(Image.new("RGB", (4, 4)), "PNG"), []

    def raw() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield data

    parts = decode_in_chunks(Photograph(4), raw(), [100] * 10)
    next(parts)
    # those that the two threads have, and those that wait for one
    assert 100 <= len(taken) <= 100 + 6 * read.TAKEN_AT_ONCE
    assert sum(1 for _ in parts) == 9 and len(taken) == 1000


@pytest.mark.parametrize(
    ("size", "count", "tasks"),
    [(8, 1000, [32] * 31 + [8]), (8, 32, [4] * 8), (8, 3, [1] * 3), (1000, 32, [2] * 16)],
)
def test_every_thread_has_a_task_and_no_task_takes_much_memory(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int, tasks: list[int]
) -> None:
    monkeypatch.setattr(read, "usable_cores", lambda: 8)
    seen: list[int] = []
    answer: tuple[dict[str, np.ndarray], str] = ({"pixels": np.zeros((1, 1, 3), np.uint8)}, "")
    monkeypatch.setattr(
        read,
        "_results",
        lambda modality, examples, stopped: seen.append(len(examples)) or [answer] * len(examples),
    )
    for _ in decode_in_chunks(Photograph(size), [b"x"] * count, [count]):
        pass
    assert sorted(seen) == sorted(tasks)


def test_bytes_that_are_large_are_few_in_a_task() -> None:
    large = b"x" * (read.DECODED_BYTES // 2)
    tasks = read._tasks(Photograph(8), [b"x", large, large, b"x"], 32)
    assert [len(task) for task in tasks] == [3, 1]


def test_large_files_are_decoded_before_more_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "usable_cores", lambda: 1)
    calls: list[int] = []
    data = saved(Image.new("RGB", (4, 4)), "PNG")
    half = read.DECODED_BYTES // 2
    for n, padding in enumerate((10, 2 * half, 10, half, half, 10)):
        (tmp_path / f"{n}.png").write_bytes(data + bytes(padding))
    called = read._called
    monkeypatch.setattr(
        read,
        "_called",
        lambda decode, raw, converted: calls.append(len(raw)) or called(decode, raw, converted),
    )
    (part,) = decode_in_chunks(Photograph(4), [tmp_path / f"{n}.png" for n in range(6)], [6])
    assert calls == [2, 3, 1] and not part.reasons


def test_an_error_of_the_source_ends_the_pass_and_its_threads() -> None:
    data = saved(Image.new("RGB", (4, 4)), "PNG")

    def raw() -> Iterator[bytes]:
        yield from [data] * 100
        raise DataError("the set is damaged")

    before = threading.active_count()
    with pytest.raises(DataError, match="the set is damaged"):
        list(decode_in_chunks(Photograph(4), raw(), [50, 100]))
    assert threading.active_count() == before


def test_nothing_more_is_read_once_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "usable_cores", lambda: 2)
    data, opened = saved(Image.new("RGB", (4, 4)), "PNG"), list[bytes]()

    def slowly(raw: bytes) -> bytes:
        time.sleep(0.02)
        opened.append(raw)
        return raw

    monkeypatch.setattr(read, "bytes_of", slowly)
    parts = decode_in_chunks(Photograph(4), [data] * 400, [1, 399])
    next(parts)
    before = len(opened)
    parts.close()  # type: ignore[attr-defined]
    assert before <= len(opened) <= before + 2, "each of the two threads ends behind the file that it reads"


def test_a_name_that_no_file_can_have_is_one_that_is_missing(tmp_path: Path) -> None:
    (part,) = decode_in_chunks(Photograph(4), [tmp_path / "a\0b.png", tmp_path / "\ud800.png"], [2])
    assert part.reasons == {0: "no such file", 1: "no such file"}


def test_a_format_is_decoded_by_the_processor_also_where_there_is_a_gpu(tmp_path: Path) -> None:
    class Served(tf.Module):
        @tf.function(input_signature=[STRING])
        def decode(self, encoded: tf.Tensor) -> tf.Tensor:
            return decode(encoded, 32, "pad")

    tf.saved_model.save(Served(), str(tmp_path))
    written = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    graph = written.meta_graphs[0].graph_def
    cases = [node for function in graph.library.function for node in function.node_def if node.op == "Case"]
    assert len(cases) == 1 and all("CPU:0" in node.device for node in cases)


def test_no_images_and_a_wrong_number_of_them() -> None:
    (part,) = decode_in_chunks(Photograph(4), [], [0])
    assert part.count == 0 and part.reasons == {}
    for lengths in ([1], [3]):
        with pytest.raises(ValueError, match="chunks hold"):
            list(decode_in_chunks(Photograph(4), [b"", b""], lengths))
