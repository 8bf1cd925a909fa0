"""Words for figures that users see."""

from __future__ import annotations

import pytest

from kerastl.progress import size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-1, "0 bytes"), (0, "0 bytes"), (999, "999 bytes"), (1_000, "1.0 KB"), (640_000, "640 KB"),
        (37_400_000, "37 MB"), (4_230_000_000, "4.2 GB"), (12_345e9, "12,345 GB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_two_digits_or_more(count: float, text: str) -> None:
    assert size_text(count) == text
