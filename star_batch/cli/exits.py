"""How a command ends: in plain words and with an exit code for everything that goes wrong on purpose."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from star_batch.cli.messages import set_up_logs, show_error
from star_batch.errors import (
    ClusterError,
    ConfigError,
    InputError,
    Interrupted,
    LeaseHeld,
    ModelError,
    OutputError,
    PromiseBroken,
    StarBatchError,
    TooManyFailed,
)
from star_batch.home import caches_elsewhere
from star_batch.interruption import SENTENCE

EXIT_CODES: dict[type[StarBatchError], str] = {
    ConfigError: "an option or the job's file is wrong; nothing was started",
    ModelError: "the model cannot be loaded, or its family is not supported",
    InputError: "the input cannot be read",
    OutputError: "the output cannot be written, or holds another job's answers",
    ClusterError: "Ray cannot be reached, or failed",
    LeaseHeld: "another run is at work on the output, or has taken over",
    PromiseBroken: "verify: the output does not hold every row exactly once",
    TooManyFailed: "more rows failed than faults.max_failed allows",
    Interrupted: SENTENCE,
}


def exit_codes() -> str:
    """The table of exit codes, as it stands below every help text."""
    lines = [f"  {kind.exit_code:>3}  {meaning}" for kind, meaning in EXIT_CODES.items()]
    first = ["    0  done; rows that failed say why in the answers", "    1  a bug; please report it"]
    return "\n".join(["\b", "Exit codes:", *first, *lines])


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, heard as its options say, and its errors said in plain words."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        set_up_logs(given.get("log_format", "text"), quiet=given.get("quiet", False))
        os.environ.update(caches_elsewhere(os.environ))  # before any library looks where its files lie
        with _plain_errors(verbose=given.get("verbose", False)):
            command(**given)

    return wrapped


@contextmanager
def _plain_errors(verbose: bool) -> Iterator[None]:
    """What goes wrong on purpose is said in plain words; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(Interrupted(SENTENCE), verbose)
    except StarBatchError as error:
        _fail(error, verbose)


def _fail(error: StarBatchError, verbose: bool) -> NoReturn:
    show_error(error, error.exit_code, verbose=verbose)
    raise typer.Exit(error.exit_code)
