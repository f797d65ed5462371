"""A command as a program: told to end, it says so and ends; and what it shows is not what it does.

Imports nothing that takes time, as the first lines of a program are these.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence

from star_batch import interruption

LOG_FORMAT_VARIABLE = "STAR_BATCH_LOG_FORMAT"


def as_program(command: Callable[[], None]) -> None:
    """Run a command that imports what it needs, as all that this process does.

    Raises:
        SystemExit: with the command's exit code.
    """
    is_json = wants_json(sys.argv[1:])
    interruption.listen(is_json=is_json)
    from star_batch import streams

    streams.protect()
    if is_json:
        from star_batch.cli.messages import set_up_logs

        set_up_logs("json")
    try:
        command()
    except SystemExit as end:
        if end.code == interruption.EXIT_CODE:
            _leave()
        raise


def wants_json(arguments: Sequence[str]) -> bool:
    """Before anything is parsed: what is said about the arguments is to be JSON, too."""
    given = [value for name, value in itertools.pairwise(arguments) if name == "--log-format"]
    joined = [argument.partition("=")[2] for argument in arguments if argument.startswith("--log-format=")]
    return [*(given or joined), os.environ.get(LOG_FORMAT_VARIABLE, "")][0] == "json"


def do_without(module: str) -> None:
    """From here on it counts as not installed."""
    sys.meta_path.insert(0, _Hidden(module))


class _Hidden:
    """Finds nothing, and lets nobody else find it."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _leave() -> None:
    """At once: whoever is interrupted does not wait for threads of others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(interruption.EXIT_CODE)
