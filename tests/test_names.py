"""Names of classes: one spelling for one name, nothing that cannot be exported, and a word about what looks wrong."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kerastl.data.examples import Examples
from kerastl.data.names import check_names, doubtful_names, doubtful_separators, words_of
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe

PNG = encode_png(np.full((2, 2), 7, np.uint8))
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def manifest(root: Path, *labels: str, header: str = "path,label", paths: str = "{}.png") -> Path:
    """A manifest beside a picture for each label; labels are written as they are."""
    rows = []
    for number, label in enumerate(labels):
        name = f"{number:02d}"
        (root / f"{name}.png").write_bytes(PNG + name.encode())
        rows.append(f"{paths.format(name)},{label}")
    path = root / "table.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def opened(path: Path, **keys: object) -> Examples:
    return open_examples(DataRecipe(source=str(path), **keys))  # type: ignore[arg-type]


def warned(path: Path, *fragments: str, **keys: object) -> Examples:
    examples = opened(path, **keys)
    text = "\n".join(examples.warnings)
    for fragment in fragments:
        assert fragment in text, text
    return examples


def test_two_unicode_forms_of_a_label_are_one_class_and_it_is_said(tmp_path: Path) -> None:
    examples = warned(
        manifest(tmp_path, COMPOSED, DECOMPOSED, "bar", "bar"),
        "1 labels are written in another Unicode form than NFC",
    )
    assert examples.class_names == ("bar", COMPOSED) and list(examples.labels) == [1, 1, 0, 0]
    assert not opened(manifest(tmp_path, COMPOSED, COMPOSED, "bar", "bar")).warnings, "the control"


def test_two_unicode_forms_of_a_folder_are_one_class_and_it_is_said(tmp_path: Path) -> None:
    for folder in (f"train/{COMPOSED}", f"test/{DECOMPOSED}", "train/bar", "test/bar"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(4):
            (tmp_path / folder / f"{number}.png").write_bytes(PNG + folder.encode() + bytes([number]))
    examples = warned(tmp_path, f"one class: '{COMPOSED}'")
    assert examples.class_names == ("bar", COMPOSED)
    splits = make_splits(examples, DataRecipe())
    assert set(splits.test.labels) == {0, 1}
    (path,) = (path for path in splits.test.ids if path.endswith("/0.png") and "bar" not in path)
    assert (tmp_path / path).is_file(), "the identity stays the path on the disk"


@pytest.mark.parametrize(
    "first, second",
    [("cat", "CAT"), ("1", "1.0"), ("01", "1"), ("blue car", "blue_car"), ("cat", "cat\u200b"), ("m2", "m²")],
)
def test_twin_classes_are_named(first: str, second: str) -> None:
    (line,) = doubtful_names({first: 3, second: 4, "dog": 5})
    assert f"'{first}' (3)" in line and f"'{second}' (4)" in line and "dog" not in line


def test_names_that_only_look_alike_to_a_machine_are_not_called_twins() -> None:
    names = [
        "a",
        "A",
        "-1",
        "1",
        "C",
        "C++",
        "C#",
        "1.0.1",
        "10",
        "cat",
        "cats",
        "9" * 30,
        "9" * 29 + "8",
        "🐈",
        "🐕",
    ]
    assert doubtful_names(dict.fromkeys(names, 1)) == []


def test_words_for_nothing_are_named(tmp_path: Path) -> None:
    warned(manifest(tmp_path, "cat", "dog", "nan", "NA"), "2 rows have the label 'NA', 'nan'")
    path = manifest(tmp_path, "cat,nan", "dog,nan", "cat,x", header="path,label,group")
    warned(path, "2 rows have the group 'nan'")
    assert not opened(manifest(tmp_path, "cat", "none", "Nana", "n")).warnings, "the control"


def test_parquet_holes_are_no_label_and_no_group(tmp_path: Path) -> None:
    path = manifest(tmp_path, *"abc").with_suffix(".parquet")
    columns = {
        "path": ["00.png", "01.png", "02.png"],
        "label": ["x", "y", "x"],
        "group": [1.0, float("nan"), None],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert list(opened(path).groups) == ["1.0", "", ""]
    columns["label"] = [1.0, float("nan"), 2.0]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match="row 2: no label in column 'label'"):
        opened(path)


@pytest.mark.parametrize(
    "cell, expected",
    [
        ("sea|sky", ["sea", "sky"]),
        ('["sky", "sea"]', ["sea", "sky"]),
        ("['sea', 'sky']", ["sea", "sky"]),
        ("['sea' 'sky'\n 'old town']", ["old town", "sea", "sky"]),
        ("('sea',)", ["sea"]),
        ("{'sea', 'sky'}", ["sea", "sky"]),
        ("[1, 2.5, null]", ["1", "2.5"]),
        ("[]", []),
        ("", []),
        ("(blurred)|[x", ["(blurred)", "[x"]),
        ("{'a': 1}", ["{'a': 1}"]),
        ("[" * 5000 + "]" * 5000, ["[" * 5000 + "]" * 5000]),
        (DECOMPOSED, [COMPOSED]),
    ],
)
def test_cells_of_several_labels(cell: str, expected: list[str]) -> None:
    assert words_of(cell, "|") == expected


def test_lists_in_parquet_keep_labels_that_hold_the_separator(tmp_path: Path) -> None:
    path = manifest(tmp_path, *"ab").with_suffix(".parquet")
    table = pyarrow.table({"path": ["00.png", "01.png"], "label": [["a|b", "c"], []]})
    pyarrow.parquet.write_table(table, path)
    examples = opened(path, task="multi_label")
    assert examples.class_names == ("a|b", "c") and examples.labels.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("mark", [",", ";", "\t", " ", "/", "&&"])
def test_the_separator_is_a_key(tmp_path: Path, mark: str) -> None:
    path = manifest(tmp_path, f'"sea{mark}sky"', "sky", '""', f'"sky{mark}sea"')
    examples = opened(path, task="multi_label", label_separator=mark)
    assert examples.class_names == ("sea", "sky") and not examples.warnings
    assert examples.labels.tolist() == [[1, 1], [0, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("mark", [",", ";", " ", "/"])
def test_another_separator_is_suspected_with_its_cure(tmp_path: Path, mark: str) -> None:
    path = manifest(tmp_path, f'"sea{mark}sky"', f'"town{mark}sky"', "town")
    warned(path, f"--set 'data.label_separator=\"{mark}\"'", task="multi_label")


def test_names_with_signs_of_their_own_are_not_suspected() -> None:
    assert not doubtful_separators(["golden retriever", "labrador retriever", "cat"], "|", single=False)
    assert not doubtful_separators(["t-shirt/top", "coat", "old town"], "|", single=True)
    assert not doubtful_separators(["Paris, France", "Lyon, France"], "", single=True)
    assert doubtful_separators(["cat|pet", "dog|pet"], "", single=True), "the control"
    assert doubtful_separators(["['a', 'b']", "['c']"], "", single=True), "the control"


def test_columns_of_zero_and_one_are_labels(tmp_path: Path) -> None:
    header = "path,cat,dog,age,split"
    path = manifest(tmp_path, "1,0,31,train", "0.0,1.0,1,test", "TRUE,false,7,train", header=header)
    examples = warned(path, "the columns of 0 and 1, 'cat', 'dog'; passed over: 'age'")
    assert examples.class_names == ("cat", "dog") and list(examples.labels) == [0, 1, 0]
    assert list(examples.splits) == ["train", "test", "train"]
    path = manifest(tmp_path, "1,1", "0,0", ",1", header="path,cat,dog")
    with pytest.raises(DataError, match=r"line 2: 2 of the columns 'cat', 'dog' are 1.*\n.*line 3: 0 of"):
        opened(path)
    assert opened(path, task="multi_label").labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    with pytest.raises(DataError, match="line 3: '-1' in column 'dog', where 0 or 1"):
        opened(manifest(tmp_path, "1,0", "0,-1", header="path,cat,dog"), task="multi_label")
    with pytest.raises(DataError, match="no column 'label'"):
        opened(manifest(tmp_path, "1,x", "0,y", header="path,flag,word"))
    with pytest.raises(DataError, match="no column 'kind'"):
        opened(path, label_column="kind")


def test_columns_of_zero_and_one_in_parquet(tmp_path: Path) -> None:
    path = manifest(tmp_path, *"ab").with_suffix(".parquet")
    table = pyarrow.table(
        {"path": ["00.png", "01.png"], "cat": [1, 0], "dog": [False, True], "word": ["x", "y"]}
    )
    pyarrow.parquet.write_table(table, path)
    examples = warned(path, "passed over: 'word'")
    assert examples.class_names == ("cat", "dog") and list(examples.labels) == [0, 1]


def test_backslashes_of_windows_are_read_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = manifest(tmp_path / "sub", "cat", "dog").rename(tmp_path / "table.csv")
    path.write_text(path.read_text().replace("\n0", "\nsub\\0"))
    examples = warned(path, "2 paths are written otherwise", "'sub\\00.png'")
    assert list(examples.ids) == ["sub/00.png", "sub/01.png"]
    (tmp_path / "a\\b.png").write_bytes(PNG)
    path.write_text("path,label\na\\b.png,x\n")
    assert list(opened(path).ids) == ["a\\b.png"], "a file that has the name stays"
    path.write_text("path,label\nC:\\photos\\b.png,x\n")
    with pytest.raises(DataError, match="belong to a Windows machine"):
        opened(path)


@pytest.mark.skipif(os.name != "posix", reason="needs a disk that keeps both forms")
def test_a_path_in_another_unicode_form_than_the_disk_is_found(tmp_path: Path) -> None:
    (tmp_path / f"{DECOMPOSED}.png").write_bytes(PNG)
    path = tmp_path / "table.csv"
    path.write_text(f"path,label\n{COMPOSED}.png,x\n", encoding="utf-8")
    assert list(warned(path, "1 paths").ids) == [f"{DECOMPOSED}.png"]


@pytest.mark.parametrize("name", ["new\nline", "new\rline", "bad\udcff"])
def test_names_that_cannot_be_exported_are_refused_while_indexing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="rename the class"):
        check_names(["fine", name], "folder x")
    check_names(["-dash", "😀", "a|b", "x,y;z", 'quo"te', "%s{0}", "\u2028", "b" * 200], "folder x")
    if "\udcff" not in name:
        with pytest.raises(DataError, match=r"table\.csv has class names with a line break"):
            opened(manifest(tmp_path, f'"{name}"', "x"))
