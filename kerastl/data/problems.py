"""Problems of a file that are told together, in one message."""

from __future__ import annotations

from dataclasses import dataclass, field

from kerastl.errors import DataError

SHOWN = 3


@dataclass
class Problems:
    """Problems of one file while it is read; the first few are kept, all are counted.

    Attributes:
        name: of the file, for messages.
        unit: the unit of a place in it, such as `line`.
        expected: how its entries should look, for the end of the message.
    """

    name: str
    unit: str = "line"
    expected: str = ""
    count: int = 0
    _shown: list[str] = field(default_factory=list)

    def add(self, place: int, text: str) -> None:
        """Remember what is wrong at a place."""
        self.count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(f"{self.unit} {place:,}: {text}")

    def raise_all(self) -> None:
        """Raise one DataError for all of them, if there are any."""
        if self._shown:
            more = self.count - len(self._shown)
            lines = "".join(f"\n  - {each}" for each in self._shown)
            rest = f"\n  - and {more:,} more" if more else ""
            raise DataError(f"{self.name} cannot be used:{lines}{rest}\n{self.expected}".rstrip())


def shortened(text: str, characters: int = 60) -> str:
    """A text in few characters, for a message."""
    return text if len(text) <= characters else text[:characters] + "…"
