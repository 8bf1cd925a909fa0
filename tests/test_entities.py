"""Entities: columns of words and tags, spans of characters, TFDS sets, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kerastl.data.annotated import Annotated, Entities, Span, from_words, word_places
from kerastl.data.entities import read_entities
from kerastl.data.spans import read_pairs
from kerastl.data.tfds_entities import read_tfds_entities
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe
from kerastl.task.tags import code_spans, repaired, scheme_of, spans_of, tag_names

WIKIGOLD = Path(__file__).parents[2] / "shared" / "data" / "entities" / "wikigold.conll"


def conll(folder: Path, content: str | bytes, name: str = "t.conll", **keys: Any) -> Entities:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_entities(path, **keys)


def lines(folder: Path, *rows: Any, name: str = "t.jsonl", **keys: Any) -> Entities:
    return conll(folder, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), name, **keys)


def found(entities: Entities) -> list[list[tuple[str, str]]]:
    return [
        [(each.text[span.start : span.end], span.label) for span in each.spans] for each in entities.documents
    ]


IN_SCHEMES = {
    "IOB1": "U.N. I-ORG\nofficial O\nJohn I-PER\nSmith I-PER\nAnna B-PER\nleft O\n",
    "IOB2": "U.N. B-ORG\nofficial O\nJohn B-PER\nSmith I-PER\nAnna B-PER\nleft O\n",
    "BIOES": "U.N. S-ORG\nofficial O\nJohn B-PER\nSmith E-PER\nAnna S-PER\nleft O\n",
    "BILOU": "U.N. U-ORG\nofficial O\nJohn B-PER\nSmith L-PER\nAnna U-PER\nleft O\n",
}
FOUND = [[("U.N.", "ORG"), ("John Smith", "PER"), ("Anna", "PER")]]


@pytest.mark.parametrize("scheme", IN_SCHEMES)
def test_every_scheme_is_recognised_and_means_the_same(tmp_path: Path, scheme: str) -> None:
    entities = conll(tmp_path, IN_SCHEMES[scheme])
    assert entities.scheme == scheme and found(entities) == FOUND and entities.warnings == ()
    (sentence,) = entities.documents
    assert sentence.text == "U.N. official John Smith Anna left"
    assert entities.types == ("ORG", "PER") and entities.counts() == {"ORG": 1, "PER": 2}


def test_the_chinese_scheme_with_a_middle_is_read(tmp_path: Path) -> None:
    entities = conll(tmp_path, "北 B-LOC\n京 M-LOC\n市 E-LOC\n在 O\n")
    assert entities.scheme == "BIOES" and found(entities) == [[("北 京 市", "LOC")]] and not entities.warnings


def test_the_scheme_is_that_of_the_whole_file(tmp_path: Path) -> None:
    """The first sentence alone would be IOB2, the second IOB1."""
    assert scheme_of([["B-PER", "I-PER"]]) == "IOB2"
    assert scheme_of([["O", "O"], []]) == "IOB2"
    assert scheme_of([["I-PER", "B-PER"]]) == "IOB1"
    assert scheme_of([["I-PER", "I-PER"]]) == "IOB1"
    entities = conll(tmp_path, "a B-PER\nb I-PER\n\nc B-LOC\n\nd I-LOC\n")
    assert entities.scheme == "IOB2"
    (warning,) = entities.warnings
    assert "1 tag does not follow the scheme IOB2, such as 'I-LOC' in line 6" in warning
    assert found(entities) == [[("a b", "PER")], [("c", "LOC")], [("d", "LOC")]]


def test_tags_that_cannot_follow_are_counted_and_read_as_seqeval_does(tmp_path: Path) -> None:
    entities = conll(tmp_path, "a B-X\nb O\nc E-X\nd B-X\ne I-Y\n")
    assert found(entities) == [[("a", "X"), ("c", "X"), ("d", "X"), ("e", "Y")]]
    assert "3 tags do not follow the scheme BIOES, such as 'O' in line 2" in entities.warnings[0]


def test_columns_comments_marks_and_documents(tmp_path: Path) -> None:
    text = (
        "\ufeff-DOCSTART- -X- -X- O\r\n\r\nEU NNP I-NP I-ORG\r\nrejects VBZ I-VP O\r\n\r\n\r\n \r\n"
        "# id 5 domain=news\r\n# # O O\r\n-DOCSTART- -X- O O\r\nRome NNP B-NP I-LOC"
    )
    entities = conll(tmp_path, text)
    assert [each.text for each in entities.documents] == ["EU rejects", "#", "Rome"]
    assert [each.document for each in entities.documents] == [1, 1, 2]
    assert [each.place for each in entities.documents] == [3, 9, 11]
    assert found(entities) == [[("EU", "ORG")], [], [("Rome", "LOC")]]
    assert conll(tmp_path, "a O\n").documents[0].document is None


def test_tabs_keep_blanks_in_words_and_other_blanks_are_no_separators(tmp_path: Path) -> None:
    entities = conll(tmp_path, "New York\tx\tB-LOC\n10\u00a0000\tx\tO\n")
    assert entities.documents[0].text == "New York 10\u00a0000" and found(entities) == [[("New York", "LOC")]]
    assert conll(tmp_path, "10\u00a0000  x   O  \n").documents[0].text == "10\u00a0000"


@pytest.mark.parametrize("words", [("مرحبا", "يا", "بغداد"), ("👩‍👩‍👧", "in", "Köln"), ("我", "在", "北京")])
def test_other_scripts_are_counted_in_code_points(tmp_path: Path, words: tuple[str, ...]) -> None:
    text = "".join(f"{word} {tag}\n" for word, tag in zip(words, ("B-X", "O", "B-LOC"), strict=True))
    entities = conll(tmp_path, text)
    assert found(entities) == [[(words[0], "X"), (words[2], "LOC")]]
    assert entities.documents[0].spans[1].end == len(" ".join(words))


BAD: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "one column": ("a O\nb\n", ("line 2: one column, 'b'", "tag in the last column (EU B-ORG)")),
    "columns": ("a x O\nb O\n", ("line 2: 2 columns where line 1 has 3: 'b O'",)),
    "no tag": ("a O\nb PER\n", ("line 2: 'PER' is no tag for 'b'", "Tags begin with O, B-")),
    "no type": ("a B-\n", ("line 1: 'B-' is no tag",)),
    "no word": ("\tO\n", ("line 1: no word in the first column",)),
    "many": ("a\n" * 9, ("line 3", "and 6 more")),
    "latin 1": ("a O\nFähre O\n".encode("latin-1"), ("line 2: byte 0xe4", "Save it in UTF-8")),
    "utf 16": ("a O\n".encode("utf-16"), ("line 1: it begins as UTF-16",)),
    "empty": ("\n-DOCSTART- O\n\n", ("holds no sentence",)),
}


@pytest.mark.parametrize("content, fragments", BAD.values(), ids=BAD.keys())
def test_columns_that_cannot_be_used(
    tmp_path: Path, content: str | bytes, fragments: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as caught:
        conll(tmp_path, content)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert str(tmp_path / "t.conll") in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("a O\n")
    with pytest.raises(DataError, match=r"trian\.conll' is no file\. Did you mean 'train\.conll'"):
        read_entities(tmp_path / "trian.conll")


@pytest.mark.skipif(not WIKIGOLD.is_file(), reason=f"{WIKIGOLD} is not there")
def test_wikigold() -> None:
    entities = read_entities(WIKIGOLD)
    assert entities.scheme == "IOB1" and entities.warnings == ()
    assert (
        len(entities.documents) == 1696
        and sum(len(each.text.split(" ")) for each in entities.documents) == 39007
    )
    assert entities.counts() == {"LOC": 1014, "MISC": 712, "ORG": 898, "PER": 934}
    assert max(each.document or 0 for each in entities.documents) == 144


ANNA = "Anna lives in Köln."
SPANS = [[0, 4, "PER"], [14, 18, "LOC"]]
OBJECTS = [{"start": start, "end": end, "label": label} for start, end, label in SPANS]
FORMS: dict[str, Any] = {
    "spans": {"text": ANNA, "spans": OBJECTS},
    "prodigy": {
        "text": ANNA,
        "spans": [{**each, "token_start": 0} for each in OBJECTS],
        "tokens": [],
        "_input_hash": 1,
    },
    "doccano": {"id": 3, "text": ANNA, "label": SPANS, "Comments": []},
    "doccano, older": {"id": 3, "text": ANNA, "labels": SPANS, "meta": {}},
    "doccano, newer": {
        "text": ANNA,
        "relations": [],
        "entities": [
            {"id": 1, "label": label, "start_offset": start, "end_offset": end} for start, end, label in SPANS
        ],
    },
    "spacy": {"text": ANNA, "entities": SPANS},
    "spacy, older": [ANNA, {"entities": SPANS}],
    "turned and twice": {"text": ANNA, "entities": [*SPANS[::-1], SPANS[0]]},
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS.keys())
def test_spans_of_every_form(tmp_path: Path, row: Any) -> None:
    entities = lines(tmp_path, row, row)
    assert found(entities) == [[("Anna", "PER"), ("Köln", "LOC")]] * 2 and entities.warnings == ()
    assert entities.documents[0].place == 1


def test_keys_that_are_not_read_are_named(tmp_path: Path) -> None:
    entities = lines(tmp_path, {"text": "a", "spans": [], "author": "x"})
    assert "Keys that are not read: 'author'." in entities.warnings
    assert any("no entity" in line for line in entities.warnings)


def studio(folder: Path, *tasks: Any, **keys: Any) -> Entities:
    return conll(folder, json.dumps(list(tasks)), "export.json", **keys)


def region(start: int, end: int, text: str, label: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {"value": value, "from_name": "label", "to_name": "text", "type": "labels"}


def test_label_studio_exports(tmp_path: Path) -> None:
    result = [region(0, 4, "Anna", "PER"), region(14, 18, "Köln", "LOC")]
    relation = {"from_id": "a", "to_id": "b", "type": "relation"}
    choice = {"value": {"choices": ["news"]}, "type": "choices"}
    draft = {"result": [], "was_cancelled": True}
    truth = {"result": result, "ground_truth": True}
    entities = studio(
        tmp_path,
        {"id": 7, "data": {"text": ANNA}, "annotations": [draft, {"result": [*result, relation, choice]}]},
        {"id": 8, "data": {"text": ANNA, "source": "x"}, "annotations": [{"result": []}, truth]},
        {"id": 9, "data": {"body": ANNA}, "annotations": [{"result": result}, {"result": result[::-1]}]},
        {"id": 10, "data": {"text": ANNA}, "annotations": []},
        {"id": 11, "text": ANNA, "label": [each["value"] for each in result]},  # JSON_MIN
    )
    assert found(entities) == [[("Anna", "PER"), ("Köln", "LOC")]] * 4
    assert [each.place for each in entities.documents] == [1, 2, 3, 5]
    assert entities.warnings == (
        "1 text without annotation left out, such as task 4; keys of such texts: 'id', 'data', 'annotations'.",
    )


def test_label_studio_counts_in_units_of_utf_16(tmp_path: Path) -> None:
    text = "👍👍 Anna in Köln"
    tasks = {"data": {"text": text}, "annotations": [{"result": [region(5, 9, "Anna", "PER")]}]}
    assert found(studio(tmp_path, tasks)) == [[("Anna", "PER")]]
    tasks["annotations"][0]["result"] = [region(3, 7, "Anna", "PER")]  # type: ignore[index]
    assert found(studio(tmp_path, tasks)) == [[("Anna", "PER")]], "the control: code points"


def test_offsets_in_units_of_utf_16_are_those_of_python(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = " ".join(f"{at}{draw.choice(['a', '👍', 'é👍', '👍👍b'])}" for at in range(12))
        spans = []
        for start, end in word_places(text):
            unit = len(text[:start].encode("utf-16-le")) // 2
            units = len(text[start:end].encode("utf-16-le")) // 2
            spans.append({"start": unit, "end": unit + units, "label": "X", "text": text[start:end]})
        entities = lines(tmp_path, {"text": f"{text} 👍c", "spans": spans})
        assert tuple((span.start, span.end) for span in entities.documents[0].spans) == word_places(text)
    cut = {"text": "👍👍 ab", "spans": [{"start": 1, "end": 4, "label": "X", "text": "👍"}]}
    with pytest.raises(DataError, match="at its place stands"):
        lines(tmp_path, cut)


def test_spans_of_a_text_count_alike(tmp_path: Path) -> None:
    """In units the first Anna has the offsets that the second one has in code points."""
    text = "👍👍👍👍👍 Anna Anna"
    spans = [{"start": at, "end": at + 4, "label": "X", "text": "Anna"} for at in (11, 16)]
    assert [span.start for span in lines(tmp_path, {"text": text, "spans": spans}).documents[0].spans] == [
        6,
        11,
    ]
    assert [
        span.start for span in lines(tmp_path, {"text": text, "spans": spans[:1]}).documents[0].spans
    ] == [11]


def test_offsets_of_numpy_are_whole_numbers() -> None:
    pairs = [("Anna saw Rome", [(np.int64(0), np.int32(4), "PER"), (9, np.uint8(13), "LOC")])]
    (document,) = read_pairs(pairs, "source").documents
    assert document.spans == (Span(0, 4, "PER"), Span(9, 13, "LOC"))
    assert repr(document.spans[0]) == "Span(start=0, end=4, label='PER')"
    with pytest.raises(DataError, match="whole numbers"):
        read_pairs([("Anna", [(np.float64(0), 4, "PER")])], "source")


def test_offsets_in_units_of_utf_16_are_found_in_linear_time(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        spans = [
            {"start": 8 * at + 3, "end": 8 * at + 7, "label": "X", "text": "Anna"} for at in range(count)
        ]
        began = time.process_time()
        row = {"text": "👍 Anna " * count, "spans": spans}
        assert len(lines(tmp_path, row).documents[0].spans) == count
        return time.process_time() - began

    assert seconds(4000) < 30 * seconds(500), "with the square of their number it would be 64 times as long"


def test_texts_that_prodigys_annotators_refused_are_left_out(tmp_path: Path) -> None:
    row = FORMS["prodigy"]
    some = [{**row, "answer": answer} for answer in ("accept", "reject", "ignore")]
    entities = lines(tmp_path, *some, row)
    assert [each.place for each in entities.documents] == [1, 4]
    assert entities.warnings == ("2 texts left out whose 'answer' is 'reject' or 'ignore', such as line 2.",)
    with pytest.raises(DataError, match=r"holds no text to learn from\. 2 texts left out whose 'answer'"):
        lines(tmp_path, *some[1:])


@pytest.mark.parametrize("key", ["label", "ner", "entities_of_news"])
def test_the_smaller_export_of_label_studio_has_spans_under_the_name_of_their_control(
    tmp_path: Path, key: str
) -> None:
    regions = [region(0, 4, "Anna", "PER")["value"], region(14, 18, "Köln", "LOC")["value"]]
    tasks = [{"id": 1, "text": ANNA, key: regions}, {"id": 2, "text": ANNA, "topic": [{"choices": ["news"]}]}]
    entities = studio(tmp_path, *tasks)
    assert found(entities) == [[("Anna", "PER"), ("Köln", "LOC")]]
    assert "1 text without annotation left out, such as task 2" in entities.warnings[-1]
    entities = studio(tmp_path, {**tasks[0], "label" if key != "label" else "kind": "news"})
    assert found(entities) == [[("Anna", "PER"), ("Köln", "LOC")]], "beside the choice for a whole text"
    with pytest.raises(DataError, match=f"task 1: spans in '{key}', 'other'; expected one key"):
        studio(tmp_path, {**tasks[0], "other": regions})
    with pytest.raises(
        DataError, match=r"no text to learn from\. 1 text without annotation.* 'text', 'topic'"
    ):
        studio(tmp_path, tasks[1])


def one(start: Any, end: Any, label: Any = "PER", text: str = "Anna Schmidt-Ott, Köln") -> dict[str, Any]:
    return {"text": text, "spans": [{"start": start, "end": end, "label": label}]}


BAD_SPANS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "outside": (one(18, 40), ("lies outside of the text, which has 22 code points",)),
    "negative": (one(-1, 4), ("lies outside",)),
    "empty span": (one(4, 4), ("or is empty",)),
    "no numbers": (one("0", 4), ("expected to be whole numbers",)),
    "true": (one(False, True), ("expected to be whole numbers",)),
    "no label": (one(0, 4, None), ("label is expected to be a text",)),
    "blank label": (one(0, 4, " "), ("label is expected to be a text",)),
    "several labels": (one(0, 4, ["PER", "ORG"]), ("has 2 labels",)),
    "cuts a word": (one(0, 7), ("PER 0 to 7, 'Anna Sc', cuts a word", "expected 0 to 12, 'Anna Schmidt'", "data.mend_spans = true", "mend=True")),
    "blanks": (one(0, 5), ("PER 0 to 5, 'Anna ', has blanks around it: expected 0 to 4, 'Anna'",)),
    "blanks alone": (one(4, 5), ("holds blanks alone",)),
    "overlap": (
        {"text": "New York City", "entities": [[0, 8, "LOC"], [4, 13, "ORG"]]},
        ("LOC 0 to 8, 'New York', and ORG 4 to 13, 'York City', overlap",),
    ),
    "nested": (
        {"text": "New York City", "entities": [[0, 13, "LOC"], [0, 3, "X"], [4, 8, "ORG"]]},
        ("overlap", "And 1 more"),
    ),
    "misspelt": (
        {"text": "Anna", "spans": [{"begin": 0, "end": 4, "label": "X"}]},
        ("has no 'start'",),
    ),
    "two keys": ({"text": "Anna", "spans": [], "label": []}, ("both 'spans' and 'label'",)),
    "no spans": ({"text": "Anna", "span": []}, ("no key 'spans' among 'text', 'span'", "Did you mean 'span'?")),
    "no text": ({"txt": "Anna", "spans": []}, ("no key 'text'", "Did you mean 'txt'?")),
    "text is a list": ({"text": ["Anna"], "spans": []}, ("'text' is no text, but [\"Anna\"]",)),
    "empty text": ({"text": " ", "spans": []}, ("the text is empty",)),
    "no list": ({"text": "Anna", "label": "PER"}, ("'label' is no list of spans, but \"PER\"",)),
    "no span": ({"text": "Anna", "label": ["PER"]}, ('"PER" is no span',)),
    "another text": (
        {"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PER", "text": "Otto"}]},
        ("at its place stands 'Anna'",),
    ),
    "no object": (3, ("no JSON object, but '3'",)),
}  # fmt: skip


@pytest.mark.parametrize("row, fragments", BAD_SPANS.values(), ids=BAD_SPANS.keys())
def test_spans_that_cannot_be_used(tmp_path: Path, row: Any, fragments: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        lines(tmp_path, {"text": "fine", "spans": []}, row)
    for fragment in (*fragments, "line 2: ", str(tmp_path / "t.jsonl"), "Expected a line for each text"):
        assert fragment in str(caught.value)


def test_all_bad_lines_are_told_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        conll(tmp_path, '{"text": \n\n[1, 2, 3]\n' + '{"text": ""}\n' * 4, "t.jsonl")
    for fragment in (
        "line 1: no JSON: Expecting value",
        "line 3: no JSON object",
        "line 4: the text is empty",
        "3 more",
    ):
        assert fragment in str(caught.value)


BAD_TASKS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "differ": (
        {"data": {"text": ANNA}, "annotations": [{"result": [region(0, 4, "Anna", "PER")]}, {"result": []}]},
        ("task 1: 2 annotations that differ", "ground truth"),
    ),
    "no text": ({"data": {"a": "x", "b": "y"}, "annotations": []}, ("no 'text' in its 'data', but 'a', 'b'",)),
    "no task": (3, ("task 1: an object is expected",)),
}  # fmt: skip


@pytest.mark.parametrize("task, fragments", BAD_TASKS.values(), ids=BAD_TASKS.keys())
def test_tasks_that_cannot_be_used(tmp_path: Path, task: Any, fragments: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        studio(tmp_path, task)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_broken_files_of_spans_are_named(tmp_path: Path) -> None:
    for content, message in (
        (b"[{", "is no JSON"),
        (b"\n[]", "holds no text"),
        (b"", "holds no text"),
        ('[{"text": "ä"}]'.encode("latin-1"), "line 1: byte 0xe4"),
    ):
        with pytest.raises(DataError, match=message):
            conll(tmp_path, content, "t.json")


def test_spans_are_mended_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [one(0, 7), one(0, 5), one(0, 4)]
    entities = lines(tmp_path, *rows, mend=True)
    assert found(entities) == [[("Anna Schmidt", "PER")], [("Anna", "PER")], [("Anna", "PER")]]
    (warning,) = entities.warnings
    assert warning.startswith("2 spans that cut words") and "', now 'Anna Schmidt'" in warning
    with pytest.raises(DataError, match="blanks alone"):
        lines(tmp_path, one(4, 5), mend=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  ", []),
        (" Dr.  Wu\n", ["Dr", ".", "Wu"]),
        ("it's $5", ["it", "'", "s", "$", "5"]),
        ("北京abc。", ["北", "京", "abc", "。"]),
        ("كيف، أنت؟", ["كيف", "،", "أنت", "؟"]),
        ("Cafe\u0301 a\u00a0b", ["Cafe\u0301", "a", "b"]),
        ("👍🏽👍 x", ["👍🏽👍", "x"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
        ("€5", ["€5"]),  # a currency sign beyond ASCII is no punctuation, as BERT has it
    ],
)
def test_words_of_running_text(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_places(text)] == words


def test_codes_and_tags_say_the_same() -> None:
    """Random tags, most of which cannot follow each other."""
    draw = random.Random(0)
    types = ("X", "Y", "Z")
    names = tag_names(types)
    for _ in range(3000):
        tags = [draw.choice(names) for _ in range(draw.randint(0, 9))]
        spans = spans_of(tags)
        codes = np.array([names.index(tag) for tag in tags], np.int32)
        assert [(start, stop, types[kind]) for start, stop, kind in code_spans(codes).tolist()] == spans
        again = repaired(codes)
        assert (
            spans_of([names[code] for code in again]) == spans
            and scheme_of([[names[c] for c in again]]) == "IOB2"
        )


def test_words_become_a_text() -> None:
    made = from_words(["a", "bc", "d"], [(1, 3, "X")], 5)
    assert made == Annotated("a bc d", (Span(2, 6, "X"),), 5)


class KtlWords(tfds.core.GeneratorBasedBuilder):
    """As `conll2003` is: chunks are tags as well."""

    VERSION = tfds.core.Version("1.0.0")
    TAGS: ClassVar[list[str]] = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    FEATURES: ClassVar[dict[str, Any]] = {
        "tokens": tfds.features.Sequence(tfds.features.Text()),
        "pos": tfds.features.Sequence(tfds.features.ClassLabel(names=["NN", "O"])),
        "chunks": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-NP"])),
        "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=TAGS)),
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {name: self._rows() for name in ("train", "dev", "test")}

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (words, tags) in enumerate(
            [(["Anna", "Öz", "in", "Köln"], [1, 2, 0, 3]), ([], []), (["👍"], [0])]
        ):
            row = {"tokens": words, "ner": tags, "pos": [0] * len(words), "chunks": [0] * len(words)}
            yield number, {key: row[key] for key in self.FEATURES}

    def _generate_examples(self) -> None:
        """Required by the base class; `_rows` does it."""


class KtlChunks(KtlWords):
    """Words without tags of entities."""

    FEATURES: ClassVar[dict[str, Any]] = {key: KtlWords.FEATURES[key] for key in ("tokens", "pos")}


def test_tfds_sets_of_words_and_tags(tmp_path: Path) -> None:
    for kind in (KtlWords, KtlChunks):
        kind(data_dir=tmp_path).download_and_prepare()
    data = DataRecipe(data_dir=str(tmp_path), validation_split="dev")
    entities = read_tfds_entities("ktl_words", data)
    assert list(entities) == ["train", "validation", "test"]
    for each in entities.values():
        assert sorted(map(str, found(each))) == sorted(map(str, [[("Anna Öz", "PER"), ("Köln", "LOC")], []]))
        assert each.scheme == "IOB2" and each.types == ("LOC", "PER") and "1 left out" in each.warnings[0]
    part = read_tfds_entities("ktl_words", DataRecipe(data_dir=str(tmp_path), train_split="train[:0]"))
    assert part["train"].documents == ()
    with pytest.raises(DataError, match=r"'ktl_chunks' has no entities.*tokens: Sequence"):
        read_tfds_entities("ktl_chunks", data)
