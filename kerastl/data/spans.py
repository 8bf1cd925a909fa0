"""Entities as spans of characters in JSON: lines of one's own, of Doccano, spaCy and Prodigy, and exports of Label Studio."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

from kerastl.data.annotated import Annotated, Entities, Span, types_of, word_places
from kerastl.data.examples import listed
from kerastl.data.label_studio import SPAN_KEYS, task_of
from kerastl.data.names import class_name
from kerastl.data.offsets import END, START, code_point, wide_units
from kerastl.data.problems import Problems, shortened
from kerastl.data.texts import is_unicode
from kerastl.errors import DataError, nearest
from kerastl.modality.text_files import why_file_not_utf8
from kerastl.wording import counted

# Keys that say nothing of entities and need no warning.
_PASSED = frozenset(
    ["id", "meta", "metadata", "comments", "cats", "relations", "answer", "links", "tokens", "_input_hash", "_task_hash",
     "_session_id", "_view_id", "_timestamp", "_annotator_id"]
)  # fmt: skip
# What Prodigy's annotators answered where the marked spans are wrong, or were passed over.
_REFUSED = ("reject", "ignore")
_LABEL = ("label", "labels")
EXPECTED = (
    'Expected a line for each text, {"text": "Anna lives in Rome", "spans": [{"start": 0, "end": 4, "label": "PER"}]}, or its spans as '
    '"label" or "entities": [[0, 4, "PER"]], or Label Studio\'s JSON export. Offsets count Unicode code points from 0; the end is '
    "behind the last one. Spans begin and end with a word and do not overlap."
)

_PAIRS = (
    "Expected pairs of a text and its spans: [('Anna lives in Rome', [(0, 4, 'PER'), (14, 18, 'LOC')]), ...]."
)


@dataclass
class _Reading:
    """Texts while they are read, and what was mended in them."""

    problems: Problems
    mend: bool
    documents: list[Annotated] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    unread: dict[str, None] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unmarked: dict[str, None] = field(default_factory=dict)


def read_spans(path: Path, *, mend: bool = False) -> Entities:
    """The texts of a JSON file with their entities.

    Each line holds an object with a `text` and its spans: `"spans": [{"start": 0, "end": 4, "label": "PER"}]` (Prodigy's),
    `"label": [[0, 4, "PER"]]` (Doccano's) or `"entities": [[0, 4, "PER"]]` (spaCy's). Or the file is one list of tasks, as
    Label Studio exports it. There, offsets count UTF-16 units behind an emoji; where a span holds its own `text`, that decides.

    Args:
        path: of the file, in UTF-8.
        mend: widen spans that cut a word, and take blanks off their ends, in place of refusing them; a warning counts them.

    Raises:
        DataError: it cannot be read, or texts or spans are not as expected; all of them in one message.
    """
    problems = Problems(f"'{path}'", expected=EXPECTED)
    reading = _Reading(problems, mend)
    for place, values in _objects(path, reading):
        _add(reading, place, values)
    problems.raise_all()
    if not reading.documents:
        left_out = list(_left_out(reading))
        text = "text to learn from." if left_out else "text."
        raise DataError(" ".join([f"'{path}' holds no {text}", *left_out, EXPECTED]))
    documents = tuple(reading.documents)
    return Entities(documents, types_of(documents), f"file {path}", warnings=_warnings(reading, documents))


def read_pairs(pairs: Sequence[Any], name: str, mend: bool = False) -> Entities:
    """Texts that are handed over with their spans; see `kerastl.data.handed.from_entities`.

    Args:
        pairs: a text and its spans each.
        name: of the argument, for messages.
        mend: see `read_spans`.

    Raises:
        DataError: texts or spans are not as expected; all of them in one message.
    """
    problems = Problems(name, expected=_PAIRS)
    problems.unit = "pair"
    reading = _Reading(problems, mend)
    for place, pair in enumerate(pairs):
        if isinstance(pair, (tuple, list)) and len(pair) == 2:
            spans = pair[1]
            _add(
                reading, place, {"text": pair[0], "spans": list(spans) if isinstance(spans, tuple) else spans}
            )
        else:
            problems.add(place, f"no pair of a text and its spans, but {_shown(pair)}.")
    problems.raise_all()
    documents = tuple(reading.documents)
    return Entities(
        documents,
        types_of(documents),
        counted(len(documents), "text"),
        warnings=_warnings(reading, documents),
    )


def _warnings(reading: _Reading, documents: Sequence[Annotated]) -> tuple[str, ...]:
    warnings = [*_left_out(reading)]
    if reading.mended:
        warnings.append(
            f"{counted(len(reading.mended), 'span')} that cut words, or had blanks around them, became whole words, such as "
            f"{reading.mended[0]}."
        )
    if reading.unread:
        warnings.append(f"Keys that are not read: {listed(list(reading.unread))}.")
    if not any(each.spans for each in documents):
        warnings.append("No text has a span: there is no entity.")
    return tuple(warnings)


def _left_out(reading: _Reading) -> Iterator[str]:
    """A line for each reason for which texts are left out."""
    unit, left_out, refused = reading.problems.unit, reading.left_out, reading.refused
    if left_out:
        yield (
            f"{counted(len(left_out), 'text')} without annotation left out, such as {unit} {left_out[0]:,}; keys of such texts: "
            f"{listed(list(reading.unmarked), 8)}."
        )
    if refused:
        yield (
            f"{counted(len(refused), 'text')} left out whose 'answer' is 'reject' or 'ignore', such as {unit} {refused[0]:,}."
        )


def _objects(path: Path, reading: _Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Objects with text and spans, each with its line, or with its number in a list of tasks."""
    problems = reading.problems
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            file.seek(0)
            if start == "[" and path.suffix.lower() == ".json":
                yield from _tasks(json.load(file), reading)
                return
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError) as error:
                    reason = str(error).partition(": line")[0]
                    problems.add(line, f"no JSON: {reason}, in '{shortened(text.strip())}'.")
                    continue
                # spaCy's older form is ["text", {"entities": ...}]
                if isinstance(values, list) and len(values) == 2 and isinstance(values[1], dict):
                    values = {"text": values[0], **values[1]}
                if isinstance(values, dict):
                    yield line, values
                else:
                    problems.add(line, f"no JSON object, but '{shortened(text.strip())}'.")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 text, {why_file_not_utf8(path)}. Save it in UTF-8."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"'{path}' is no JSON: {error}. {EXPECTED}") from error
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.") from error


