"""What was mistyped, said in the form that was asked for, and without what it would do to a terminal.

Knows no command: it stands where options are read, before a command has any.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from star_batch.cli.program import wants_json
from star_batch.errors import ConfigError
from star_batch.terminal import set_up_logs, show_error
from star_batch.wording import printable

# Typer has its parser from elsewhere or brings one along, by version: the public name is a child of what is raised.
_UsageError: Any = typer.BadParameter.__bases__[0]


class Command(TyperCommand):
    """A command whose options are read so."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        with _said_plainly(args):
            return super().make_context(info_name, args, *rest, **extra)


class Group(TyperGroup):
    """The command of commands."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        with _said_plainly(args):
            return super().make_context(info_name, args, *rest, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        with _said_plainly(args):
            return super().resolve_command(ctx, args)


@contextmanager
def _said_plainly(args: Sequence[str]) -> Iterator[None]:
    is_json = wants_json(tuple(args))  # a parser takes its words away
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, which has lines of its own
            raise
        if is_json:
            set_up_logs("json")
            show_error(ConfigError(printable(error.format_message())), error.exit_code, verbose=False)
            raise typer.Exit(error.exit_code) from None
        error.message = printable(error.message)
        raise
