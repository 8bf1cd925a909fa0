"""The command line: find the command, run it, and turn whatever goes wrong into one message and an exit code.

A command is a module of this package whose function has the module's name (`lr-range`: `lr_range`); it is
imported when it is asked for. Exit codes: 0 done, 1 something went wrong, 2 something that the user can mend, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn, cast

import click

from kerastl import __version__
from kerastl.cli.helping import Group
from kerastl.cli.options import Invocation, debug_option
from kerastl.errors import Interrupted, KerastlError, nearest

COMMANDS = (
    "fit",
    "tune",
    "plan",
    "rank",
    "lr-range",
    "evaluate",
    "predict",
    "export",
    "benchmark",
    "backbones",
    "datasets",
    "models",
    "cache",
    "check",
)
STOPPED = Interrupted.exit_code
EXAMPLES = (
    ("kerastl fit digits", "the shipped demo"),
    ("kerastl fit texts", "the shipped demo of texts"),
    ("kerastl fit --data photos --backbone resnet50", "one folder a class"),
    ("kerastl predict runs/RUN picture.jpg", "ask the model that came out"),
)


class Commands(Group):
    """The group whose commands are imported one at a time."""

    def format_help_text(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what it is for, and examples."""
        super().format_help_text(context, formatter)
        with formatter.section("Examples"):
            formatter.write_dl(EXAMPLES, col_max=50)

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        if name in COMMANDS and name not in self.commands:
            module = name.replace("-", "_")
            command = getattr(importlib.import_module(f"kerastl.cli.{module}"), module)
            self.add_command(cast(click.Command, command), name)
        return super().get_command(context, name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names.

        Raises:
            click.UsageError: there is none; the message names the nearest.
        """
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = nearest(args[0], COMMANDS)
            context.fail(f"Unknown command '{args[0]}'.{hint} Expected one of: {', '.join(COMMANDS)}.")
        return super().resolve_command(context, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Transfer a pretrained network to your labelled images or texts."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and end the process with its exit code.

    Args:
        arguments: the words after `kerastl`; those of the process without them.
    """
    invocation = Invocation()
    _heed_sigterm(invocation)
    # Names of files need not be Unicode, and a terminal may know few signs: nothing of that ends a command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(arguments, prog_name="kerastl", standalone_mode=False, obj=invocation)
    except BaseException as error:
        if isinstance(error, SystemExit):  # click ends so when nobody reads stdout any more
            raise
        if invocation.debug and not isinstance(error, (click.ClickException, click.Abort)):
            raise
        code, message = explain(error)
        if invocation.terminated and code == STOPPED:
            code, message = 128 + signal.SIGTERM, message.replace("stopped by Ctrl-C", "stopped by SIGTERM")
        sys.stderr.write(message)
    sys.exit(code if isinstance(code, int) else 0)


def _heed_sigterm(invocation: Invocation) -> None:
    """Let SIGTERM, which batch systems send before they take a machine away, stop the work as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        invocation.terminated = True
        raise KeyboardInterrupt

    # Python sets handlers in its main thread alone, and who had it ignored meant that.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, stop)


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for what ended a command."""
    if isinstance(error, click.UsageError):
        context = error.ctx
        how = f"Try '{context.command_path} --help'.\n" if context else ""
        return 2, f"error: {error.format_message()}\n{how}"
    if isinstance(error, click.ClickException):
        return error.exit_code, f"error: {error.format_message()}\n"
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return STOPPED, "\nstopped by Ctrl-C\n"
    if isinstance(error, KerastlError):
        return error.exit_code, f"error: {error}\n"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return (
            2,
            f"error: No space left on the device{where}. Free some, or choose another disk, and run again.\n",
        )
    if isinstance(error, OSError) and error.filename and error.errno is not None:
        return 2, f"error: {error.filename}: {os.strerror(error.errno)}.\n"
    # TensorFlow's own is known by its name: to import it takes seconds.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return 1, (
            "error: Out of memory. Lower finetune_phase.batch_size or backbone.image_size, or unfreeze less "
            "(finetune_phase.unfreeze_from); `kerastl plan` shows all three.\n"
        )
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return 1, (
        f"error: {type(error).__name__}: {first_line}\n"
        "This is a fault in kerastl, or in what it stands on; run again with --debug to see where.\n"
    )
