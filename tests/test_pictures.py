"""Which files are pictures, what Pillow reads for TensorFlow, and that nothing is left out in silence."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerastl.data.examples import Split
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, UserError
from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits, reading_warnings
from kerastl.jobs.evaluate import decode_labelled
from kerastl.jobs.open import open_splits
from kerastl.modality.image import Image as Photograph
from kerastl.modality.image.convert import bits_used, servable
from kerastl.modality.image.decode import decode_original
from kerastl.modality.image.files import as_png, find_images, format_of, is_picture
from kerastl.modality.read import decode_in_chunks
from kerastl.progress import Progress
from kerastl.recipe import DataRecipe, load_recipe
from kerastl.recipe.schema import CacheRecipe

ROWS, COLUMNS = np.mgrid[0:20, 0:30]
RGB = np.stack([COLUMNS * 8, ROWS * 12, (COLUMNS + ROWS) * 5], -1).astype(np.uint8)
PICTURE = Image.fromarray(RGB)


def saved(kind: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def run_length_bmp() -> bytes:
    """Each row one run of a level that is its number."""
    body = b"".join(bytes([30, row]) + b"\0\0" for row in range(20)) + b"\0\1"
    palette = b"".join(bytes([level * 9 % 256, level, 7, 0]) for level in range(256))
    plain = saved("BMP", PICTURE.convert("L"))
    header = plain[:30] + b"\1\0\0\0" + len(body).to_bytes(4, "little") + plain[38:54]
    return header + palette + body


class Heard(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


THROUGH_PILLOW: dict[str, Callable[[], bytes]] = {
    "tiff": lambda: saved("TIFF", compression="tiff_lzw"),
    "tiff of several pages": lambda: saved("TIFF", save_all=True, append_images=[PICTURE.rotate(90)]),
    "heif": lambda: saved("HEIF", quality=-1),
    "avif": lambda: saved("AVIF", quality=100),
    "jpeg 2000": lambda: saved("JPEG2000"),
    "psd-like ppm": lambda: saved("PPM"),
    "unusual bmp": run_length_bmp,
}


@pytest.mark.parametrize("name", THROUGH_PILLOW)
def test_what_tensorflow_does_not_decode_becomes_png_with_pillows_pixels(name: str) -> None:
    if name == "heif":
        pytest.importorskip("pillow_heif")
    data = THROUGH_PILLOW[name]()
    with pytest.raises(tf.errors.OpError):
        decode_original(data)
    served, kind = servable(data)
    assert served.startswith(b"\x89PNG") and kind == {
        "tiff of several pages": "tiff of several pages: the first",
        "psd-like ppm": "ppm",
    }.get(name, name)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_original(served).numpy(), np.asarray(image.convert("RGB")))


def test_what_tensorflow_decodes_is_not_touched() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "MPO"):
        assert servable(saved(kind)) == (saved(kind), "")


def test_orientation_and_grey_of_16_bits_survive_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(
        decode_original(as_png(saved("TIFF", exif=exif))[0]).numpy(), np.rot90(RGB, -1)
    )
    levels = (ROWS * 30 + COLUMNS).astype(np.uint16) * 6
    png, _ = as_png(saved("TIFF", Image.fromarray(levels)))
    np.testing.assert_array_equal(decode_original(png, significant_bits=12).numpy()[..., 0], levels >> 4)
    assert bits_used([png, saved("JPEG"), b"", b"rubbish"]) == 12
    assert bits_used([saved("TIFF", Image.fromarray(levels * 4))]) == 14
    assert bits_used([saved("PNG")]) == 16


def test_what_pillow_cannot_read_as_a_photograph_is_refused_with_its_reason() -> None:
    tiff = saved("TIFF", tiffinfo={254: 1})
    for data, reason in {
        b"": "empty file",
        b"a text, and no picture": "not an image",
        saved("TIFF")[:300]: "truncated, damaged or unknown kind of tiff",
        saved("TIFF", Image.fromarray(RGB[..., 0].astype(np.float32))): "floating-point",
        saved("TIFF", Image.fromarray(RGB[..., 0].astype(np.int32) * 1000)): "32 bits",
        tiff: "camera raw",
        b"\0\0\0\x18ftypheic" + b"\0" * 90: "heif",
    }.items():
        with pytest.raises(ValueError, match=reason):
            servable(data)
    with pytest.raises(ValueError, match="truncated or damaged jpeg"):
        servable(saved("JPEG")[:300])


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_pictures_are_known_by_suffix_or_by_their_first_bytes(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "a/1.jfif": b"", "a/2.JPE": b"", "a/3.mpo": b"", "a/4.HEIC": b"", "a/5.tif": b"", "a/6.avif": b"",
            "a/photo": saved("JPEG"), "a/download.aspx": saved("WEBP"), "a/IMG_1.jpg_large": saved("PNG"),
            "a/notes.txt": b"RIFF is a word", "a/BMW.md": b"BMW", "a/list": b"a, b", "a/sound.wav": b"RIFF0000WAVE",
            "b/1.png": b"",
        },
    )  # fmt: skip
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert [name for name in examples.ids if name.startswith("a/")] == sorted(
        f"a/{name}"
        for name in (
            "1.jfif", "2.JPE", "3.mpo", "4.HEIC", "5.tif", "6.avif", "photo", "download.aspx", "IMG_1.jpg_large",
        )
    )  # fmt: skip
    assert examples.skipped_pictures == 0
    (line,) = examples.warnings
    assert (
        "4 left out (no picture)" in line
        and "1 .txt" in line
        and "1 .wav" in line
        and "1 without a suffix" in line
    )
    assert make_splits_warns(examples, line)
    assert format_of(b"BM" + b"\0" * 30) == "bmp" and not is_picture(tmp_path / "a" / "gone")


def make_splits_warns(examples: object, line: str) -> bool:
    """Indexing's warnings are those of the splits, which `fit`, `plan` and `tune` print."""
    try:
        return line in make_splits(examples, DataRecipe()).warnings  # type: ignore[arg-type]
    except DataError:
        return True


