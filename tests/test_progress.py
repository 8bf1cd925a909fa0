"""Words for figures that users see, and the log that keeps what was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerastl.jobs.log import Log
from kerastl.progress import Progress, Tracker, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-1, "0 bytes"), (0, "0 bytes"), (999, "999 bytes"), (1_000, "1.0 KB"), (640_000, "640 KB"),
        (37_400_000, "37 MB"), (4_230_000_000, "4.2 GB"), (12_345e9, "12,345 GB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_two_digits_or_more(count: float, text: str) -> None:
    assert size_text(count) == text


class Listener(Progress, Tracker):
    """Hears everything and writes it down."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def note(self, message: str) -> None:
        self.heard.append(message)

    def track(self, label: str, total: int, unit: str = "images") -> Tracker:
        return self

    def advance(self, count: int = 1, detail: str = "") -> None:
        self.heard.append((count, detail))


def test_the_log_numbers_epochs_and_holds_what_is_shown_in_another_way(tmp_path: Path) -> None:
    listener = Listener()
    log = Log(listener, tmp_path / "log.txt")
    log.note("Run x")
    with log.track("head phase", 200) as tracker:
        for loss in (0.5, 0.25):
            tracker.advance(100)
            tracker.advance(0, f"val_loss {loss}")
    log.write("accuracy 0.9\nlog-loss 0.3")
    lines = [line.partition(" ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == [
        "Run x", "head phase: 200 examples", "head phase, epoch 1: val_loss 0.5", "head phase, epoch 2: val_loss 0.25",
        "accuracy 0.9", "log-loss 0.3",
    ]  # fmt: skip
    assert listener.heard == ["Run x", (100, ""), (0, "val_loss 0.5"), (100, ""), (0, "val_loss 0.25")]
