"""Sources of entities: which reader a file is for."""

from __future__ import annotations

from pathlib import Path

from kerastl.data.annotated import Entities
from kerastl.data.conll import read_conll
from kerastl.data.manifest_cells import JSONL_SUFFIXES
from kerastl.data.spans import read_spans
from kerastl.errors import DataError, nearest

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
