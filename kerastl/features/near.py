"""Near copies: examples that are nearly the same on two sides of a split, which makes a test better than it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kerastl.data.examples import Split
from kerastl.errors import DataError
from kerastl.features.decoded import DecodedSplits
from kerastl.features.inputs import OtherReading
from kerastl.modality import Modality, modality_of
from kerastl.progress import Progress
from kerastl.wording import counted

_READ_BATCH = 256
_SHOWN = 2
# Of examples of which only features were kept, so many are decoded once more to be looked at.
_MOST_DECODED = 1_000


def near_copies_in(decoded: DecodedSplits, progress: Progress) -> tuple[list[dict[str, str]], list[str]]:
    """Look for near copies of test and validation examples among those that they are to be held out from.

    Args:
        decoded: split examples, decoded in this run or kept, or few; others are passed over.
        progress: is told of those that were passed over.

    Returns:
        For each held-out example that has any its split and identity, those of the example that is most like it, and their
        likeness; and warnings with how many there are, and some of them by name.
    """
    train, validation, test = decoded.splits
    modality = modality_of(decoded.recipe)
    found: list[dict[str, str]] = []
    warnings: list[str] = []
    passed_over = sum(_complete_looks(decoded, split) for split in decoded.splits)
    if passed_over:
        progress.note(
            f"Near copies across splits are not looked for among {counted(passed_over, modality.noun)}: their features were kept by "
            "an earlier run, which decoded them and looked"
        )
    for held_out, others in ((test, (train, validation)), (validation, (train,))):
        found += (rows := _pairs(modality, held_out, others, warnings))
        if rows:
            shown = ", ".join(f"'{row['id']}' and '{row['near']}'" for row in rows[:_SHOWN])
            one, several, mend = modality.near_words
            warnings.append(
                f"{counted(len(rows), f'{held_out.name} {modality.noun}')} {one if len(rows) == 1 else several} {modality.noun}s of "
                f"{' or '.join(other.name for other in others)}, such as {shown} (all: near_copies.csv): the figures of "
                f"{held_out.name} are too good. {mend} data.group_pattern, data.group_subfolders or a manifest's group column."
            )
    return found, warnings


def _complete_looks(decoded: DecodedSplits, split: Split) -> int:
    """Add what was not decoded in this run, where that costs little; how many examples are left."""
    looks, inputs = split.examples.looks, decoded.inputs[split.name]
    unseen = looks.unseen(split.indices)
    if not inputs.kept and len(unseen) > _MOST_DECODED:
        return len(unseen)
    for start in range(0, len(unseen), _READ_BATCH):
        places = unseen[start : start + _READ_BATCH]
        try:
            looks.add(split.indices[places], inputs.modality.sketches(inputs[places]))
        except (DataError, OtherReading):  # gone by now: no reason to lose a trained model
            return len(unseen) - start
    return 0


def _pairs(
    modality: Modality, held_out: Split, others: tuple[Split, ...], warnings: list[str]
) -> list[dict[str, str]]:
    examples = held_out.examples
    looks = examples.looks
    here = np.delete(held_out.indices, looks.unseen(held_out.indices))
    sides = [np.delete(other.indices, looks.unseen(other.indices)) for other in others]
    there = np.concatenate(sides)
    names = [other.name for other, side in zip(others, sides, strict=True) for _ in side]
    if not len(here) or not len(there):
        return []
    found, looked = modality.near(looks.rows(here), looks.rows(there))
    if looked < len(here):
        warnings.append(
            f"Near copies were looked for among {looked:,} of {len(here):,} {held_out.name} {modality.noun}s, spread evenly: there are "
            "too many pairs."
        )
    return list(_described(found, here, there, names, held_out))


def _described(
    found: list[tuple[int, int, float]],
    here: np.ndarray,
    there: np.ndarray,
    names: list[str],
    held_out: Split,
) -> Iterator[dict[str, str]]:
    examples = held_out.examples
    for row, other, likeness in found:
        one, two = here[row], there[other]
        equal = examples.contents is not None and examples.contents[one] == examples.contents[two] >= 0
        if not equal:  # which was said when the files were compared
            yield {
                "split": held_out.name,
                "id": str(examples.ids[one]),
                "near_split": names[other],
                "near": str(examples.ids[two]),
                "likeness": f"{likeness:.3f}",
            }
