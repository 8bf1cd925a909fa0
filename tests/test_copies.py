"""Copies and groups: equal contents and what belongs together stay in one split, and what is torn is named."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kerastl.data.duplicates import copies_of, digest_of, equal_files
from kerastl.data.examples import Examples, Splits, text_column
from kerastl.data.grouping import keep_copies_together
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, RecipeError
from kerastl.recipe import load_recipe
from kerastl.recipe.schema import DataRecipe


def lay(root: Path, names: list[str], frames: int = 1) -> Path:
    """A picture for each name; with frames, as many neighbours have the same bytes."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = (number // frames).to_bytes(2, "little")
        path.write_bytes(encode_png(np.array([[*shade, 7]], np.uint8)))
    return root


def split(root: Path, **keys: object) -> Splits:
    data = DataRecipe(source=str(root), **keys)  # type: ignore[arg-type]
    return make_splits(open_examples(data), data)


def contents_in(splits: Splits, root: Path) -> list[set[bytes]]:
    return [{(root / path).read_bytes() for path in part.ids} for part in splits]


def frames(count: int = 120, each: int = 5) -> list[str]:
    return [f"{'cat' if row // each % 2 else 'dog'}/{row:03d}.png" for row in range(count)]


def test_equal_bytes_are_never_on_two_sides(tmp_path: Path) -> None:
    lay(tmp_path, frames(), 5)
    splits = split(tmp_path)
    train, validation, test = contents_in(splits, tmp_path)
    assert not (train & test or train & validation or validation & test)
    assert any(
        "96 of 120 images are copies" in line and "'cat/005.png' and 'cat/006.png'" in line
        for line in splits.warnings
    )
    data = DataRecipe(source=str(tmp_path))
    blind = contents_in(make_splits(replace(open_examples(data), contents=None), data), tmp_path)
    assert blind[0] & blind[2], "the control: without the contents they are torn"


def test_images_without_copies_and_the_first_of_several_stay_where_they_lay(tmp_path: Path) -> None:
    names = [f"{'cat' if row % 2 else 'dog'}/{row:03d}.png" for row in range(200)]
    lay(tmp_path, names)
    before = {path: part.name for part in split(tmp_path) for path in part.ids}
    for name in names[:40]:
        (tmp_path / name.replace(".png", "_copy.png")).write_bytes((tmp_path / name).read_bytes())
    splits = split(tmp_path)
    after = {path: part.name for part in splits for path in part.ids}
    assert all(after[path] == side for path, side in before.items())
    assert all(after[name.replace(".png", "_copy.png")] == after[name] for name in names[:40])
    assert splits.counts()["train"] > 100 and not split(lay(tmp_path / "other", names)).warnings, (
        "the control"
    )


def test_copies_across_given_splits_stay_and_are_named(tmp_path: Path) -> None:
    lay(tmp_path, [f"train/{name}" for name in frames(80, 1)])
    lay(tmp_path, [f"test/{name}" for name in frames(12, 1)])
    lay(tmp_path, ["val/cat/x.png", "val/dog/y.png"])
    splits = split(tmp_path)
    text = "\n".join(splits.warnings)
    assert splits.counts() == {"train": 80, "validation": 2, "test": 12}
    assert (
        "12 test images are copies of train images" in text
        and "'test/cat/001.png' and 'train/cat/001.png'" in text
    )
    assert (
        "2 test images are copies of validation images" in text
        and "2 validation images are copies of train" in text
    )
    assert "figures of test are too good: take the copies out" in text
    (tmp_path / "val").rename(tmp_path / "hidden")
    splits = split(tmp_path)
    assert splits.counts()["test"] == 12 and splits.validation.count, (
        "validation is carved from train all the same"
    )


def test_copies_with_other_labels_are_named(tmp_path: Path) -> None:
    lay(tmp_path, frames(60, 1))
    (tmp_path / "cat" / "also.png").write_bytes((tmp_path / "dog" / "000.png").read_bytes())
    lines = [line for line in split(tmp_path).warnings if "another label" in line]
    assert len(lines) == 1 and "1 image has copies" in lines[0] and "'dog/000.png'" in lines[0]


@pytest.mark.parametrize("seconds", [1.0, 0.0], ids=["files in memory", "a slow disk"])
def test_links_are_copies_and_unreadable_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("kerastl.data.duplicates._SLOW_SECONDS", seconds)
    monkeypatch.setattr("kerastl.data.duplicates._TOGETHER", 2)
    lay(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "e.png").symlink_to(tmp_path / "a.png")
    big = np.random.default_rng(0).bytes(100_000)
    for name, data in (
        ("f", big),
        ("g", big),
        ("h", big[:-1] + b"x"),
        ("i", big[::-1]),
        ("j", b""),
        ("k", b""),
    ):
        (tmp_path / f"{name}.png").write_bytes(data)
    ids = text_column([f"{letter}.png" for letter in "abcdefghijklm"])
    sizes = [os.path.getsize(tmp_path / name) if (tmp_path / name).exists() else 77 for name in ids]
    found = equal_files(str(tmp_path), ids, np.array(sizes, np.int64))
    assert found[0] == found[4] != -1 and found[5] == found[6] != -1 and found[0] != found[5]
    assert (np.delete(found, [0, 4, 5, 6]) == -1).all()


