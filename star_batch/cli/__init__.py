"""`star-batch`: read what was typed, call the package, print what came of it. Everything else lives below.

Opened without its commands, so that a program hears Ctrl-C before they are loaded.
"""

import sys
from typing import TYPE_CHECKING, Any

from star_batch.cli.program import as_program, do_without

if TYPE_CHECKING:
    import typer

    app: typer.Typer

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    as_program(_command)


def _command() -> None:
    from star_batch.cli.commands import PLACES, app_with, whole_app

    named = "".join(sys.argv[1:2])
    if PLACES.get(named) == PLACES["status"]:
        # pyarrow imports it, where it is installed, when an array is first made; what tells of outputs needs none.
        do_without("pandas")
    app = app_with([named]) if named in PLACES else whole_app()
    app(prog_name="star-batch")


def __getattr__(name: str) -> Any:
    if name == "app":
        from star_batch.cli.commands import whole_app

        return whole_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