def test_hidden_files_and_broken_links_are_counted(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "a/1.png": b"",
            "b/1.png": b"",
            "a/.DS_Store": b"",
            "a/Thumbs.db": b"",
            "b/._1.png": b"",
            "loose.png": b"",
        },
    )
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone")
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    text = "\n".join(examples.warnings)
    assert "3 left out: hidden files" in text and "1 left out (a broken link): 1 .png" in text
    assert "1 left out (not in a class folder): 1 .png" in text
    assert examples.skipped_pictures == 2


def test_a_class_folder_with_files_but_no_picture_is_an_error(tmp_path: Path) -> None:
    lay(tmp_path, {"cat/1.png": b"", "dog/1.png": b"", "horse/1.mp4": b"no", "horse/deep/2.xyz": b""})
    with pytest.raises(DataError, match=r"no picture: 'horse'"):
        open_examples(DataRecipe(source=str(tmp_path)))
    (tmp_path / "horse" / "deep" / "3.tif").write_bytes(b"")
    assert open_examples(DataRecipe(source=str(tmp_path))).class_names == ("cat", "dog", "horse")


def photographs(folder: Path, suffixes: tuple[str, ...] = ("png",)) -> Path:
    """Three classes of twelve; those of the second in the formats that are asked for."""
    kinds = {"png": "PNG", "tif": "TIFF", "heic": "HEIF", "jfif": "JPEG"}
    for index, name in enumerate(("bird", "cat", "dog")):
        for number in range(12):
            picture = Image.effect_noise((24, 24), 20 + 40 * index).convert("RGB")
            suffix = suffixes[number % len(suffixes)] if name == "cat" else "png"
            lay(folder, {f"{name}/{number:02d}.{suffix}": saved(kinds[suffix], picture)})
    return folder


def prepared(folder: Path, scratch: Path, heard: Progress, **flags: object) -> object:
    recipe, splits = open_splits(
        load_recipe(flags={"data.source": str(folder), "backbone.image_size": 32, **flags})
    )
    with Cache(CacheRecipe(mode="off"), scratch) as cache:
        return decode_splits(recipe, splits, cache, heard)


def test_a_run_says_what_went_through_pillow_and_what_an_exported_model_takes(tmp_path: Path) -> None:
    heard = Heard()
    folder = photographs(tmp_path / "photos", ("tif", "jfif"))
    found = prepared(folder, tmp_path / "scratch", heard)
    assert found.converted == {"tiff": 6} and not found.unreadable  # type: ignore[attr-defined]
    (line,) = reading_warnings((), found.converted, Photograph)  # type: ignore[attr-defined]
    assert (
        "6 images (6 tiff) were turned into PNG" in line
        and "takes JPEG, PNG, GIF, BMP and WebP alone" in line
    )


@pytest.mark.slow
def test_pictures_without_their_reader_stop_a_run_by_class_and_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif")
    few = photographs(tmp_path / "few", ("heic", *["png"] * 5))
    all_of_a_class = photographs(tmp_path / "all", ("heic",))
    assert prepared(few, tmp_path / "s1", Heard()).converted == {"heif": 2}  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"2 of 36 images cannot be read.*pip install 'kerastl\[heif\]'"):
        prepared(few, tmp_path / "s2", Heard())
    heard = Heard()
    prepared(few, tmp_path / "s3", heard, **{"data.max_unreadable_fraction": 0.1})
    assert (
        "2 images (2 heif picture: pip install 'kerastl[heif]', or convert it to jpeg) left out"
        in heard.warnings[0]
    )
    with pytest.raises(DataError, match="No readable training image is left of 'cat'"):
        prepared(all_of_a_class, tmp_path / "s4", Heard(), **{"data.max_unreadable_fraction": 1.0})


