"""Texts as examples: in tables, folders, TFDS sets and lists, and what is said of those that cannot be used."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

import kerastl
from kerastl.data.examples import Examples
from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError, UserError
from kerastl.modality import bytes_of
from kerastl.modality.text_files import find_texts, utf8_of
from kerastl.progress import Logging
from kerastl.recipe import Recipe, resolve
from kerastl.recipe.schema import BackboneRecipe, DataRecipe

# Quotes, separators, line breaks, other scripts, characters beyond the first plane, joined ones, decomposed ones.
TEXTS = (
    "A great film.",
    'He said: "never, ever; again"\nand left | ran\taway',
    "مرحبا بالعالم، كيف حالك؟",
    "这部电影很好看。",
    "👩‍👩‍👧 👍🏽 ok",
    "Cafe\u0301 = Caf\u00e9",
    "x" * 200_000,  # longer than the limit of Python's csv
    "zero\u200bwidth",
)
LABELS = ("good", "bad", "good", "good", "bad", "bad", "good", "bad")


def rows_of(examples: Examples) -> dict[str, str]:
    raw = examples.raw(np.arange(len(examples)))
    return {
        bytes_of(each).decode(): examples.class_names[code]
        for each, code in zip(raw, examples.labels, strict=True)
    }


def opened(path: Path, **keys: Any) -> Examples:
    return open_examples(DataRecipe(source=str(path), **keys))


def csv_file(folder: Path, rows: list[tuple[str, ...]], header: str = "text,label") -> Path:
    import csv

    with open(folder / "table.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([tuple(header.split(",")), *rows])
    return folder / "table.csv"


def jsonl_file(folder: Path, rows: list[Any]) -> Path:
    path = folder / "table.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def table(folder: Path, form: str) -> Path:
    pairs = list(zip(TEXTS, LABELS, strict=True))
    if form == "csv":
        return csv_file(folder, pairs)
    if form == "jsonl":
        return jsonl_file(folder, [{"text": text, "label": label} for text, label in pairs])
    columns = {"text": list(TEXTS), "label": list(LABELS)}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_tables_hold_texts_byte_for_byte(tmp_path: Path, form: str) -> None:
    examples = opened(table(tmp_path, form))
    assert rows_of(examples) == dict(zip(TEXTS, LABELS, strict=True))
    assert examples.noun == "text" and examples.recipe is not None and examples.recipe.modality == "text"
    assert examples.fingerprint == opened(table(tmp_path, "csv")).fingerprint, "the same in every form"
    assert list(examples.ids) == list(opened(tmp_path / "table.csv", modality="text").ids)


def test_neither_order_nor_other_rows_move_a_text(tmp_path: Path) -> None:
    rows = [(f"text number {number}", "ab"[number % 2]) for number in range(300)]

    def sides(some: list[tuple[str, str]]) -> dict[bytes, str]:
        examples = opened(csv_file(tmp_path, some))
        splits = make_splits(examples, DataRecipe())
        return {
            bytes_of(raw): split.name
            for split in splits
            for raw in split.raw(np.arange(split.count))
        }  # fmt: skip

    whole = sides(rows)
    assert sides(rows[::-1]) == whole
    part = sides(rows[:290])
    assert all(whole[text] == side for text, side in part.items())
    assert len(set(whole.values())) == 3, "the control"


def test_equal_texts_lie_on_one_side(tmp_path: Path) -> None:
    rows = [(f"text {number % 40}", "ab"[number % 2]) for number in range(400)]
    splits = make_splits(opened(csv_file(tmp_path, rows)), DataRecipe())
    sides = [{bytes_of(raw) for raw in split.raw(np.arange(split.count))} for split in splits]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides)) == 40
    assert any("360 of 400 texts are copies of others" in line for line in splits.warnings)


def test_split_and_group_columns_are_read(tmp_path: Path) -> None:
    rows = [("a b", "x", "train", "p"), ("c d", "y", "dev", "q"), ("e f", "x", "test", "")]
    examples = opened(csv_file(tmp_path, rows, "text,label,split,group"))
    found = dict(zip(rows_of(examples), zip(examples.splits, examples.groups, strict=True), strict=True))
    assert found == {"a b": ("train", "p"), "c d": ("validation", "q"), "e f": ("test", "")}


def test_keys_may_be_left_out_of_json_lines_and_several_labels_are_lists(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["x", "y"], "split": "test"}, {"label": [], "text": "b"}, {"text": "c"}]
    examples = opened(jsonl_file(tmp_path, rows), task="multi_label")
    assert examples.class_names == ("x", "y")
    raw = [bytes_of(each) for each in examples.raw(np.arange(3))]
    assert dict(zip(raw, examples.labels.tolist(), strict=True)) == {b"a": [1, 1], b"b": [0, 0], b"c": [0, 0]}
    assert sorted(examples.splits) == ["", "", "test"]


def test_json_lines_name_images_as_well(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(encode_png(np.full((2, 2), ord(name), np.uint8)))
    rows = [{"path": f"{name}.png", "label": name} for name in "ab"]
    examples = opened(jsonl_file(tmp_path, rows))
    assert list(examples.ids) == ["a.png", "b.png"] and examples.noun == "image"
    assert examples.recipe is not None and examples.recipe.modality == "image"


BAD: dict[str, tuple[str, str | bytes, dict[str, Any], tuple[str, ...]]] = {
    "no text column": (
        "t.csv",
        "txt,label\nx,y\n",
        {"modality": "text"},
        ("'txt', 'label'", "no column 'text' (data.text_column)", "Did you mean 'txt'?"),
    ),
    "of images": (
        "t.csv",
        "text,label\nx,y\n",
        {"modality": "image"},
        ("no column 'path'", "There is 'text'", "data.modality = 'text'"),
    ),
    "empty text": (
        "t.csv",
        "text,label\nx,y\n  ,y\n",
        {},
        ("line 3: no text in column 'text'",),
    ),
    "no label": (
        "t.csv",
        'text,label\n"long, very long, and longer than any message should be, and more",\n',
        {},
        ("line 2: no label in column 'label' for 'long, very long", "…'"),
    ),
    "after a text of two lines": (
        "t.csv",
        'text,label\n"a\nb",x\nc,\n"d\ne",\n',
        {},
        ("line 4: no label", "line 5: no label"),
    ),
    "latin 1": (
        "t.csv",
        "text,label\nZug,x\nFähre,y\n".encode("latin-1"),
        {},
        ("not UTF-8 text, line 3: byte 0xe4", "Latin-1 or Windows-1252", "Save it as CSV in UTF-8"),
    ),
    "utf 16": ("t.csv", "text,label\n".encode("utf-16"), {}, ("line 1: it begins as UTF-16",)),
    "json in latin 1": (
        "t.jsonl",
        '{"text": "a", "label": "x"}\n{"text": "Fähre"}'.encode("latin-1"),
        {},
        ("line 2: byte 0xe4",),
    ),
    "no json": (
        "t.jsonl",
        '{"text": "a", "label": "x"}\n{"text": a}\n[1]\n',
        {},
        ('line 2: no JSON: Expecting value, in {"text": a}', "line 3: no JSON object, but [1]"),
    ),
    "a list of words": (
        "t.jsonl",
        '{"text": ["a", "b"], "label": "x"}',
        {},
        ("line 1: an object or a list where a text is expected",),
    ),
    "half a character": (
        "t.jsonl",
        '{"text": "a \\ud83d", "label": "x"}',
        {},
        ("line 1: the text holds half of a character",),
    ),
    "empty json lines": ("t.jsonl", "\n\n", {}, ("is empty", '{"path": "...", "label": "..."}')),
    "header alone": ("t.csv", "text,label\n", {}, ("no rows. Expected a row for each text.",)),
}


@pytest.mark.parametrize("name, content, keys, fragments", BAD.values(), ids=BAD.keys())
def test_tables_of_texts_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | bytes, keys: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        opened(path, **keys)
    for fragment in (*fragments, str(path)):
        assert fragment in str(caught.value)


def imdb(root: Path) -> Path:
    """The Large Movie Review Dataset as it is unpacked, with few reviews."""
    for split in ("train", "test"):
        for number, label in enumerate(("pos", "neg", "unsup")):
            if (split, label) == ("test", "unsup"):
                continue
            (root / split / label).mkdir(parents=True)
            for review in range(6):
                text = f"{split} {label} {review}: a film."
                (root / split / label / f"{review}_{number}.txt").write_text(text, encoding="utf-8")
            (root / split / f"urls_{label}.txt").write_text("http://example.com\n")
        (root / split / "labeledBow.feat").write_text("0 9:1\n")
    (root / "imdb.vocab").write_text("the\n")
    (root / "README").write_text("Large Movie Review Dataset\n")
    return root


def test_the_review_folder_is_read_as_it_comes(tmp_path: Path) -> None:
    examples = opened(imdb(tmp_path / "aclImdb"))
    assert examples.class_names == ("neg", "pos") and len(examples) == 24 and examples.noun == "text"
    assert sorted(set(examples.splits)) == ["test", "train"]
    assert examples.ids[0] == "test/neg/0_1.txt"
    assert rows_of(examples)["train pos 3: a film."] == "pos"
    (line,) = [line for line in examples.warnings if "without a label" in line]
    assert "6 texts without a label" in line and "train/unsup/" in line
    assert examples.skipped_pictures == 0, "lists and notes beside the classes are no lost texts"


def test_a_class_may_be_called_unsup_where_there_are_no_splits(tmp_path: Path) -> None:
    for name in ("unsup", "sup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text("x")
    assert opened(tmp_path).class_names == ("sup", "unsup")


def test_files_without_a_suffix_are_texts_where_they_hold_some(tmp_path: Path) -> None:
    for name, content in {"a/1.txt": b"x", "a/49960": b"From: me", "a/data": b"\0\1", "a/n.md": b"#"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    examples = opened(tmp_path)
    assert list(examples.ids) == ["a/1.txt", "a/49960"]
    assert "a/data: no text" in examples.skipped and "a/n.md: no text" in examples.skipped


def test_pictures_with_texts_beside_them_are_pictures(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/1.png", "b/1.txt", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_png(np.zeros((2, 2), np.uint8)))
    assert opened(tmp_path).noun == "image"
    assert list(opened(tmp_path, modality="text").ids) == ["a/1.txt", "b/1.txt"], "unless texts are asked for"


FOLDERS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "no class folders": ({"1.txt": b"x"}, ("holds 1 texts, but no class folders", "FOLDER/cat/1.txt")),
    "a class without texts": (
        {"a/1.txt": b"x", "b/1.pdf": b"x"},
        ("hold files, but no text: 'b'", ".txt"),
    ),
    "loose texts": (
        {"train/a/1.txt": b"x", "test/1.txt": b"x"},
        ("holds texts, but no class folders",),
    ),
}


@pytest.mark.parametrize("files, fragments", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_of_texts_that_cannot_be_used(
    tmp_path: Path, files: dict[str, bytes], fragments: tuple[str, ...]
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        opened(tmp_path, modality="text")
    for fragment in (*fragments, str(tmp_path)):
        assert fragment in str(caught.value)


def test_digits_are_no_texts() -> None:
    with pytest.raises(DataError, match=r"'digits' are images.*--data"):
        open_examples(DataRecipe(modality="text"))


class KtlReviews(tfds.core.GeneratorBasedBuilder):
    """As `imdb_reviews` is: with a split that has no labels."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar[dict[str, Any]] = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["neg", "pos"]),
    }
    SUPERVISED: ClassVar[tuple[str, str]] = ("text", "label")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self.SUPERVISED)

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._rows(20, 0), "test": self._rows(6, 100), "unsupervised": self._rows(4, 200)}

    def _rows(self, count: int, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(offset, offset + count):
            yield number, self.row(number)

    def row(self, number: int) -> dict[str, Any]:
        return {"text": f"Film №{number} 👍", "label": -1 if number >= 200 else number % 2}

    def _generate_examples(self) -> None:
        """Required by the base class; `_rows` does it."""


class KtlNews(KtlReviews):
    """As `ag_news_subset` is: with two texts, of which one is the usual one."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "title": tfds.features.Text(),
        "description": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["World", "Sports"]),
    }
    SUPERVISED: ClassVar[tuple[str, str]] = ("description", "label")

    def row(self, number: int) -> dict[str, Any]:
        return {"title": f"T{number}", "description": f"D{number}", "label": number % 2}


class KtlPairs(KtlNews):
    """Two texts of equal rank."""

    SUPERVISED = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    for kind in (KtlReviews, KtlNews, KtlPairs):
        kind(data_dir=folder).download_and_prepare()
    return folder


def test_tfds_sets_of_texts_are_read_by_name(prepared: Path) -> None:
    examples = kerastl.from_tfds("ktl_reviews", data_dir=str(prepared))
    assert len(examples) == 26 and sorted(set(examples.splits)) == ["test", "train"]
    assert examples.class_names == ("neg", "pos") and examples.noun == "text"
    assert rows_of(examples)["Film №7 👍"] == "pos" and rows_of(examples)["Film №102 👍"] == "neg"
    assert examples.recipe is not None and examples.recipe.modality == "text"


def test_of_several_texts_the_usual_one_or_the_asked_one_is_read(prepared: Path) -> None:
    keys = {"data_dir": str(prepared)}
    assert "D3" in rows_of(kerastl.from_tfds("ktl_news", **keys))
    assert "T3" in rows_of(kerastl.from_tfds("ktl_news", text_column="title", **keys))
    assert "T3" in rows_of(kerastl.from_tfds("ktl_pairs", text_column="title", **keys))
    for more in ({}, {"text_column": "headline"}):
        with pytest.raises(DataError, match=r"title: Text, description: Text.*data\.text_column names one"):
            kerastl.from_tfds("ktl_pairs", **keys, **more)
    with pytest.raises(DataError, match="not one for image classification"):
        kerastl.from_tfds("ktl_news", modality="image", **keys)


def test_lists_of_texts_are_handed_over() -> None:
    examples = kerastl.from_texts(TEXTS, LABELS)
    assert rows_of(examples) == dict(zip(TEXTS, LABELS, strict=True))
    assert [bytes_of(each).decode() for each in examples.raw(np.array([1, 4]))] == [TEXTS[1], TEXTS[4]]
    assert examples.origin == "8 texts" and examples.noun == "text"
    assert examples.recipe == DataRecipe(source="python:texts", task="classification", modality="text")
    turned = kerastl.from_texts(TEXTS[::-1], LABELS[::-1])
    assert sorted(turned.ids) == sorted(examples.ids)


def test_arrays_bytes_and_tensors_of_texts_are_taken() -> None:
    import tensorflow as tf

    for texts in (
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
        [b"a", b"b"],
        tf.constant(["a", "b"]),
        ("a", "b"),
    ):
        examples = kerastl.from_texts(texts, [0, 1], class_names=["no", "yes"])
        assert rows_of(examples) == {"a": "no", "b": "yes"}


def test_parts_groups_and_several_labels_of_texts() -> None:
    examples = kerastl.from_texts(
        ["a", "b", "c"],
        [["x"], ["x", "y"], []],
        validation=(["d"], [["y"]]),
        test=(["e", "a"], [["x"], ["x"]]),
        groups=["one", "one", None],
    )
    assert examples.task.name == "multi_label" and examples.class_names == ("x", "y")
    assert list(examples.splits) == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert list(examples.groups) == ["one", "one", "", "", "", ""]
    assert examples.contents is not None and examples.contents[0] == examples.contents[5] >= 0


LISTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "one text": ({"texts": "a", "labels": [0]}, ("texts is a str", "a list of str")),
    "a number": ({"texts": ["a", 3], "labels": [0, 1]}, ("texts[1] is a int", "a list of str")),
    "no text": ({"texts": ["a", None], "labels": [0, 1]}, ("texts[1] is a NoneType",)),
    "empty": ({"texts": ["a", " \n"], "labels": [0, 1]}, ("texts[1] is empty", "their labels")),
    "latin 1": ({"texts": ["a", b"F\xe4hre"], "labels": [0, 1]}, ("texts[1]: byte 1 is not UTF-8",)),
    "half a character": ({"texts": ["a\ud83d"], "labels": [0]}, ("texts[0] holds half of a character at 1",)),
    "labels are missing": (
        {"texts": ["a", "b"], "labels": [0]},
        ("texts holds 2 texts and labels 1 label", "as many labels as texts"),
    ),
    "a matrix": ({"texts": np.array([["a"]]), "labels": [0]}, ("texts has the shape (1, 1)",)),
    "test is no pair": (
        {"texts": ["a"], "labels": [0], "test": ["b"]},
        ("test is a list; expected a pair (texts, labels)",),
    ),
    "groups": ({"texts": ["a"], "labels": [0], "groups": []}, ("groups holds 0 values for 1 text",)),
}


@pytest.mark.parametrize("values, fragments", LISTS.values(), ids=LISTS.keys())
def test_lists_that_cannot_be_used(values: dict[str, Any], fragments: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        kerastl.from_texts(**values)
    for fragment in fragments:
        assert fragment in str(caught.value)


class Frame:
    """As much of a DataFrame as is asked for."""

    columns = ("text", "label")

    def __getitem__(self, name: str) -> list[str]:
        return list(TEXTS if name == "text" else LABELS)

    def __len__(self) -> int:
        return len(TEXTS)


def test_frames_hold_texts() -> None:
    examples = kerastl.from_frame(Frame())
    assert rows_of(examples) == dict(zip(TEXTS, LABELS, strict=True))
    assert examples.recipe is not None and examples.recipe.modality == "text"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Fähre".encode(), ("Fähre", "")),
        ("\ufeffFähre".encode(), ("\ufeffFähre", "")),
        ("Fähre 👍".encode("utf-16"), ("Fähre 👍", "utf-16")),
        ("\ufeffFähre".encode("utf-16-be"), ("Fähre", "utf-16")),
        ("Fähre".encode("utf-32"), ("Fähre", "utf-32")),
        (b"", "empty text"),
        (b" \r\n\t", "empty text"),
        (b"\xef\xbb\xbf", "empty text"),
        ("a\nFähre".encode("latin-1"), "line 2: byte 0xe4 is not UTF-8, but perhaps Latin-1 or Windows-1252"),
        (b"\xff\xfeab\x00", "truncated or damaged utf-16: truncated data"),
        (b"\x89PNG\r\n\x1a\n\x00", "line 1: byte 0x89 is not UTF-8"),
    ],
)
def test_encodings(raw: bytes, expected: tuple[str, str] | str) -> None:
    if isinstance(expected, tuple):
        text, encoding = utf8_of(raw)
        assert (text.decode(), encoding) == expected
    else:
        with pytest.raises(ValueError) as caught:
            utf8_of(raw)
        assert str(caught.value) == expected


def typed(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """Texts of the standard input."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
    return [(name, bytes_of(each)) for name, each in find_texts(["-"], Logging())]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_of_the_standard_input_keep_their_numbers(
    encoding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="kerastl"):
        found = typed("Fähre\r\n\n\ufeff👍\n \nvier".encode(encoding), monkeypatch)
    assert [(name, text.decode()) for name, text in found] == [
        ("line 1", "Fähre"), ("line 3", "\ufeff👍"), ("line 5", "vier"),
    ]  # fmt: skip
    assert caplog.messages == ["The standard input: 2 empty lines left out; others keep their numbers"]


def test_lines_that_are_no_utf8_are_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = typed(b"one\nF\xe4hre\n", monkeypatch)
    assert found == [("line 1", b"one"), ("line 2", b"F\xe4hre")]
    for raw, message in (
        (b"\xff\xfeab\x00", "The standard input: truncated or damaged utf-16"),
        (b"\n \n", "holds no text"),
    ):
        with pytest.raises(UserError, match=message):
            typed(raw, monkeypatch)


def test_a_text_may_begin_like_the_home_of_a_user() -> None:
    for text in ("~20 minutes too long", "~20", "~no\0body"):
        ((_, raw),) = find_texts([text])
        assert raw == text.encode()
    with pytest.raises(UserError, match=r"No text '~nouser20/a\.txt'"):
        find_texts(["~nouser20/a.txt"])


def test_the_modality_of_the_data_stays_in_the_recipe(tmp_path: Path) -> None:
    assert Recipe().data.modality is None
    assert resolve(Recipe(), 100, 2).data.modality == "image"
    from kerastl.jobs.recipes import recipe_for, usable

    examples = opened(table(tmp_path, "csv"))
    recipe = recipe_for("bert_tiny", examples, {})
    assert recipe.data.modality == "text" and usable(examples, recipe) is examples


def test_a_backbone_of_images_refuses_texts(tmp_path: Path) -> None:
    for path in (table(tmp_path, "csv"), imdb(tmp_path / "aclImdb")):
        with pytest.raises(
            DataError, match=r"are texts, and the backbone 'resnet50' takes images.*--backbone"
        ):
            kerastl.plan(Recipe(data=DataRecipe(source=str(path)), backbone=BackboneRecipe(name="resnet50")))
    with pytest.raises(kerastl.UserError, match=r"texts?.*resnet50.*takes images"):
        kerastl.fit("resnet50", kerastl.from_texts(TEXTS, LABELS), runs_dir=tmp_path / "runs")