def _tasks(tasks: list[Any], reading: _Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reading.problems.unit = "task"
    for number, task in enumerate(tasks, 1):
        try:
            found = task_of(task)
        except ValueError as error:
            reading.problems.add(number, str(error))
            continue
        if found is None:
            reading.left_out.append(number)
            reading.unmarked.update(dict.fromkeys(task))
        else:
            yield number, found


def _add(reading: _Reading, place: int, values: Mapping[str, Any]) -> None:
    """Append a text with its spans, or remember what is wrong with them."""
    if values.get("answer") in _REFUSED:
        reading.refused.append(place)
        return
    text, keys = values.get("text"), [key for key in SPAN_KEYS if key in values]
    faults: list[str] = []
    spans: list[Span] = []
    if not isinstance(text, str):
        faults.append(_no_key("text", values) if text is None else f"'text' is no text, but {_shown(text)}.")
    elif not text.strip():
        faults.append("the text is empty.")
    elif not is_unicode(text):
        faults.append("the text holds half of a character (\\ud800 to \\udfff): write it in UTF-8.")
    elif len(keys) != 1:
        several = f"both {' and '.join(map(repr, keys))}; expected one of them." if keys else ""
        faults.append(several or _no_key("spans", values))
    elif not isinstance(values[keys[0]], list):
        faults.append(f"'{keys[0]}' is no list of spans, but {_shown(values[keys[0]])}.")
    else:
        words, wide = word_places(text), wide_units(values[keys[0]], text)
        for item in values[keys[0]]:
            try:
                spans.append(_span(item, text, words, wide, reading))
            except ValueError as error:
                faults.append(str(error))
        # Equal spans say the same twice.
        spans = sorted(set(spans))
        faults += [
            f"{_named(one, text)} and {_named(two, text)} overlap."
            for one, two in pairwise(spans)
            if two.start < one.end
        ]
        reading.unread.update(
            dict.fromkeys(key for key in values if key not in ("text", *keys) and key.lower() not in _PASSED)
        )
    if faults:
        more = f" And {len(faults) - 1:,} more." if len(faults) > 1 else ""
        reading.problems.add(place, faults[0] + more)
    else:
        assert isinstance(text, str)
        reading.documents.append(Annotated(text, tuple(spans), place))


def _span(
    item: Any, text: str, words: Sequence[tuple[int, int]], wide: Sequence[int], reading: _Reading
) -> Span:
    """A checked span; ValueError says what is wrong with it."""
    if isinstance(item, Mapping):
        start, end, label = (_value(item, names) for names in (START, END, _LABEL))
        said = item.get("text")
    elif isinstance(item, (list, tuple)) and len(item) == 3:
        (start, end, label), said = item, None
    else:
        raise ValueError(f"{_shown(item)} is no span.")
    if isinstance(label, list):
        if len(label) != 1:
            raise ValueError(f"{_shown(item)} has {len(label)} labels, where one is expected.")
        (label,) = label
    if not all(isinstance(each, Integral) and not isinstance(each, bool) for each in (start, end)):
        raise ValueError(f"{_shown(item)}: start and end are expected to be whole numbers.")
    if not isinstance(label, str) or not class_name(label):
        raise ValueError(f"{_shown(item)}: the label is expected to be a text.")
    start, end = code_point(wide, int(start)), code_point(wide, int(end))
    if isinstance(said, str) and text[max(start, 0) : end] != said:
        raise ValueError(f"{_shown(item)}: at its place stands '{shortened(text[max(start, 0) : end])}'.")
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"{_shown(item)} lies outside of the text, which has {len(text):,} code points, or is empty."
        )
    span = Span(start, end, class_name(label))
    whole = _whole(span, words)
    if whole != span:
        if whole is None or not reading.mend:
            raise ValueError(f"{_named(span, text)} {_why(span, whole, text)}")
        reading.mended.append(f"{_named(span, text)} now '{shortened(text[whole.start : whole.end])}'")
        return whole
    return span


