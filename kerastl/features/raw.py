"""Raw bytes of some examples of a split, as a served model takes them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from kerastl.data.examples import Split, spread_positions
from kerastl.errors import DataError
from kerastl.modality import Modality, bytes_of
from kerastl.modality.read import why_unread
from kerastl.progress import Progress
from kerastl.wording import counted

# Of the validation split, and as many of the test split: enough for every signature in seconds.
CHECK_EXAMPLES = 16
# Where a whole folder is gone, looking for neighbours must end.
_ATTEMPTS = 5


def readable_examples(split: Split, modality: Modality, progress: Progress) -> tuple[np.ndarray, list[bytes]]:
    """Some of a split's examples as bytes that an exported model takes, spread evenly over it.

    A file may vanish at any time, also where its inputs are kept: its neighbour then stands in for it, with a warning.

    Args:
        split: to take them from.
        modality: of the examples.
        progress: hears of those that cannot be read.

    Returns:
        Their positions in the split, int64 [n], increasing, and their bytes; at most `CHECK_EXAMPLES`, at least one.

    Raises:
        DataError: none of those that were tried can be read, or TFDS cannot read what it stores.
    """
    wanted = spread_positions(split.count, CHECK_EXAMPLES).tolist()
    found: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    for _ in range(_ATTEMPTS):
        for position, raw in zip(wanted, split.raw(np.array(wanted, np.int64)), strict=True):
            try:
                found[position], _ = modality.servable(bytes_of(raw))
            except OSError as error:
                reasons[position] = why_unread(modality, error)
            except ValueError as error:
                reasons[position] = str(error)
        missing = [position for position in wanted if position not in found]
        tried = found.keys() | reasons.keys()
        wanted = sorted(
            {each for position in missing for each in _next_untried(position, split.count, tried)}
        )
        if not wanted:
            break
    if reasons:
        bad = min(reasons)
        first = f"{split.ids[bad]}: {reasons[bad]}"
        if not found:
            raise DataError(
                f"None of {counted(len(reasons), f'{split.name} {modality.noun}')} can be read, the first is {first}. The exported model "
                f"is checked on such {modality.noun}s: bring them back, or do without the export (`kerastl fit --no-export`)"
            )
        progress.warn(
            f"{counted(len(reasons), f'{split.name} {modality.noun}')} cannot be read, the first is {first}. The export is checked on "
            "others in their place"
        )
    positions = np.array(sorted(found), np.int64)
    return positions, [found[position] for position in positions.tolist()]


def _next_untried(position: int, count: int, tried: Collection[int]) -> list[int]:
    """The next position, or none where all were tried."""
    return next(([each] for each in (*range(position, count), *range(position)) if each not in tried), [])
