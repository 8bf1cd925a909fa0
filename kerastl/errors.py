"""The one family of errors that kerastl raises on purpose.

Everything that a user can mend is a `UserError` (exit code 2 on the command line); what went wrong
while the work was under way is another `KerastlError` (exit code 1). Messages say what was passed,
what is expected and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KerastlError(Exception):
    """Root of all errors raised by kerastl; `exit_code` is what the command line ends with."""

    exit_code = 1


class UserError(KerastlError):
    """Something that the user passed or pointed to, and can mend."""

    exit_code = 2


class RecipeError(UserError):
    """One or more keys of a recipe are wrong; `problems` holds a line for each."""

    def __init__(self, problems: Iterable[str], origin: str = "recipe") -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{origin}: {count}\n{lines}")


class DataError(UserError):
    """The labelled data cannot be used as they are."""


class WeightsError(UserError):
    """A weights file is missing, or does not fit the network."""


class TrainingError(KerastlError):
    """Training went wrong, for example a loss that is not a number."""


class Interrupted(KerastlError):
    """The user stopped the work; what was kept, and how to go on, is in the message."""

    exit_code = 130


class ServingError(KerastlError):
    """A model server gave no answer."""


class ExportError(KerastlError):
    """A model could not be exported, or did not pass its check; nothing was published."""


def nearest(value: str, valid: Iterable[str]) -> str:
    """A hint ` Did you mean 'x'?` for the valid word closest to `value`, or an empty string.

    Example:
        >>> nearest("resnet5O", ["resnet50", "vgg16"])
        " Did you mean 'resnet50'?"
    """
    words = list(valid)
    matches = difflib.get_close_matches(value, words, n=1, cutoff=0.5)
    if not matches:
        matches = sorted((word for word in words if value and word.startswith(value)), key=len)[-1:]
    return f" Did you mean '{matches[0]}'?" if matches else ""
