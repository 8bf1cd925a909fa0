"""Documents of tagged sentences: which split each falls into, and sentences that several of them hold."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from kerastl.data.entities import from_entities, open_entities
from kerastl.data.examples import Examples, Splits
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.recipe import load_recipe
from kerastl.recipe.schema import DataRecipe

BOILERPLATE = "Copyright O\nReuters B-ORG\n"


def documents(count: int = 100, sentences: int = 8, repeated: float = 0.0, seed: int = 0) -> list[list[str]]:
    """Documents of sentences of their own, a share of which ends with the same one."""
    draw = random.Random(seed)
    return [
        [
            *(
                f"Anna{seed} B-PER\nsaw O\nRome B-LOC\n{number}.{line} O\n"
                for line in range(draw.randint(2, sentences))
            ),
            *[BOILERPLATE] * (number < repeated * count),
        ]
        for number in range(count)
    ]


def in_columns(some: list[list[str]]) -> str:
    return "\n".join("-DOCSTART- O\n\n" + "\n".join(each) for each in some)


def splits_of(path: Path, some: list[list[str]]) -> Splits:
    path.write_text(in_columns(some))
    recipe = DataRecipe(source=str(path))
    return make_splits(open_entities(str(path), recipe), recipe)


def texts_in(splits: Splits) -> dict[str, set[str]]:
    return {
        split.name: {each.text for each in split.examples.annotated[split.indices]}  # type: ignore[index]
        for split in splits
    }


def test_other_documents_of_a_file_move_none(tmp_path: Path) -> None:
    some = documents()
    before = texts_in(splits_of(tmp_path / "a.conll", some))
    new = documents(1, seed=1)
    for changed in ([*new, *some], some[::-1], [*some[:40], *some[60:]]):
        after = texts_in(splits_of(tmp_path / "b.conll", changed))
        for name, texts in after.items():
            assert len(texts & before[name]) > 10
            for other in {*before} - {name}:
                assert not texts & before[other], f"{other} became {name}"


def test_documents_stay_whole(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "a.conll", documents())
    own = [set(split.groups) for split in splits]
    assert sum(map(len, own)) == 100 and not own[0] & own[1] and not own[0] & own[2] and not own[1] & own[2]


@pytest.mark.parametrize("repeated", [0.6, 0.9, 1.0])
def test_a_sentence_that_documents_repeat_does_not_join_them(tmp_path: Path, repeated: float) -> None:
    splits = splits_of(tmp_path / "a.conll", documents(repeated=repeated))
    own = [len(set(split.groups)) for split in splits]
    assert sum(own) == 100 and min(own) >= 10
    texts = list(texts_in(splits).values())
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert "Copyright Reuters" in texts[0]
    total = len(splits.train.examples)
    left_out = total - sum(split.count for split in splits)
    (warning,) = [each for each in splits.warnings if "left out" in each]
    validation, test = (int(word) for word in warning.split() if word.isdigit())
    assert left_out == validation + test > 0 and "copies of texts of other documents" in warning
    (copies,) = [each for each in splits.warnings if "byte for byte" in each]
    assert copies.startswith(f"{int(repeated * 100) - 1} of {total} texts") and "with its document" in copies


def test_nothing_is_left_out_without_copies_or_of_given_splits(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "a.conll", documents())
    assert sum(split.count for split in splits) == len(splits.train.examples) and not splits.warnings
    folder = tmp_path / "given"
    folder.mkdir()
    for seed, name in enumerate(("train", "validation", "test")):
        (folder / f"{name}.conll").write_text(in_columns(documents(30, repeated=1, seed=seed)))
    recipe = DataRecipe(source=str(folder))
    splits = make_splits(open_entities(str(folder), recipe), recipe)
    assert sum(split.count for split in splits) == len(splits.train.examples)
    assert any("gives these splits, so they stay" in each for each in splits.warnings)


def test_a_split_of_copies_alone_is_refused(tmp_path: Path) -> None:
    some = [[BOILERPLATE, f"Rome B-LOC\n{number} O\n"] for number in range(40)]
    assert splits_of(tmp_path / "a.conll", some).test.count
    with pytest.raises(DataError, match=r"(?s)split came out empty.*are left out, as they are copies"):
        splits_of(
            tmp_path / "a.conll", [[each[0], "Rome B-LOC\n"] * (1 + at) for at, each in enumerate(some)]
        )


def test_many_copies_are_found_in_linear_time(tmp_path: Path) -> None:
    times = []
    for count in (500, 4000):
        some = documents(count, 3, repeated=1)
        began = time.process_time()
        splits_of(tmp_path / "a.conll", some)
        times.append(time.process_time() - began)
    assert times[1] < 30 * times[0], "with the square of their number it would be 64 times as long"


def test_a_folder_is_read_by_the_names_of_splits_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    def splits_in(*names: str) -> Examples:
        folder = tmp_path / "+".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(f"Anna B-PER\n{name} O\n")
        return open_entities(str(folder), DataRecipe(source=str(folder)))

    for name, split in (
        ("val.conll", "validation"),
        ("Testing.conll", "test"),
        ("devel.txt", "validation"),
        ("test_a.bio", "validation"),
    ):
        examples = splits_in("training.conll", name)
        assert list(examples.splits) == ["train", split] and examples.warnings == ()
    examples = splits_in(
        "train_1.conll", "extra.conll", "testimony.conll", "test.conll", "notes.md", ".DS_Store"
    )
    assert list(examples.splits) == ["train", "test"]
    assert examples.skipped == (
        "extra.conll: not called train, validation or test",
        "notes.md: no file of entities by its suffix",
        "testimony.conll: not called train, validation or test",
    )
    assert [each.partition(":")[0] for each in examples.warnings] == [
        "2 left out (not called train, validation or test)",
        "1 left out (no file of entities by its suffix)",
        "1 left out",
    ]
    with pytest.raises(DataError, match=r"several files for validation: dev\.conll, val\.conll"):
        splits_in("dev.conll", "train.conll", "val.conll")
    with pytest.raises(DataError, match=r"no file called train\. extra\.conll: not called"):
        splits_in("extra.conll")


def test_spans_of_files_are_mended_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Anna saw Rome", "spans": [{"start": 0, "end": 3, "label": "PER"}]}\n')
    for source in (path, tmp_path):
        flags = {"data.source": str(source), "data.task": "entities"}
        with pytest.raises(DataError, match=r"data\.mend_spans = true takes that"):
            open_examples(load_recipe(flags=flags).data)
        examples = open_examples(load_recipe(flags=flags, sets=["data.mend_spans=true"]).data)
        assert [span.end for span in examples.annotated[0].spans] == [4]  # type: ignore[index]
        assert examples.warnings[-1].startswith("1 span that cut words")
        assert from_entities(source, mend=True).fingerprint == examples.fingerprint
        path.rename(path := tmp_path / "train.jsonl")
