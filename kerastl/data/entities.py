"""Sources of entities: files by their suffix, folders, TFDS sets, and pairs of texts and spans that are handed over in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerastl.data.annotated import Entities
from kerastl.data.conll import read_conll
from kerastl.data.entity_examples import entity_examples
from kerastl.data.examples import CARVE, TEST, TRAIN, VALIDATION, Examples
from kerastl.data.kinds import TEXT
from kerastl.data.manifest_cells import JSONL_SUFFIXES
from kerastl.data.spans import read_pairs, read_spans
from kerastl.data.tfds_entities import read_tfds_entities
from kerastl.errors import DataError, nearest
from kerastl.recipe.schema import HANDED, DataRecipe
from kerastl.task import TAGGED_SUFFIXES

SPAN_SUFFIXES = (*JSONL_SUFFIXES, ".json")


def read_entities(path: Path | str, *, scheme: str | None = None, mend: bool = False) -> Entities:
    """The texts of a file with their entities.

    Args:
        path: `.jsonl`, `.ndjson` or `.json` for spans of characters (see `kerastl.data.spans.read_spans`); any other one for
            columns of words and tags (see `kerastl.data.conll.read_conll`).
        scheme: of the tags of a file of columns; by the tags themselves without it.
        mend: widen spans that cut a word, and take blanks off their ends, in place of refusing them; a warning counts them.

    Raises:
        DataError: it does not exist, or cannot be read so.

    Example:
        >>> found = read_entities("wikigold.conll")
        >>> found.types, found.documents[0].word_spans
        (('LOC', 'MISC', 'ORG', 'PER'), [(0, 1, 'MISC'), (6, 7, 'MISC'), (10, 14, 'ORG')])
    """
    path = Path(path).expanduser()
    if not path.is_file():
        names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"'{path}' is no file.{nearest(path.name, names)}")
    if path.suffix.lower() in SPAN_SUFFIXES:
        if scheme is not None:
            raise DataError(f"scheme = '{scheme}': '{path}' holds spans of characters, which have no tags")
        return read_spans(path, mend=mend)
    return read_conll(path, scheme)


# Files of a folder, by the beginnings of their names, which are those of shared tasks.
_FILES = {TRAIN: ("train",), VALIDATION: ("valid", "dev", "testa"), TEST: ("testb", "test")}
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
        return entity_examples({CARVE: read_entities(path)}, data, str(path.resolve()))
    parts: dict[str, Entities] = {}
    for name, begins in _FILES.items():
        files = sorted(each for each in path.iterdir() if _is_of(each, begins))
        files = [each for each in files if not any(_is_of(each, others) for others in _others(name))]
        if len(files) > 1:
            raise DataError(
                f"data.source '{source}' holds several files for {name}: {', '.join(each.name for each in files)}. Expected one"
            )
        if files:
            parts[name] = read_entities(files[0])
    if TRAIN not in parts:
        raise DataError(f"data.source '{source}' holds no file called train. {_EXPECTED}.")
    return entity_examples(parts, data, str(path.resolve()))


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
        mend: widen spans of pairs that cut a word, and take blanks off their ends, in place of refusing them; a warning counts them.

    Returns:
        The examples, a text each, labelled with the types in it. A text's identity is a digest of its bytes in UTF-8.

    Raises:
        DataError: they cannot be read so, or there is no entity.

    Example:
        >>> kerastl.from_entities([("Anna lives in Rome", [(0, 4, "PER"), (14, 18, "LOC")]), ...]).class_names
        ('LOC', 'PER')
    """
    if isinstance(source, (str, Path)):
        if validation is not None or test is not None or mend:
            raise DataError(
                f"source = '{source}': validation, test and mend are for pairs of texts and spans. Expected a folder with a train, "
                "validation and test file"
            )
        recipe = DataRecipe(source=str(source), task="entities", modality=TEXT.modality)
        return open_entities(str(source), recipe)
    first = TRAIN if validation is not None and test is not None else CARVE
    parts = {first: source, VALIDATION: validation, TEST: test}
    found = {
        name: read_pairs(pairs, name or "source", mend) for name, pairs in parts.items() if pairs is not None
    }
    recipe = DataRecipe(source=f"{HANDED}entities", task="entities", modality=TEXT.modality)
    return entity_examples(found, recipe, HANDED)


def _is_of(path: Path, begins: tuple[str, ...]) -> bool:
    """True for a file of entities whose name begins so."""
    suffixes = (*TAGGED_SUFFIXES, *SPAN_SUFFIXES, ".txt")
    return path.suffix.lower() in suffixes and path.stem.lower().replace("_", "").startswith(begins)


def _others(name: str) -> list[tuple[str, ...]]:
    """Beginnings that mean another split, though they begin as those of this one do: testa is for validation."""
    return [("testa",)] if name == TEST else []
