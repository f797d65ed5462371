"""What was mistyped, said in the form that was asked for, and without what it would do to a terminal.

Knows no command: it stands where options are read, before a command has any.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from star_batch.cli.messages import set_up_logs, show_error
from star_batch.cli.program import wants_json
from star_batch.config import FORMER_FLAGS
from star_batch.errors import ConfigError
from star_batch.wording import printable

# Typer has its parser from elsewhere or brings one along, by version: the public name is a child of what is raised.
_UsageError: Any = typer.BadParameter.__bases__[0]


class Command(TyperCommand):
    """A command whose options are read so; one that takes `--set` knows the flags that it replaces."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        takes_settings = any("--set" in parameter.opts for parameter in self.params)
        with _said_plainly(args), _saying_what_replaces(args if takes_settings else ()):
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


@contextmanager
def _saying_what_replaces(args: Sequence[str]) -> Iterator[None]:
    former = _former(tuple(args))
    try:
        yield
    except _UsageError as error:
        if getattr(error, "option_name", None) not in former:
            raise
        typed, settings = zip(*former.values(), strict=True)
        raise _UsageError(f"{' '.join(typed)}: write {' '.join(settings)}", error.ctx) from None


def _former(args: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Flags that there were once: each as it was typed, and the `--set` that says the same."""
    found = {}
    for argument, following in zip_longest(args, args[1:], fillvalue=""):
        flag, equals, joined = argument.partition("=")
        if flag in FORMER_FLAGS:
            value = joined if equals else following
            typed = argument if equals else f"{flag} {following}".rstrip()
            found[flag] = (typed, f"--set {shlex.quote(f'{FORMER_FLAGS[flag]}={_as_yaml(flag, value)}')}")
    return found


_NUMBERS = ("--max-failed", "--metrics-port")


def _as_yaml(flag: str, value: str) -> str:
    """A text in quotes, where it would be read as something else."""
    from star_batch.job_file import read_value

    try:
        return value if flag in _NUMBERS or isinstance(read_value(value, flag), str) else json.dumps(value)
    except ConfigError:
        return json.dumps(value)