def test_copies_of_digests() -> None:
    found = copies_of(np.array([digest_of(each) for each in (b"x", b"y", b"x", b"z", b"y", b"x")]))
    assert found[0] == found[2] == found[5] != found[1] == found[4] and found[3] == -1


def examples_of(groups: list[str], contents: list[int], splits: list[str] | None = None) -> Examples:
    count = len(groups)
    return replace(
        open_examples(DataRecipe()),
        ids=text_column([f"{row:02d}.png" for row in range(count)]),
        labels=np.zeros(count, np.int32),
        groups=text_column(groups),
        splits=text_column(splits or [""] * count),
        contents=np.array(contents),
    )


def test_groups_that_share_a_content_become_one() -> None:
    found = keep_copies_together(examples_of(["b", "b", "a", "a", "", "", "c"], [-1, 0, 0, 1, 1, -1, -1]))
    assert list(found.groups) == ["a", "a", "a", "a", "a", "", "c"]
    found = keep_copies_together(examples_of(["", "", "", ""], [0, 1, 0, 1]))
    assert list(found.groups) == ["00.png", "01.png", "00.png", "01.png"]


def test_groups_of_different_given_splits_are_not_joined() -> None:
    given = ["train", "", "test", "", "train", "test", ""]
    found = keep_copies_together(
        examples_of(["a", "a", "b", "b", "", "", ""], [-1, 0, -1, 0, 1, 1, 1], given)
    )
    assert list(found.groups[:4]) == ["a", "a", "b", "b"]
    assert found.groups[4] == found.groups[6] != found.groups[5]


@pytest.mark.parametrize("pattern", [r"(p\d+)_", r"p\d+", r"/(p)(\d+)"])
def test_a_pattern_names_groups(tmp_path: Path, pattern: str) -> None:
    names = [
        f"{'cat' if patient % 2 else 'dog'}/p{patient}_{shot}.png"
        for patient in range(20)
        for shot in range(6)
    ]
    lay(tmp_path, [*names, "cat/stray.png"])
    splits = split(tmp_path, group_pattern=pattern)
    where: dict[str, set[str]] = {}
    for part in splits:
        for path in part.ids:
            where.setdefault(path.split("_")[0], set()).add(part.name)
    assert all(len(sides) == 1 for sides in where.values()) and splits.test.count >= 6
    assert any("no group in 1 of 121 paths, such as 'cat/stray.png'" in line for line in splits.warnings)
    groups = open_examples(DataRecipe(source=str(tmp_path), group_pattern=pattern)).groups
    assert len(set(groups)) == 21


def test_folders_below_classes_are_groups_across_classes_if_asked(tmp_path: Path) -> None:
    names = [
        f"{name}/night {night}/x/{shot}.png"
        for name in ("cat", "dog")
        for night in range(12)
        for shot in range(4)
    ]
    for top in (tmp_path / "flat", tmp_path / "given" / "train"):
        lay(top, [*names, "cat/loose.png"])
    for root, keys in ((tmp_path / "flat", {}), (tmp_path / "given", {})):
        examples = open_examples(DataRecipe(source=str(root), group_subfolders=True))
        assert set(examples.groups) == {"", *(f"night {night}" for night in range(12))}
        splits = split(root, group_subfolders=True, **keys)
        nights = [
            {path.split("night ")[1].split("/")[0] for path in part.ids if "night" in path} for part in splits
        ]
        assert not (nights[0] & nights[1] or nights[0] & nights[2] or nights[1] & nights[2]) and all(nights)
    assert set(open_examples(DataRecipe(source=str(tmp_path / "flat"))).groups) == {""}, "the control"


def test_keys_that_find_no_group_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, frames(40, 1))
    with pytest.raises(
        DataError, match=r"data\.group_pattern = 'patient.*matches none of the paths.*'cat/001\.png'"
    ):
        split(tmp_path, group_pattern=r"patient(\d+)")
    with pytest.raises(DataError, match=r"data\.group_subfolders = true, but no image"):
        split(tmp_path, group_subfolders=True)
    with pytest.raises(RecipeError, match=r"data\.group_pattern = '\(': expected a regular expression"):
        load_recipe(sets=["data.group_pattern=("])
    with pytest.raises(RecipeError, match="expected one of them"):
        load_recipe(sets=["data.group_pattern=x", "data.group_subfolders=true"])
    table = tmp_path / "table.csv"
    table.write_text("path,label,group\ncat/001.png,x,p\ndog/000.png,y,q\n")
    with pytest.raises(DataError, match=r"table\.csv names groups itself"):
        split(table, group_pattern="x")