def _whole(span: Span, words: Sequence[tuple[int, int]]) -> Span | None:
    """The span with the whole of each word that it touches; None where it touches none."""
    first = bisect_right(words, span.start, key=lambda word: word[1])
    stop = bisect_left(words, span.end, key=lambda word: word[0])
    return Span(words[first][0], words[stop - 1][1], span.label) if first < stop else None


def _why(span: Span, whole: Span | None, text: str) -> str:
    if whole is None:
        return "holds blanks alone."
    cuts = whole.start < span.start or span.end < whole.end
    expected = f"expected {whole.start} to {whole.end}, '{shortened(text[whole.start : whole.end])}'. data.mend_spans = true takes that (in Python: mend=True)."
    return f"{'cuts a word' if cuts else 'has blanks around it'}: {expected}"


def _value(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = [item[name] for name in names if name in item]
    if not found:
        raise ValueError(f"{_shown(item)} has no '{names[0]}'.{nearest(names[0], map(str, item))}")
    return found[0]


def _no_key(name: str, values: Mapping[str, Any]) -> str:
    return f"no key '{name}' among {listed(list(values), 8) or 'none'}.{nearest(name, values)}"


def _named(span: Span, text: str) -> str:
    return f"{span.label} {span.start} to {span.end}, '{shortened(text[span.start : span.end])}',"


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False, default=str), 80)
