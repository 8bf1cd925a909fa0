"""Near copies: found across splits in spite of saving, noise and small moves, and not where all images are alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Kerastl
from PIL import Image, ImageEnhance

from kerastl.data.digits import _digits
from kerastl.data.looks import Looks
from kerastl.modality.image.copies import near_copies, thumbnails_of

SIZE = 64


def scenes(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Pictures of nothing, but with as much structure as photographs: smooth random patches."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 7, 7, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC)) for each in coarse]
    )


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def cut(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels[2:, 2:]).resize((SIZE, SIZE)))


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 8, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.15))


@pytest.mark.parametrize("change", [as_jpeg, cut, noisy, brighter])
def test_one_picture_in_two_forms_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    train, test = scenes(300), scenes(60, seed=1)
    assert near_copies(thumbnails_of(test), thumbnails_of(train))[0] == [], "the control: others are not"
    train[:20] = [change(each) for each in test[:20]]
    found, looked = near_copies(thumbnails_of(test), thumbnails_of(train))
    assert looked == 60 and len(found) >= 18
    assert all(row == other < 20 and 0.95 <= likeness <= 1.001 for row, other, likeness in found)


def test_frames_of_a_moving_camera_are_found() -> None:
    frames = np.stack([scene[:SIZE, at : at + SIZE] for scene in scenes(20, size=96) for at in range(12)])
    order = np.random.default_rng(0).permutation(len(frames))
    test, train = order[:50], order[50:]
    found, _ = near_copies(thumbnails_of(frames[test]), thumbnails_of(frames[train]))
    assert len(found) >= 45
    assert all(test[row] // 12 == train[other] // 12 for row, other, _ in found)


def test_what_is_alike_by_nature_is_no_near_copy() -> None:
    """Of handwritten digits nearly every one has a look-alike at the demand that suits photographs."""
    pixels = np.repeat(_digits()[0][..., None], 3, axis=3)
    train, test = thumbnails_of(pixels[:1400]), thumbnails_of(pixels[1400:])
    assert near_copies(test, train)[0] == []
    train[:40] = test[:40]
    found, _ = near_copies(test, train)
    assert {row for row, other, _ in found if row == other} == set(range(40)) and len(found) < 60


def test_pictures_without_contrast_are_like_no_other() -> None:
    flat = np.stack([np.full((9, 9, 3), shade, np.uint8) for shade in range(100)])
    assert near_copies(thumbnails_of(flat[:50]), thumbnails_of(flat[50:]))[0] == []


def test_thumbnails_are_means_of_cells_at_any_size() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, None, :, None], (1, 80, 90, 3))
    assert thumbnails_of(ramp)[0, 3].tolist() == [4, 14, 24, 34, 44, 54, 64, 74, 84]
    for size in (1, 5, 8, 9, 17, 31):
        thumbnail = thumbnails_of(np.full((2, size, size + 3, 3), 77, np.uint8))
        assert thumbnail.shape == (2, 8, 9) and (thumbnail == 77).all()


def test_looks_are_remembered_by_position() -> None:
    looks, sketches = Looks(100), np.arange(12, dtype=np.uint8).reshape(4, 3)
    looks.add(np.array([7, 3]), sketches[:2])
    assert looks.unseen(np.array([3, 5, 7])).tolist() == [1]
    looks.add(np.array([40]), sketches[2:3])
    assert (looks.rows(np.array([3, 7, 40])) == sketches[[1, 0, 2]]).all()
    assert looks.unseen(np.array([0, 7, 8, 40, 41, 99])).tolist() == [0, 2, 4, 5]
    with pytest.raises(AssertionError, match="never added"):
        looks.rows(np.array([7, 8]))


def test_too_many_pairs_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerastl.modality.image.copies._MOST_PAIRS", 3_000)
    test = scenes(60, seed=1)
    found, looked = near_copies(thumbnails_of(test), thumbnails_of(np.concatenate([test, scenes(60)])))
    assert looked == len(found) < 60


@pytest.mark.slow
def test_a_fit_counts_and_names_them_everywhere(kerastl: Kerastl, tmp_path: Path) -> None:
    for number, (split, count) in enumerate((("train", 30), ("val", 8), ("test", 10))):
        for seed, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for at, pixels in enumerate(scenes(count, seed=10 * number + seed)):
                Image.fromarray(pixels).save(folder / f"{at}.png")
    for at in range(6):
        Image.open(tmp_path / f"pets/train/cat/{at}.png").save(
            tmp_path / f"pets/test/cat/again{at}.jpg", quality=60
        )
    small = (
        "--backbone",
        "mobilenet_025",
        "--image-size",
        "32",
        "--no-finetune",
        "--head-epochs",
        "1",
        "--no-export",
    )
    words = "6 test images look nearly the same as images of train or validation, such as 'test/cat/again0.jpg' and"
    for _ in range(2):  # the second time from the store
        done = kerastl("fit", "--data", "pets", *small)
        assert done.returncode == 0 and words in " ".join(done.stderr.split()), done.stderr
    (run, _) = sorted((tmp_path / "runs").iterdir())
    assert words in (run / "log.txt").read_text() and words in (run / "report.json").read_text()
    assert "6 test images look nearly the same" in (run / "report.md").read_text()
    rows = list(csv.DictReader((run / "near_copies.csv").open()))
    assert {(row["id"], row["near"]) for row in rows} == {
        (f"test/cat/again{at}.jpg", f"train/cat/{at}.png") for at in range(6)
    }
    assert "validation images look" not in done.stderr, "the control"
