"""Manifests: columns, separators, paths, several labels, and what is said about rows that cannot be used."""

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kerastl.data.examples import Examples
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe

PNG = encode_png(np.full((2, 2), 7, np.uint8))


def write(root: Path, text: str | bytes, name: str = "table.csv") -> Path:
    """A manifest beside the images a.png to f.png."""
    for letter in "abcdef":
        image = root / f"{letter}.png"
        if not image.exists():
            image.write_bytes(PNG + letter.encode())
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def opened(path: Path, **keys: object) -> Examples:
    return open_examples(DataRecipe(source=str(path), **keys))  # type: ignore[arg-type]


FULL = "path,label,split,group\nb.png,cat,train,x\na.png,dog,val,y\nc.png,dog,Test,z\nd.png,cat,,\n"


def check_full(examples: Examples) -> None:
    assert list(examples.ids) == ["a.png", "b.png", "c.png", "d.png"]
    assert examples.class_names == ("cat", "dog") and list(examples.labels) == [1, 0, 1, 0]
    assert examples.labels.dtype == np.int32
    assert list(examples.splits) == ["validation", "train", "test", ""]
    assert list(examples.groups) == ["y", "x", "z", ""]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "start",
    [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbfsep=,\r\n"],
    ids=["plain", "byte order mark", "separator named"],
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, mark: str, start: bytes) -> None:
    text = FULL.replace(",", mark).replace("\n", "\r\n") + f"{mark * 3}\r\n\r\n  \r\n"
    start = start.replace(b",", mark.encode())
    check_full(opened(write(tmp_path, start + text.encode(), "TABLE.CSV")))


def test_line_numbers_count_the_line_that_names_the_separator(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3: 3 values"):
        opened(write(tmp_path, "sep=;\npath;label\na.png;cat;x\n"))


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    write(tmp_path, "x", "a.png")
    patients = write(tmp_path, "path,label,patient\na.png,cat,p1\nb.png,dog,p2\n")
    (line,) = opened(patients).warnings
    assert "not read: 'patient'" in line and "data.group_column" in line
    assert opened(patients, group_column="patient").warnings == ()
    marks = opened(write(tmp_path, "path,cat,dog,emu\na.png,1,0,0\nb.png,0,1,0\n"))
    assert marks.class_names == ("cat", "dog")
    assert "Columns that are 1 in no row are no classes: 'emu'." in marks.warnings


def test_texts_of_a_parquet_table_may_be_bytes(tmp_path: Path) -> None:
    write(tmp_path, "x", "ä.png")
    table = pyarrow.table({"path": ["ä.png".encode(), b"b.png"], "label": [b"cat", "é".encode()]})
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    examples = opened(tmp_path / "table.parquet")
    assert set(examples.ids) == {"ä.png", "b.png"} and examples.class_names == ("cat", "é")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("a", "There is 'a.png': write paths with their suffix"),
        ("https://x.org/a.png", "Addresses are not fetched"),
    ],
)
def test_paths_without_a_suffix_and_addresses_are_said_to_be_such(
    tmp_path: Path, path: str, hint: str
) -> None:
    write(tmp_path, "x", "a.png")
    with pytest.raises(DataError, match=hint):
        opened(write(tmp_path, f"path,label\n{path},cat\n{path}b,dog\n"))


def test_parquet_with_nulls_and_numbers(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "unused": [1, 2, 3, 4],
            "path": ["b.png", "a.png", "c.png", "d.png"],
            "label": pyarrow.array(["cat", "dog", "dog", "cat"]).dictionary_encode(),
            "split": ["train", "validation", "test", None],
            "group": ["x", "y", "z", None],
        }
    )
    path = write(tmp_path, b"", "table.parquet")
    pyarrow.parquet.write_table(table, path)
    check_full(opened(path))
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png", "b.png"], "label": [3, 12]}), path)
    assert opened(path).class_names == ("12", "3")


def test_columns_have_the_names_that_the_recipe_gives(tmp_path: Path) -> None:
    path = write(tmp_path, "file,kind,part,who\na.png,x,test,p\nb.png,y,train,q\n")
    keys = {"path_column": "file", "label_column": "kind", "split_column": "part", "group_column": "who"}
    examples = opened(path, **keys)
    assert list(examples.splits) == ["test", "train"] and list(examples.groups) == ["p", "q"]


def test_several_labels_become_a_multi_hot_matrix(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na.png,sea|sky\nb.png,\nc.png, sky | tree |\na.png,sky|sea\n")
    examples = opened(path, task="multi_label")
    assert not examples.task.exclusive and examples.class_names == ("sea", "sky", "tree")
    assert examples.labels.dtype == np.uint8
    assert examples.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert examples.skipped == ("a.png: line 5 repeats line 2",)


def test_one_file_has_one_identity_however_it_is_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "z.png").write_bytes(PNG)
    inside = tmp_path / "in"
    inside.mkdir()
    path = write(
        inside, f"path,label\n./a.png,x\n{inside}/b.png,y\nsub/../c.png,x\n{elsewhere}/z.png,y\na.png,x\n"
    )
    examples = opened(path)
    assert list(examples.ids) == [f"{elsewhere}/z.png", "a.png", "b.png", "c.png"]
    found = [path.read_bytes() for path in examples.raw(np.arange(4))]
    assert found == [PNG, PNG + b"a", PNG + b"b", PNG + b"c"]
    assert examples.skipped == ("a.png: line 6 repeats line 2",)


