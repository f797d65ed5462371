"""What was mistyped, said in the form that was asked for, and without what it would do to a terminal.

Knows no command: it stands where options are read, before a command has any.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from star_batch.errors import ConfigError
from star_batch.terminal import set_up_logs, show_error
from star_batch.wording import printable

_FLAG = "--log-format"

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
    wants_json = _wants_json(tuple(args))
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, which has lines of its own
            raise
        if wants_json:
            set_up_logs("json")
            show_error(ConfigError(printable(error.format_message())), error.exit_code, verbose=False)
            raise typer.Exit(error.exit_code) from None
        error.message = printable(error.message)
        raise


def _wants_json(args: Sequence[str]) -> bool:
    """Read off the words, as options that cannot be read tell nothing."""
    apart = [value for flag, value in pairwise(args) if flag == _FLAG]
    joined = [word.partition("=")[2] for word in args if word.startswith(f"{_FLAG}=")]
    return ([os.environ.get("STAR_BATCH_LOG_FORMAT", ""), *apart, *joined])[-1] == "json"