@pytest.mark.slow
def test_skipped_pictures_count_as_unreadable(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos")
    prepared(folder, tmp_path / "scratch", Heard())
    for number in range(4):
        (folder / "cat" / f"gone{number}.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"4 of 40 images cannot be read, a share of 10.0%"):
        prepared(folder, tmp_path / "scratch", Heard())


def test_kept_pixels_remember_what_went_through_pillow(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", ("tif",))
    flags = {"data.source": str(folder), "backbone.image_size": 32, "cache.mode": "disk"}
    flags["cache.directory"] = str(tmp_path / "kept")
    recipe, splits = open_splits(load_recipe(flags=flags))
    for _ in range(2):
        with Cache(recipe.cache, tmp_path / "scratch") as cache:
            assert decode_splits(recipe, splits, cache, Progress()).converted == {"tiff": 12}


def test_16_bit_images_are_measured_and_the_recipe_keeps_what_was_found(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos")
    levels = np.random.default_rng(0).integers(0, 4000, (24, 24)).astype(np.uint16)
    levels[0, 0] = 3999
    for path in folder.glob("cat/*.png"):
        path.write_bytes(saved("PNG", Image.fromarray(levels)))
    recipe, splits = open_splits(load_recipe(flags={"data.source": str(folder)}))
    assert recipe.data.significant_bits == 12
    assert any("use only 12 of them" in warning for warning in splits.warnings)
    given = {"data.source": str(folder), "data.significant_bits": 16}
    recipe, splits = open_splits(load_recipe(flags=given))
    assert recipe.data.significant_bits == 16 and not any("use only" in line for line in splits.warnings)


def test_predict_names_what_it_leaves_out_of_a_folder(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "1.png": b"",
            "photo": saved("JPEG"),
            "2.tif": b"",
            "notes.txt": b"",
            "a.json": b"{}",
            ".x.png": b"",
        },
    )
    heard = Heard()
    found = find_images([str(tmp_path)], heard)
    assert [Path(path).name for path in found] == ["1.png", "2.tif", "photo"]
    assert heard.warnings == [f"{tmp_path}: 3 files are no pictures and left out (1 .json, 1 .txt, 1 hidden)"]
    (tmp_path / "empty").mkdir()
    lay(tmp_path, {"texts/a.txt": b""})
    with pytest.raises(UserError, match="1 file is no picture"):
        find_images([str(tmp_path / "texts")])
    with pytest.raises(UserError, match="No picture"):
        find_images([str(tmp_path / "empty")])


def test_predict_follows_links_and_names_those_that_lead_nowhere(tmp_path: Path) -> None:
    lay(tmp_path, {"photos/deep/1.png": b"", "elsewhere/2.png": b""})
    photos = tmp_path / "photos"
    (photos / "alias").symlink_to(photos / "deep")
    (photos / "circle").symlink_to(photos)
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    found = [str(Path(path).relative_to(photos)) for path in find_images([str(photos)])]
    assert found == ["deep/1.png", "gone.png", "linked/2.png"]
    assert find_images([str(photos / "gone.png")]) == [str(photos / "gone.png")]


def test_classes_are_looked_at_before_images_are_decoded(tmp_path: Path) -> None:
    def refuse(indices: np.ndarray) -> Iterator[bytes]:
        raise AssertionError("the images were asked for")

    lay(tmp_path, {"cat/1.png": b"", "zebra/1.png": b""})
    data = DataRecipe(source=str(tmp_path))
    examples = dataclasses.replace(open_examples(data), raw=refuse)
    split = Split("test", examples, np.arange(2))
    with pytest.raises(DataError, match="'zebra' that the model does not know"):
        decode_labelled(split, Photograph(32), ("cat", "dog"), tmp_path, Progress())


def test_like_reasons_are_alike(tmp_path: Path) -> None:
    for kind, data in (("tiff", saved("TIFF")), ("jpeg 2000", saved("JPEG2000")), ("avif", saved("AVIF"))):
        reasons = set()
        for length in (len(data) // 3, len(data) // 2, len(data) - 1):
            with pytest.raises(ValueError, match=r"Pillow cannot read|truncated") as caught:
                as_png(data[:length])
            reasons.add(str(caught.value))
        assert not any("0x" in reason for reason in reasons), (kind, reasons)
    with pytest.raises(ValueError, match="Git LFS"):
        as_png(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="a web page"):
        as_png(b"\n<!DOCTYPE html><html>")


def test_one_pass_reads_pictures_of_both_ways_in_their_places(tmp_path: Path) -> None:
    kinds = [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100}), ("PPM", {})]
    paths = []
    for number in range(40):
        kind, options = kinds[number % 4]
        path = tmp_path / str(number)
        path.write_bytes(saved(kind, Image.new("RGB", (9, 9), (number * 5,) * 3), **options))
        paths.append(path)
    (tmp_path / "7").write_bytes(b"rubbish")
    (tmp_path / "8").write_bytes(run_length_bmp())

    (part,) = decode_in_chunks(Photograph(8), paths, [40])
    out = part.inputs["pixels"]
    assert part.reasons == {7: "not an image that TensorFlow or Pillow decodes"}
    good = [number for number in range(40) if number not in (7, 8)]
    np.testing.assert_allclose(out[good, 4, 4, 0], np.array(good) * 5, atol=2)
