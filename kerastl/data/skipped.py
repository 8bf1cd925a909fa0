"""Files that are left out while indexing, and the warnings about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from kerastl.data.examples import listed
from kerastl.modality.image.files import is_hidden, suffix_of

_SKIPPED_LINES = 1_000
_KINDS_AT_MOST = 6


class SkippedNames:
    """Files that were left out while indexing; bounded, as a folder may hold a million stray files.

    Args:
        lost_suffixes: of files that are lost examples, in lower case.
    """

    def __init__(self, lost_suffixes: Set[str] = frozenset()) -> None:
        self._lost_suffixes = lost_suffixes
        self._lines: list[str] = []
        self._unlisted = 0
        self._kinds: dict[str, Counter[str]] = {}
        self.picture_count = 0
        self.hidden_count = 0
        self._hidden_folders: list[str] = []

    def add(self, name: str, reason: str, kind: str | None = None) -> None:
        """Remember that `name` was left out, and why.

        Args:
            name: of a file, folder, row or split.
            reason: in a few words.
            kind: what is counted where many are left out for like reasons; the reason itself without it.
        """
        self._kinds.setdefault(kind or reason, Counter())[_kind_of(name)] += 1
        self.picture_count += suffix_of(name) in self._lost_suffixes
        if len(self._lines) < _SKIPPED_LINES:
            self._lines.append(f"{printable(name)}: {reason}")
        else:
            self._unlisted += 1

    def add_hidden(self, name: str, is_folder: bool) -> None:
        """Count what file managers leave behind; a folder is named, as a class may be called .net."""
        self.hidden_count += 1
        if is_folder:
            self._hidden_folders.append(printable(name))

    def add_if_hidden(self, name: str, is_folder: bool) -> bool:
        """Do so with a name that is hidden; False for others."""
        if is_hidden(name):
            self.add_hidden(name, is_folder)
        return is_hidden(name)

    def lines(self) -> tuple[str, ...]:
        """One line for each, and a last one for those that were only counted."""
        if not self._unlisted:
            return tuple(self._lines)
        return (*self._lines, f"{self._unlisted:,} more: left out as well, not listed")

    def warnings(self) -> tuple[str, ...]:
        """A summary for the user in few lines: counts by reason and kind."""
        lines = []
        for reason, kinds in self._kinds.items():
            count = sum(kinds.values())
            parts = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common(_KINDS_AT_MOST))
            more = ", ..." if len(kinds) > _KINDS_AT_MOST else ""
            lines.append(f"{count:,} left out ({reason}): {parts}{more}. data.json of a run lists them.")
        if self.hidden_count:
            folders = f"; folders: {listed(self._hidden_folders)}" if self._hidden_folders else ""
            lines.append(
                f"{self.hidden_count:,} left out: hidden files and those that file managers leave behind{folders}."
            )
        return tuple(lines)


def _kind_of(name: str) -> str:
    """The kind that a name is counted as: its suffix, or a folder."""
    if name.endswith("/"):
        return f"folder {printable(name)}"
    suffix = suffix_of(name)
    return f".{suffix}" if suffix.isalnum() and suffix.isascii() else "without a suffix"


def printable(name: str) -> str:
    """A file name that any terminal and any UTF-8 file can take."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
