"""Folders of classes: what is found, what is left out, and what is said about folders that cannot be used."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kerastl.data.folder import check_apart
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe

PNG = encode_png(np.full((2, 2), 7, np.uint8))


def lay(root: Path, *names: str) -> Path:
    """Write a small image (any other file: a word) for each name below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + name.encode())
    return root


def pets(root: Path, *more: str) -> Path:
    return lay(root, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", *more)


def ids(root: Path) -> list[str]:
    return list(open_examples(DataRecipe(source=str(root))).ids)


def test_flat_folder_names_classes_and_leaves_splits_open(tmp_path: Path) -> None:
    examples = open_examples(DataRecipe(source=str(pets(tmp_path))))
    assert list(examples.ids) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    assert examples.class_names == ("cat", "dog")
    assert examples.labels.dtype == np.int32 and list(examples.labels) == [0, 0, 1, 1]
    assert set(examples.splits) == {""} and set(examples.groups) == {""}
    assert examples.skipped == ()


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "Val", "dev"])
@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("Training", "Testing")])
def test_split_folders_are_recognised_in_any_case(
    tmp_path: Path, validation: str, train: str, test: str
) -> None:
    pets(tmp_path / train)
    lay(tmp_path, f"{validation}/cat/3.png", f"{test}/dog/4.png", "extra/x/5.png")
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    by_id = dict(zip(examples.ids, examples.splits, strict=True))
    assert by_id[f"{validation}/cat/3.png"] == "validation"
    assert by_id[f"{test}/dog/4.png"] == "test"
    assert by_id[f"{train}/cat/1.png"] == "train"
    assert len(by_id) == 6
    assert any(line.startswith("extra/: ") for line in examples.skipped)


def test_without_a_train_folder_split_words_are_classes(tmp_path: Path) -> None:
    lay(tmp_path, "test/1.png", "validation/1.png")
    assert open_examples(DataRecipe(source=str(tmp_path))).class_names == ("test", "validation")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    lay(tmp_path, "car/1.png", "bus/1.png", "train/1.png")
    assert open_examples(DataRecipe(source=str(tmp_path))).class_names == ("bus", "car", "train")


def test_suffixes_count_in_any_case_and_other_files_are_listed(tmp_path: Path) -> None:
    pets(
        tmp_path,
        "cat/A.JPG",
        "cat/b.Jpeg",
        "cat/c.GIF",
        "cat/d.bmp",
        "cat/e.WebP",
        "cat/f.tiff",
        "cat/g.HEIC",
    )
    lay(tmp_path, "loose.png")
    for name in ("cat/h.txt", "cat/jpg"):
        (tmp_path / name).write_text("no picture")
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert sum(name.startswith("cat/") for name in examples.ids) == 9
    assert {line.partition(":")[0] for line in examples.skipped} == {"cat/h.txt", "cat/jpg", "loose.png"}
    assert all(": " in line for line in examples.skipped)


def test_hidden_files_and_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    pets(tmp_path)
    lay(
        tmp_path,
        "cat/.3.png",
        ".git/4.png",
        "cat/.thumbs/5.png",
        "__MACOSX/cat/6.png",
        "cat/Thumbs.db",
        ".DS_Store",
    )
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert len(examples) == 4 and examples.skipped == ()
    assert examples.warnings == (
        "6 left out: hidden files and those that file managers leave behind; folders: '.git', '__MACOSX', 'cat/.thumbs'.",
    )


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    assert ids(pets(tmp_path, "cat/2024/may/3.png"))[2] == "cat/2024/may/3.png"
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert examples.class_names == ("cat", "dog")


def test_class_folder_without_images_is_dropped_and_listed(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "bird").mkdir()
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert examples.class_names == ("cat", "dog") and list(examples.labels) == [0, 0, 1, 1]
    assert examples.skipped == ("bird/: no images in this class folder",)


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    store = lay(tmp_path / "store", "deep/3.png", "4.png", "owl/1.png", "owl/2.png")
    root = pets(tmp_path / "root")
    (root / "cat" / "linked").symlink_to(store / "deep")
    (root / "cat" / "4.png").symlink_to(store / "4.png")
    (root / "cat" / "gone.png").symlink_to(store / "nothing.png")
    (root / "owl").symlink_to(store / "owl")
    examples = open_examples(DataRecipe(source=str(root)))
    assert set(examples.ids) >= {"cat/linked/3.png", "cat/4.png", "owl/1.png"}
    assert len(examples) == 8
    assert examples.skipped == ("cat/gone.png: a broken link",)


@pytest.mark.parametrize("target", ["cat", ".", ".."])
def test_circles_of_links_end_and_bring_in_no_other_class(tmp_path: Path, target: str) -> None:
    root = pets(tmp_path / "root")
    (root / "cat" / "again").symlink_to(root / target)
    examples = open_examples(DataRecipe(source=str(root)))
    assert list(examples.ids) == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    assert len(examples.skipped) == 1 and "cat/again/" in examples.skipped[0]


