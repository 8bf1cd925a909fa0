"""Small inputs made from scikit-learn's digits: pictures as files, and a manifest with several marks a picture."""

from __future__ import annotations

import csv
from pathlib import Path

MARKS = ("odd", "large", "round")  # 4 has none of them


def marks_of(digit: int) -> list[str]:
    """What is true of a digit; nothing is of 2 and 4."""
    holds = (digit % 2 == 1, digit >= 5, digit in (0, 6, 8, 9))
    return [mark for mark, true in zip(MARKS, holds, strict=True) if true]


def write_pictures(folder: Path, first: int, count: int) -> list[tuple[Path, int]]:
    """PNGs of some of the digits, 8 × 8 grey pixels each, with the digit that each shows."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = np.round(bundle.images * (255 / 16)).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    made = []
    for index in range(first, first + count):
        Image.fromarray(pixels[index]).save(folder / f"{index:04}.png")
        made.append((folder / f"{index:04}.png", int(bundle.target[index])))
    return made


def write_marked(folder: Path, count: int = 300) -> Path:
    """A manifest of digits under their marks, with its splits given: of ten, seven, one and two."""
    rows = [
        (f"images/{path.name}", "|".join(marks_of(digit)), "train" if at // 10 % 10 < 7 else "validation" if at // 10 % 10 == 7 else "test")
        for at, (path, digit) in enumerate(write_pictures(folder / "images", 0, count))
    ]  # fmt: skip
    with (folder / "marked.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return folder / "marked.csv"
