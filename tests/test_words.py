"""Only the modality knows what an example is: words of one kind of example stand in few places, and those are listed here."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kerastl"
WORDS = frozenset(["image", "images", "pixel", "pixels", "token", "tokens", "audio"])
PHRASES = (("sample", "rate"), ("sample", "rates"))
# `worst_images`, `ImageRecipe` and `image-size` are each two words.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Where the words belong: what examples are, where they come from, what ships, and what a user types and reads.
AT_HOME = (
    "modality/",
    "cli/",
    # where examples come from: files, columns and arrays of images
    "data/digits.py",
    "data/encode.py",
    "data/folder.py",
    "data/handed.py",
    "data/kinds.py",
    "data/manifest.py",
    "data/manifest_rows.py",
    "data/pixels.py",
    "data/png.py",
    "data/skipped.py",
    "data/sources.py",
    "data/spans.py",
    "data/tfds_entities.py",
    "data/tfds_listing.py",
    "data/tfds_source.py",
    # the reader of backbones.json: `image_size` and its like are keys of that file
    "backbones.py",
    # the reader of presets: `image_shape` and its like are keys of their files
    "presets.py",
    # the builders that the registry names
    "model/applications.py",
)

# Beginnings of places -> what may stand there all the same, as a regular expression, and why.
EXCEPTIONS = {
    "client/": (r"(?i:token)", "a token of access"),
    "export/folders.py": (r"secrets\.token_hex", "Python's own name"),
    "report/page.py": (r'"images_per_second"', "a key of `report.json` in runs that exist"),
    "report/search_report.py": (r'"images"', "a key of `result.json` in searches that exist"),
    "store/store_folder.py": (
        r"\(pixels\|pooled|secrets\.token_hex",
        "an array of stores that exist; Python's own name",
    ),
    "store/block.py": (r"secrets\.token_hex", "Python's own name"),
    "jobs/check.py": (r"\bimage_size\b", "a key of backbones.json"),
    "jobs/rank.py": (r"\b(min_)?image_size\b", "a key of recipes and of what is printed"),
    "report/ranking.py": (r"\bimage_size\b", "a key of what is printed"),
    "model/encoder_weights.py": (r"\btoken_type_embeddings\b", "a tensor in files of Hugging Face"),
    "model/kerashub.py": (
        r'\b(min_|max_)?image_size\b|"token_ids"',
        "keys of what backbones.json says of a network; an input of KerasHub's networks",
    ),
    "model/own.py": (r"\b(min_|max_)?image_size\b", "keys of what backbones.json says of a network"),
    "model/weights.py": (r"ImageNet|\bimage_size\b", "the name of a data set; a key of backbones.json"),
    "writing.py": (r"secrets\.token_hex", "Python's own name"),
    "run.py": (r'"images"', "the name of a folder in runs that exist"),
}


def words_of(text: str) -> Iterator[tuple[int, str]]:
    """The words of one kind of example in a text, each with the number of its line."""
    for number, line in enumerate(text.splitlines(), 1):
        parts = [part.lower() for part in _WORD.findall(line)]
        yield from ((number, part) for part in parts if part in WORDS)
        yield from ((number, " ".join(pair)) for pair in itertools.pairwise(parts) if pair in PHRASES)


def places(package: Path) -> list[str]:
    return sorted(
        path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix in (".py", ".j2")
    )


def not_clean(package: Path) -> dict[str, str]:
    """Place -> the first line with such a word, of all places where none may stand."""
    found = {}
    for place in places(package):
        if not place.startswith(AT_HOME):
            text = (package / place).read_text(encoding="utf-8")
            for start, (allowed, _) in EXCEPTIONS.items():
                text = re.sub(allowed, "", text) if place.startswith(start) else text
            for number, word in words_of(text):
                found.setdefault(place, f"kerastl/{place}:{number} says '{word}'")
    return found


def test_words_of_one_kind_of_example_stand_in_few_places() -> None:
    assert not not_clean(PACKAGE), "say 'example' or 'input', or move it into kerastl/modality/"


def test_exceptions_are_needed_and_their_files_exist() -> None:
    for start, (allowed, _) in EXCEPTIONS.items():
        files = [PACKAGE / place for place in places(PACKAGE) if place.startswith(start)]
        assert any(re.search(allowed, file.read_text(encoding="utf-8")) for file in files), start
    for start in AT_HOME:
        assert any(place.startswith(start) for place in places(PACKAGE)), start


@pytest.mark.parametrize(
    "line",
    [
        "image_size = 3",
        "def worst_images(): ...",
        "class ImageX: ...",
        "class RGBImage: ...",
        '"""Pixels of an example."""',
        "x = 1  # of each image",
        "TOKENS = ()",
        "sample_rate = 16_000",
        '"at a sample rate of 16 kHz"',
        "class AudioFile: ...",
    ],
)
def test_each_form_of_a_word_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "build.py").write_text(f"import keras\n{line}\n")
    (problem,) = not_clean(tmp_path).values()
    assert problem.startswith("kerastl/model/build.py:2 says")


@pytest.mark.parametrize("place", ["modality/text.py", "cli/fit.py", "data/folder.py"])
def test_they_may_stand_where_they_belong(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("image_size = 3\n")
    assert not_clean(tmp_path) == {}


@pytest.mark.parametrize(
    "line", ["imagenet = 1", "from tokenize import open", "imagine = 2", "sample, rating = 1, 2"]
)
def test_words_that_only_begin_alike_are_left_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "model.py").write_text(line)
    assert not_clean(tmp_path) == {}