def test_a_linked_copy_never_takes_the_place_of_the_real_folder(tmp_path: Path) -> None:
    root = pets(tmp_path, "cat/z/3.png")
    (root / "cat" / "a").symlink_to(root / "cat" / "z")
    assert "cat/z/3.png" in ids(root) and "cat/a/3.png" not in ids(root)


def test_home_folder_may_be_written_as_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pets(tmp_path / "pets")
    assert len(open_examples(DataRecipe(source="~/pets"))) == 4


def test_names_that_are_not_utf8_are_listed_in_printable_form(tmp_path: Path) -> None:
    pets(tmp_path)
    with open(os.fsencode(str(tmp_path / "cat")) + b"/\xff.png", "wb") as file:
        file.write(PNG)
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert len(examples) == 4
    assert "not valid UTF-8" in examples.skipped[0]
    examples.skipped[0].encode("utf-8")


@pytest.mark.parametrize("kind", ["a broken link", "not valid UTF-8", "not a regular file"])
def test_a_class_none_of_whose_files_can_be_read_is_an_error(tmp_path: Path, kind: str) -> None:
    pets(tmp_path, "emu/mended.png")
    if kind == "a broken link":
        (tmp_path / "emu" / "1.png").symlink_to("../.git/annex/objects/1")
    elif kind == "not valid UTF-8":
        os.rename(tmp_path / "dog" / "2.png", os.fsencode(tmp_path / "emu") + b"/caf\xe9.png")
    else:
        os.mkfifo(tmp_path / "emu" / "1.png")
    assert "emu" in open_examples(DataRecipe(source=str(tmp_path))).class_names
    (tmp_path / "emu" / "mended.png").unlink()
    with pytest.raises(DataError, match=f"no picture: 'emu'.*{kind}"):
        open_examples(DataRecipe(source=str(tmp_path)))


def test_small_copies_that_network_disks_keep_are_no_pictures_of_the_data(tmp_path: Path) -> None:
    pets(
        tmp_path,
        "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "@eaDir/x/1.png",
        "$RECYCLE.BIN/x/1.png",
        "dog/thumbs.db",
    )
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    assert len(examples) == 4 and examples.class_names == ("cat", "dog")
    (line,) = examples.warnings
    assert line.startswith("4 left out: hidden files") and "'cat/@eaDir'" in line


