"""Offsets of spans that count UTF-16 units, as JavaScript does, in place of code points."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

START, END = ("start", "start_offset"), ("end", "end_offset")
_WIDE = re.compile("[\U00010000-\U0010ffff]")


def wide_units(items: Sequence[Any], text: str) -> list[int]:
    """Places of a text's characters of two UTF-16 units, in units, increasing; none where its spans count code points.

    What spans say of their own text decides, and all spans of a text count alike: a name that occurs twice may stand at the other's
    place by chance.

    Args:
        items: spans as a file has them, some perhaps with a `text`.
        text: that they are in.
    """
    wide = [found.start() + number for number, found in enumerate(_WIDE.finditer(text))]
    return wide if wide and not _agree(items, text, ()) and _agree(items, text, wide) else []


def code_point(wide: Sequence[int], offset: int) -> int:
    """The offset in code points of one in the units of `wide_units`; -1 for one that cuts a character."""
    before = bisect_left(wide, offset)
    return -1 if before and wide[before - 1] == offset - 1 else offset - before


def _agree(items: Sequence[Any], text: str, wide: Sequence[int]) -> bool:
    """True if the text that each span says of itself stands at its place."""
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("text"), str):
            start, end = (
                next((item[name] for name in names if name in item), None) for names in (START, END)
            )
            if isinstance(start, Integral) and isinstance(end, Integral):
                first, stop = code_point(wide, int(start)), code_point(wide, int(end))
                if text[max(first, 0) : stop] != item["text"]:
                    return False
    return True
