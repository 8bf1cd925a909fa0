"""Entities in columns, as the CoNLL tasks have them: a word and its tag a line, and an empty line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kerastl.data.annotated import Annotated, Entities, from_words, types_of
from kerastl.data.names import class_name
from kerastl.data.problems import Problems, shortened
from kerastl.errors import DataError
from kerastl.modality.text_files import why_file_not_utf8
from kerastl.task.tags import OUTSIDE, invalid_places, is_tag, scheme_of, spans_of
from kerastl.wording import counted

DOCUMENT = "-DOCSTART-"
EXPECTED = (
    "Expected a word a line with its tag in the last column (EU B-ORG), columns apart by tabs or blanks, an empty line between "
    "sentences, in UTF-8."
)


@dataclass(frozen=True)
class _Sentence:
    lines: list[int]
    words: list[str]
    tags: list[str]
    document: int


def read_conll(path: Path) -> Entities:
    """The sentences of a file in columns; the word stands in the first one, its tag in the last.

    The scheme of the tags follows from all of them; see `kerastl.task.tags.scheme_of`. What does not follow it, such as I
    behind O where it is IOB2, is read as `kerastl.task.tags.spans_of` does, and a warning counts it. Lines that begin
    with `#` at the beginning of a sentence and end with no tag are comments. `-DOCSTART-` begins a document.

    Args:
        path: of the file, in UTF-8.

    Returns:
        The sentences, with their words as the file has them.

    Raises:
        DataError: it cannot be read, or lines are no word and tag; all of them in one message.

    Example:
        >>> read_conll(Path("wikigold.conll")).counts()
        {'LOC': 1014, 'MISC': 712, 'ORG': 898, 'PER': 934}
    """
    problems = Problems(f"'{path}'", expected=EXPECTED)
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            sentences = list(_sentences(file, problems))
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 text, {why_file_not_utf8(path)}. Save it in UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
    problems.raise_all()
    if not sentences:
        raise DataError(f"'{path}' holds no sentence. {EXPECTED}")
    found = scheme_of(each.tags for each in sentences)
    documents = tuple(_annotated(each, sentences[-1].document) for each in sentences)
    return Entities(
        documents,
        types_of(documents),
        f"file {path}",
        found,
        _warnings(sentences, documents, found),
    )


def _sentences(lines: Iterable[str], problems: Problems) -> Iterator[_Sentence]:
    document = 0
    width, width_line = 0, 0
    begun = _Sentence([], [], [], document)
    for number, line in enumerate(lines, 1):
        line = line.strip("\n")
        if not line.strip() or line.startswith(DOCUMENT):
            if begun.words:
                yield begun
            document += line.startswith(DOCUMENT)
            begun = _Sentence([], [], [], document)
            continue
        cells = line.rstrip(" \t").split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        word, tag = cells[0].strip(" "), cells[-1].strip(" ")
        if line.startswith("#") and not begun.words and not is_tag(tag):
            continue
        width, width_line = (width, width_line) if width else (len(cells), number)
        if len(cells) < 2:
            problems.add(
                number, f"one column, '{shortened(line.strip())}', where a word and its tag are expected."
            )
        elif len(cells) != width:
            problems.add(
                number,
                f"{len(cells)} columns where line {width_line:,} has {width}: '{shortened(line.strip())}'.",
            )
        elif not word:
            problems.add(number, "no word in the first column.")
        elif not is_tag(tag):
            hint = " Tags begin with O, B-, I-, E-, S-, L- or U-." if tag else ""
            problems.add(number, f"'{shortened(tag)}' is no tag for '{shortened(word)}'.{hint}")
        else:
            begun.lines.append(number)
            begun.words.append(word)
            begun.tags.append(tag if tag == OUTSIDE else tag[:2] + class_name(tag[2:]))
    if begun.words:
        yield begun


def _annotated(sentence: _Sentence, last_document: int) -> Annotated:
    document = sentence.document if last_document else None
    return from_words(sentence.words, spans_of(sentence.tags), sentence.lines[0], document)


def _warnings(sentences: list[_Sentence], documents: tuple[Annotated, ...], scheme: str) -> tuple[str, ...]:
    found = [
        (each.lines[at], each.tags[at]) for each in sentences for at in invalid_places(each.tags, scheme)
    ]
    warnings = []
    if found:
        line, tag = found[0]
        warnings.append(
            f"{counted(len(found), 'tag does', 'tags do')} not follow the scheme {scheme}, such as '{tag}' in line {line:,}. They are read "
            "as conlleval and seqeval do: an entity begins where its type does."
        )
    if not any(each.spans for each in documents):
        warnings.append("No word has a tag but O: there is no entity.")
    return tuple(warnings)