def test_what_is_left_out_is_counted_by_the_suffix_of_its_name(tmp_path: Path) -> None:
    pets(tmp_path)
    for name in ("1.2/notes", "plan.txt", "a.b c", "Line\rbreak"):
        (tmp_path / "cat" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_text("no picture")
    (line,) = open_examples(DataRecipe(source=str(tmp_path))).warnings
    assert line.startswith("4 left out (no picture): 3 without a suffix, 1 .txt.")


def test_splits_under_other_names_and_archives_folders_are_pointed_at(tmp_path: Path) -> None:
    for name in ("seg_train", "seg_test"):
        pets(tmp_path / "intel" / name)
    (line,) = open_examples(DataRecipe(source=str(tmp_path / "intel"))).warnings
    assert "'seg_test', 'seg_train' were taken for classes" in line and "'cat', 'dog'" in line
    assert open_examples(DataRecipe(source=str(tmp_path / "intel"), group_subfolders=True)).warnings == ()
    lay(tmp_path, "days/cat/monday/1.png", "days/dog/friday/1.png")
    assert open_examples(DataRecipe(source=str(tmp_path / "days"))).warnings == ()
    pets(tmp_path / "archive" / "images")
    data = DataRecipe(source=str(tmp_path / "archive"))
    with pytest.raises(DataError, match="'images' holds the folders 'cat', 'dog': if these are the classes"):
        make_splits(open_examples(data), data)


def test_what_was_left_out_is_said_where_it_leaves_too_little(tmp_path: Path) -> None:
    pets(tmp_path, "emu/1.png")
    (tmp_path / "emu" / "notes.txt").write_text("no picture")
    data = DataRecipe(source=str(tmp_path))
    with pytest.raises(DataError, match=r"'emu' \(1\)(.|\n)*1 left out \(no picture\): 1 .txt"):
        make_splits(open_examples(data), data)


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    def now() -> str:
        return open_examples(DataRecipe(source=str(tmp_path))).fingerprint

    first = now() if pets(tmp_path) else ""
    assert now() == first
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    assert now() == first
    os.utime(tmp_path / "cat" / "1.png", ns=(1, 1))
    touched = now()
    assert touched != first
    lay(tmp_path, "cat/3.png")
    assert now() not in (first, touched)


def test_encoded_bytes_are_the_files_in_order_of_the_indices(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "dog" / "1.png").write_bytes(b"ends in zeros\0\0")
    examples = open_examples(DataRecipe(source=str(tmp_path)))
    found = list(examples.raw(np.array([1, 2])))
    assert [path.read_bytes() for path in found] == [
        (tmp_path / "cat" / "2.png").read_bytes(),
        b"ends in zeros\0\0",
    ]
    assert list(examples.raw(np.array([], np.int64))) == []


Setup = Callable[[Path], object]


def one_class(root: Path) -> Path:
    return lay(root, "cat/1.png", "cat/2.png")


def stray_in_test(root: Path) -> Path:
    return lay(pets(root / "train").parent, "test/cot/3.png", "test/dog/3.png")


def both_words(root: Path) -> Path:
    return lay(pets(root / "train").parent, "val/cat/3.png", "valid/cat/3.png")


BAD: dict[str, tuple[Setup, tuple[str, ...]]] = {
    "is empty": (lambda root: None, ("data folder", "is empty", "one folder a class")),
    "hidden files only": (lambda root: lay(root, ".DS_Store"), ("is empty",)),
    "no class folders": (
        lambda root: lay(root, "1.png", "2.jpg"),
        ("2 images, but no class folders", "FOLDER/cat/1.jpg", "manifest"),
    ),
    "no images": (
        lambda root: [
            path.write_text("no")
            for path in (lay(root, "cat/1.pdf", "dog/1.md") / "cat/1.pdf", root / "dog/1.md")
        ],
        ("holds no pictures in its class folders",),
    ),
    "no class folders in train": (
        lambda root: lay(root, "train/1.png", "test/cat/1.png"),
        ("train' holds images, but no class folders",),
    ),
    "one class": (one_class, ("one class only: 'cat'", "at least 2 classes")),
    "one example": (
        lambda root: lay(pets(root), "owl/1.png"),
        ("Too few training images", "'owl' (1)", "at least 2 needed"),
    ),
    "class in test alone": (
        stray_in_test,
        ("Class 'cot' is in test but not in train", "Did you mean 'cat'?", "take it out of test"),
    ),
    "one split twice": (both_words, ("both 'val' and 'valid'", "Keep one")),
}


@pytest.mark.parametrize("setup, fragments", BAD.values(), ids=BAD.keys())
def test_folders_that_cannot_be_used(tmp_path: Path, setup: Setup, fragments: tuple[str, ...]) -> None:
    setup(tmp_path)
    data = DataRecipe(source=str(tmp_path))
    with pytest.raises(DataError) as caught:
        make_splits(open_examples(data), data)
    for fragment in (*fragments, str(tmp_path)):
        assert fragment in str(caught.value)


MISSING = {
    "{root}/petz": ("does not exist", "Did you mean 'pets'?", "Expected a folder", "tfds:NAME"),
    "{root}/no/where/x": ("does not exist", "'{root}' does"),
    "cifar10": ("does not exist", "'tfds:cifar10'"),
    "https://example.com/flowers.zip": ("downloaded and unpacked first", "Expected a folder"),
    "{root}/flowers.tar.gz": ("downloaded and unpacked first", "Expected a folder"),
    "digitz": ("Did you mean 'digits'?",),
    "": ("data.source is empty", "Expected a folder"),
    "{root}/notes.txt": ("is a file, but neither .csv nor .parquet",),
}


@pytest.mark.parametrize("source", MISSING)
def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    lay(pets(tmp_path / "pets").parent, "notes.txt", "flowers.tar.gz")
    with pytest.raises(DataError) as caught:
        open_examples(DataRecipe(source=source.format(root=tmp_path)))
    for fragment in MISSING[source]:
        assert fragment.format(root=tmp_path) in str(caught.value)


@pytest.mark.parametrize("source", ["{root}", "digits", "tfds:mnist"])
def test_several_labels_need_a_manifest(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.task = 'multi_label'.*manifest"):
        open_examples(DataRecipe(source=source.format(root=pets(tmp_path)), task="multi_label"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "cat").chmod(0)
    try:
        with pytest.raises(DataError, match=r"Cannot read the folder.*cat.*Permission"):
            open_examples(DataRecipe(source=str(tmp_path)))
    finally:
        (tmp_path / "cat").chmod(0o755)


def test_what_is_written_never_becomes_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd photos; kerastl fit --data .` made a class `runs` of its own curves, for the next run."""
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for folder in (photos / "cat", photos / "dog", dataset / "train" / "cat", dataset / "test" / "cat"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(photos)
    for source, written in ((".", "runs"), ("../photos", "runs"), (photos, photos), (photos, "cat/runs")):
        with pytest.raises(DataError, match="would take it for a class"):
            check_apart(source, tmp_path / "elsewhere", written)
    check_apart(photos, tmp_path / "runs", ".hidden/runs", tmp_path / "photos-runs")
    check_apart("digits", "runs")
    check_apart(dataset, dataset / "runs", dataset)
    with pytest.raises(DataError, match="would take it for a class"):
        check_apart(dataset, dataset / "train" / "runs")


def test_a_folder_named_as_the_bundled_digits_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_examples(DataRecipe(source="digits")).warnings == ()
    for name in ("cat", "dog"):
        (tmp_path / "digits" / name).mkdir(parents=True)
        (tmp_path / "digits" / name / "1.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    assert "--data ./digits" in open_examples(DataRecipe(source="digits")).warnings[0]
    assert open_examples(DataRecipe(source="./digits")).class_names == ("cat", "dog")
