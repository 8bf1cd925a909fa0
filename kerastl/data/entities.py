"""Sources of entities: files by their suffix, folders, TFDS sets, and pairs of texts and spans that are handed over in Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kerastl.data.annotated import Entities
from kerastl.data.conll import read_conll
from kerastl.data.entity_examples import entity_examples
from kerastl.data.examples import CARVE, SPLIT_NAMES, TEST, TRAIN, VALIDATION, Examples
from kerastl.data.kinds import TEXT
from kerastl.data.manifest_cells import JSONL_SUFFIXES
from kerastl.data.names import SPLIT_WORDS
from kerastl.data.skipped import SkippedNames
from kerastl.data.spans import read_pairs, read_spans
from kerastl.data.tfds_entities import read_tfds_entities
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import HANDED, DataRecipe
from kerastl.task import TAGGED_SUFFIXES

SPAN_SUFFIXES = (*JSONL_SUFFIXES, ".json")


def read_entities(path: Path | str, *, mend: bool = False) -> Entities:
    """The texts of a file with their entities.

    Args:
        path: `.jsonl`, `.ndjson` or `.json` for spans of characters (see `kerastl.data.spans.read_spans`); any other one for
            columns of words and tags (see `kerastl.data.conll.read_conll`).
        mend: widen spans that cut a word, and take blanks off their ends, in place of refusing them; a warning counts them.

    Raises:
        DataError: it does not exist, or cannot be read so.

    Example:
        >>> found = read_entities("wikigold.conll")
        >>> found.types, found.documents[0].spans[0]
        (('LOC', 'MISC', 'ORG', 'PER'), Span(start=0, end=3, label='MISC'))
    """
    path = Path(path).expanduser()
    if not path.is_file():
        names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"'{path}' is no file.{nearest(path.name, names)}")
    if path.suffix.lower() in SPAN_SUFFIXES:
        return read_spans(path, mend=mend)
    return read_conll(path)


_SUFFIXES = (*TAGGED_SUFFIXES, *SPAN_SUFFIXES, ".txt")
# First words of the names of a folder's files, in lower case; CoNLL's testa is for validation, and BioNLP's devel.
_WORDS = {**SPLIT_WORDS, "devel": VALIDATION, "testa": VALIDATION, "testb": TEST}
_EXPECTED = (
    f"Expected a file of words and tags ({', '.join(TAGGED_SUFFIXES)}), one of spans ({', '.join(SPAN_SUFFIXES)}), a folder "
    "with such files called train, validation and test, or tfds:NAME"
)


def open_entities(source: str, data: DataRecipe) -> Examples:
    """The texts with entities that a recipe names; see `kerastl.data.entity_examples.entity_examples`.

    Args:
        source: what `data.source` names.
        data: the recipe's `data`.

    Raises:
        DataError: it does not exist, or cannot be read so.
    """
    if source.lower().startswith("tfds:"):
        found = read_tfds_entities(source[len("tfds:") :], data)
        return entity_examples(
            {CARVE if len(found) == 1 else name: each for name, each in found.items()}, data, source
        )
    path = Path(source).expanduser()
    if not path.is_dir():
        if not path.is_file():
            names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(f"data.source '{source}' does not exist.{nearest(path.name, names)} {_EXPECTED}.")
        return entity_examples({CARVE: read_entities(path, mend=data.mend_spans)}, data, str(path.resolve()))
    files, skipped = _files_in(path)
    for name, several in files.items():
        if len(several) > 1:
            raise DataError(
                f"data.source '{source}' holds several files for {name}: {', '.join(each.name for each in several)}. Expected one"
            )
    if TRAIN not in files:
        raise DataError(
            " ".join(
                [f"data.source '{source}' holds no file called train.", *skipped.lines()[:1], f"{_EXPECTED}."]
            )
        )
    parts = {
        name: read_entities(files[name][0], mend=data.mend_spans) for name in SPLIT_NAMES if name in files
    }
    examples = entity_examples(parts, data, str(path.resolve()))
    return replace(
        examples,
        skipped=(*skipped.lines(), *examples.skipped),
        warnings=(*skipped.warnings(), *examples.warnings),
    )


def _files_in(folder: Path) -> tuple[dict[str, list[Path]], SkippedNames]:
    """The files of a folder by the splits that they are called, and what else is in it."""
    files: dict[str, list[Path]] = {}
    skipped = SkippedNames()
    for path in sorted(folder.iterdir()):
        words = re.findall("[a-z]+", path.stem.lower())
        split = _WORDS.get("".join(words[:2])) or _WORDS.get("".join(words[:1]))
        if skipped.add_if_hidden(path.name, path.is_dir()):
            continue
        if path.is_dir():
            skipped.add(f"{path.name}/", "no file")
        elif path.suffix.lower() not in _SUFFIXES:
            skipped.add(path.name, "no file of entities by its suffix")
        elif split is None:
            skipped.add(path.name, "not called train, validation or test")
        else:
            files.setdefault(split, []).append(path)
    return files, skipped


def from_entities(
    source: Path | str | Sequence[Any],
    *,
    validation: Sequence[Any] | None = None,
    test: Sequence[Any] | None = None,
    mend: bool = False,
) -> Examples:
    """Texts with entities in them.

    Args:
        source: a file or folder, as `data.source` of a recipe with `data.task = "entities"` names it; or pairs of a text and its spans,
            each (start, end, type) in code points, the end behind the last one, or a dictionary with these keys and `label`.
        validation: pairs to validate on; carved from the others without it.
        test: pairs for the test; carved without it.
        mend: widen spans that cut a word, and take blanks off their ends, in place of refusing them; a warning counts them. Recipes
            have `data.mend_spans` for it.

    Returns:
        The examples, a text each, labelled with the types in it. A text's identity is a digest of its bytes in UTF-8.

    Raises:
        DataError: they cannot be read so, or there is no entity.

    Example:
        >>> kerastl.from_entities([("Anna lives in Rome", [(0, 4, "PER"), (14, 18, "LOC")]), ...]).class_names
        ('LOC', 'PER')
    """
    if isinstance(source, (str, Path)):
        if validation is not None or test is not None:
            raise DataError(
                f"source = '{source}': validation and test are for pairs of texts and spans. Expected a folder with a train, "
                "validation and test file"
            )
        recipe = DataRecipe(source=str(source), task="entities", modality=TEXT.modality, mend_spans=mend)
        return open_entities(str(source), recipe)
    first = TRAIN if validation is not None and test is not None else CARVE
    parts = {first: source, VALIDATION: validation, TEST: test}
    found = {
        name: read_pairs(pairs, name or "source", mend) for name, pairs in parts.items() if pairs is not None
    }
    recipe = DataRecipe(source=f"{HANDED}entities", task="entities", modality=TEXT.modality)
    return entity_examples(found, recipe, HANDED)