def test_order_of_rows_means_nothing(tmp_path: Path) -> None:
    rows = FULL.splitlines(keepends=True)
    first = opened(write(tmp_path, FULL))
    second = opened(write(tmp_path, "".join([rows[0], *rows[:0:-1]])))
    assert first.fingerprint == second.fingerprint
    changed = opened(write(tmp_path, FULL.replace("d.png,cat", "d.png,dog")))
    assert changed.fingerprint != first.fingerprint


def test_some_missing_files_are_left_to_the_reader(tmp_path: Path) -> None:
    assert len(opened(write(tmp_path, "path,label\na.png,x\nnone.png,y\n"))) == 2


BAD: dict[str, tuple[str | bytes, dict[str, object], tuple[str, ...]]] = {
    "no label column": (
        "path,lable\na.png,x\n",
        {},
        ("'path', 'lable'", "no column 'label' (data.label_column)", "Did you mean 'lable'?"),
    ),
    "both columns": ("x\n1\n", {}, ("data.path_column", "data.label_column")),
    "asked column": (
        "path,label\na.png,x\n",
        {"group_column": "patient"},
        ("no column 'patient' (data.group_column)",),
    ),
    "column twice": ("path,label,label\na.png,x,y\n", {}, ("more than one column 'label'",)),
    "empty file": ("", {}, ("is empty", "header with the columns 'path' and 'label'")),
    "header alone": ("path,label\n", {}, ("no rows",)),
    "unknown split": (
        "path,label,split\na.png,x,tset\n",
        {},
        ("line 2: unknown split 'tset'", "Did you mean 'test'?", "Expected train, validation, test"),
    ),
    "no label": ("path,label\na.png,x\nb.png,\n", {}, ("line 3: no label in column 'label' for 'b.png'",)),
    "no path": ("path,label\n,x\n", {}, ("line 2: no path",)),
    "ragged": ("path,label\na.png,x,y\n", {}, ("line 2: 3 values where the header has 2", "quotes")),
    "many problems": ("path,label\n" + "a.png,\n" * 9, {}, ("line 4", "and 6 more")),
    "contradiction": (
        "path,label\na.png,x\nb.png,y\na.png,y\n",
        {},
        ("line 4: 'a.png' has another label here than in line 2",),
    ),
    "in two splits": (
        "path,label,split\na.png,x,train\na.png,x,test\n",
        {},
        ("'a.png' has another split here than in line 2",),
    ),
    "all missing": (
        "path,label\nq/1.png,x\nq/2.png,y\nq/3.png,y\nq/4.png,y\n",
        {},
        ("None of the 4 files", "'q/1.png', 'q/2.png', 'q/3.png' and 1 more", "relative to"),
    ),
    "not text": (b"path,label\n\xff\xfe\n", {}, ("not UTF-8",)),
    "no labels at all": ("path,label\na.png,\n", {"task": "multi_label"}, ("No row", "separated by |")),
    "one class": ("path,label\na.png,x\nb.png,x\n", {}, ("one class only: 'x'",)),
    "one example": ("path,label\na.png,x\nb.png,x\nc.png,y\n", {}, ("'y' (1)", "at least 2 needed")),
    "group in two splits": (
        "path,label,split,group\na.png,x,train,p\nb.png,x,test,p\nc.png,x,train,\nd.png,y,train,\ne.png,y,train,\n",
        {},
        ("Group 'p' is in both train and test", "one split"),
    ),
}


@pytest.mark.parametrize("text, keys, fragments", BAD.values(), ids=BAD.keys())
def test_manifests_that_cannot_be_used(
    tmp_path: Path, text: str | bytes, keys: dict[str, object], fragments: tuple[str, ...]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        make_splits(opened(path, **keys), DataRecipe())
    for fragment in (*fragments, str(path)):
        assert fragment in str(caught.value)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, b"path,label\n", "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet.*cannot be read as Parquet"):
        opened(path)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, b"", "table.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install kerastl\[parquet\]"):
        opened(path)


def test_two_hundred_thousand_rows_are_cheap(tmp_path: Path) -> None:
    count = 200_000
    lines = [f"folder/image_{row:06d}.png,class_{row % 50:02d},,patient_{row // 20}" for row in range(count)]
    # One long path must not widen every row, as it would in a fixed-width column.
    lines[7] = "long/" * 600 + "a.png,class_00,,patient_0"
    lines[8] = "a.png,class_01,,patient_0"
    path = write(tmp_path, "path,label,split,group\n" + "\n".join(lines))
    start = time.process_time()
    examples = opened(path)
    seconds = time.process_time() - start
    assert len(examples) == count and seconds < 2.0, f"{seconds:.2f} s"

    def held(column: np.ndarray) -> int:
        values = {id(value): value for value in column} if column.dtype == object else {}
        return column.nbytes + sum(map(sys.getsizeof, values.values()))

    total_bytes = sum(
        held(column) for column in (examples.ids, examples.labels, examples.groups, examples.splits)
    )
    assert total_bytes / count < 130
    assert examples.ids[-100:].astype(str).nbytes / 100 > 10_000, "the control: what fixed width would cost"
