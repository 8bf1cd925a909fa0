"""Layout of `--help`: whole descriptions, at any width of the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import click

from kerastl.wording import wrapped

# Below, words and what they mean no longer have room beside each other.
ENOUGH_COLUMNS = 60
NARROW_INDENT = 4


class Formatter(click.HelpFormatter):
    """Click's own, which never writes less than 50 columns wide, for terminals that are narrower as well."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        columns = min(shutil.get_terminal_size().columns, max_width or 80)
        super().__init__(indent_increment, width or max(columns - 2, 20), max_width)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write words with what they mean beside them; below them where there is little room."""
        if self.width >= ENOUGH_COLUMNS:
            super().write_dl(list(rows), col_max, col_spacing)
            return
        for word, meaning in rows:
            start = " " * self.current_indent
            below = start + " " * NARROW_INDENT
            for line in [
                *wrapped(start + word, self.width),
                *wrapped(below + meaning, self.width, len(below)),
            ]:
                self.write(f"{line}\n")


class Context(click.Context):
    """A context whose help is written by `Formatter`."""

    formatter_class = Formatter


class Group(click.Group):
    """A group that describes each of its commands by a whole sentence, which click would cut."""

    context_class = Context

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        command = super().get_command(context, name)
        if command is not None:
            command.context_class = Context
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the commands and the first sentences of their help."""
        commands = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1000)) for name, command in commands if command]
            )
