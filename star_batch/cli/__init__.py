"""`star-batch`: read what was typed, call the package, print what came of it. Everything else lives below.

Opened without its commands, so that a program hears Ctrl-C before they are loaded.
"""

from typing import TYPE_CHECKING, Any

from star_batch.cli.program import as_program

if TYPE_CHECKING:
    from star_batch.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    as_program(_command)


def _command() -> None:
    from star_batch.cli.commands import app

    app(prog_name="star-batch")


def __getattr__(name: str) -> Any:
    if name == "app":
        from star_batch.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
