"""Texts with entities as examples: whole texts, labelled with the types in them, until they are split; then rows of words with tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kerastl.data.annotated import Annotated, Entities
from kerastl.data.contents import examples_in_memory
from kerastl.data.duplicates import digest_of
from kerastl.data.examples import Examples, Split, Splits, fingerprint, text_column
from kerastl.data.kinds import TEXT
from kerastl.data.names import checked_names
from kerastl.data.step_labels import NONE, StepLabels
from kerastl.errors import DataError
from kerastl.modality import Modality
from kerastl.modality.words import Windows, worded
from kerastl.recipe.schema import DataRecipe
from kerastl.task.tags import tag_names
from kerastl.wording import counted

# Texts whose words are found together.
_AT_ONCE = 512


def entity_examples(parts: Mapping[str, Entities], recipe: DataRecipe, place: str) -> Examples:
    """Examples of texts with entities, one for each text; their labels are the types that occur in them.

    By these they are split as examples of several labels are. `in_rows` gives them the labels that are learnt.

    Args:
        parts: by the name of the split that the source gives them; '' for what is to be carved.
        recipe: names the source.
        place: what the identities are relative to.

    Raises:
        DataError: there is no entity.
    """
    found = list(parts.values())
    types = tuple(sorted({name for each in found for name in each.types}))
    if not types:
        raise DataError(f"The {found[0].origin} has no entity. Expected texts in which some are marked")
    documents = [each for several in found for each in several.documents]
    raw = [each.text.encode() for each in documents]
    number = {name: code for code, name in enumerate(types)}
    labels = np.zeros((len(documents), len(types)), np.uint8)
    for row, each in enumerate(documents):
        labels[row, [number[span.label] for span in each.spans]] = 1
    splits = [name for name, several in parts.items() for _ in several.documents]
    groups = [group for name, several in parts.items() for group in _documents(several.documents, name)]
    digests = np.array([digest_of(text) for text in raw], np.int64)
    examples = examples_in_memory(
        raw,
        digests,
        labels,
        types,
        text_column(splits),
        text_column(groups),
        noun=TEXT.noun,
        origin=found[0].origin,
        place=place,
        recipe=recipe,
        warnings=tuple(warning for each in found for warning in each.warnings),
    )
    # Of two annotations of the same texts one is not the other.
    marks = [repr(each.spans) for each in documents]
    changed = fingerprint((text_column(marks),), (), examples.fingerprint)
    return checked_names(replace(examples, annotated=_column(documents), fingerprint=changed))


def _documents(sentences: Sequence[Annotated], split: str) -> Iterator[str]:
    """The group of each sentence: its document, by a digest of its text, so that other documents of the file change no name."""
    texts: dict[int, list[str]] = {}
    for each in sentences:
        if each.document is not None:
            texts.setdefault(each.document, []).append(each.text)
    names = {
        number: f"{split or 'document'} {digest_of(chr(10).join(lines).encode()) & (2**64 - 1):016x}"
        for number, lines in texts.items()
    }
    return ("" if each.document is None else names[each.document] for each in sentences)


def in_rows(splits: Splits, modality: Modality) -> Splits:
    """The splits as a network reads them, where their examples are answered word by word; else as they are.

    A text that is longer than a row of the network becomes several examples, windows that overlap; each word is labelled in the one
    in which it has most context. Words are those that the modality finds in the text, in training as when the model is served, and
    the tags of IOB2 are their labels.

    Args:
        splits: of whole texts.
        modality: cuts texts into words and rows.
    """
    examples = splits.train.examples
    if examples.annotated is None:
        return splits
    rows, places, warnings = _rows(examples, modality)
    behind = np.cumsum(places)
    indices = [
        np.concatenate([np.arange(behind[at] - places[at], behind[at]) for at in split.indices] or [split.indices])
        for split in splits
    ]  # fmt: skip
    train, validation, test = (
        Split(split.name, rows, np.asarray(at, np.int64)) for split, at in zip(splits, indices, strict=True)
    )
    return Splits(
        train,
        validation,
        test,
        rows.class_names,
        fingerprint((), tuple(indices), splits.fingerprint),
        (*splits.warnings, *warnings),
    )


def _rows(examples: Examples, modality: Modality) -> tuple[Examples, np.ndarray, tuple[str, ...]]:
    """Examples that are rows, how many of them each text has, and what there is to warn of."""
    import tensorflow as tf

    annotated = examples.annotated
    assert annotated is not None
    types = examples.class_names
    texts: list[bytes] = []
    values: list[np.ndarray] = []
    lengths: list[int] = []
    owners: list[int] = []
    words: list[np.ndarray] = []
    lost: list[str] = []
    for start in range(0, len(annotated), _AT_ONCE):
        some: Sequence[Annotated] = annotated[start : start + _AT_ONCE].tolist()
        found = Windows(*worded(modality).windows(tf.constant([each.text.encode() for each in some])))
        found = Windows(*(np.asarray(each) for each in found))
        codes = np.concatenate([
            _codes(each, found.starts[first:stop], found.ends[first:stop], types, lost)
            for each, first, stop in zip(some, found.words, found.words[1:], strict=False)
        ])  # fmt: skip
        several = np.bincount(found.texts, minlength=len(some)) > 1
        edges = np.searchsorted(found.rows, np.arange(len(found.texts) + 1))
        for row, text in enumerate(found.texts.tolist()):
            own = np.arange(edges[row], edges[row + 1])
            if several[text] and not len(own):
                continue  # the middle of one long word
            first, stop = found.bounds[row]
            labels = np.full(found.lengths[row], NONE, np.int32)
            labels[found.columns[own]] = codes[own]
            whole = some[text].text
            texts.append(
                (whole[found.starts[first] : found.ends[stop - 1]] if several[text] else whole).encode()
            )
            values.append(labels)
            lengths.append(len(labels))
            owners.append(start + text)
            words.append(np.stack([found.starts[own], found.ends[own]], 1))
    documents = np.array(owners, np.int64)
    counts = np.bincount(documents, minlength=len(annotated))
    steps = StepLabels(np.concatenate(values), np.array(lengths, np.int64), documents)
    held, spans = _column(texts), _column(words)
    place = np.arange(len(documents)) - (np.cumsum(counts) - counts)[documents]
    names = [
        f"{examples.ids[text]}" + (f":{number}" if number else "")
        for text, number in zip(documents, place, strict=True)
    ]
    digests = np.array([digest_of(text) for text in texts], np.int64)
    rows = replace(
        examples,
        ids=text_column(names),
        labels=steps,
        class_names=tag_names(types),
        groups=_kept_together(examples, documents, counts),
        splits=examples.splits[documents],
        raw=lambda indices: iter(held[indices]),
        stamps=digests[:, None],
        fingerprint=fingerprint((), (steps.values, steps.lengths), examples.fingerprint),
        contents=None,
        annotated=annotated[documents],
        words=spans,
    )
    warnings = []
    if lost:
        warnings.append(
            f"{counted(len(lost), 'entity', 'entities')} cannot be learnt or found, as no word of the network's is theirs alone, such as "
            f"{lost[0]}. Figures leave them out."
        )
    if (counts > 1).any():
        warnings.append(
            f"{counted(int((counts > 1).sum()), examples.noun)} longer than {modality.size} are read in {int(counts[counts > 1].sum()):,} "
            "parts that overlap."
        )
    return replace(rows, warnings=(*examples.warnings, *warnings)), counts, tuple(warnings)


def _column(values: Sequence[object]) -> np.ndarray:
    """Values of any kind as object [n]; one by one, as NumPy would take arrays of one shape for more dimensions."""
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def _kept_together(examples: Examples, documents: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Groups of rows: those of their texts, and of several windows of one text that text."""
    groups = examples.groups[documents]
    alone = (groups == "") & (counts > 1)[documents]
    groups[alone] = [f"text {examples.ids[text]}" for text in documents[alone]]
    return groups


def _codes(
    text: Annotated, starts: np.ndarray, ends: np.ndarray, types: Sequence[str], lost: list[str]
) -> np.ndarray:
    """A tag's code for each word of a text, int32 [words]; entities without a word of their own are added to `lost`.

    Args:
        text: with its entities; of types that are left out none is tagged.
        starts: int [words], first characters.
        ends: int [words], the places behind the last ones.
        types: in the order of the codes.
        lost: is added to.
    """
    codes = np.zeros(len(starts), np.int32)
    for span in text.spans:
        if span.label not in types:
            continue
        first = int(np.searchsorted(ends, span.start, side="right"))
        stop = int(np.searchsorted(starts, span.end, side="left"))
        if first >= stop or codes[first:stop].any():
            lost.append(f"{span.label} '{text.text[span.start : span.end]}'")
            continue
        code = 1 + 2 * types.index(span.label)
        codes[first:stop] = code + 1
        codes[first] = code
    return codes
