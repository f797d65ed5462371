"""The commands: where each is, and what they have in common.

A command's module is imported when the command is there to be run or listed, and what computes only by the command
itself, so that `--help`, a mistyped option and `status` do not wait for torch and Ray.
"""

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Annotated

import typer

from star_batch import __version__
from star_batch.cli.exits import exit_codes, plainly
from star_batch.cli.usage import Command, Group

PLACES = {
    "init": "star_batch.cli.init",
    "run": "star_batch.cli.run",
    "plan": "star_batch.cli.plan",
    "status": "star_batch.cli.outputs",
    "verify": "star_batch.cli.outputs",
    "report": "star_batch.cli.outputs",
    "export": "star_batch.cli.export",
    "demo": "star_batch.cli.demo",
    "bench": "star_batch.cli.bench",
}
"""The module of each command: a function of its name there, or an `app` of several."""

_IN_SHORT = {
    "init": "Write a job's file for data that is there.",
    "plan": "What a job will be like, how long it takes and what it costs.",
    "status": "How far a job is, and who is at work on it.",
    "verify": "Check that an output holds every row exactly once.",
    "report": "Draw an output's report: one page that opens offline.",
    "export": "Write an output's answers as JSON Lines, CSV, WebDataset or a dataset.",
    "demo": "See it work, with a small model that comes along.",
    "bench": "Measure it: speed and accuracy, side by side.",
}


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"star-batch {__version__}")
        raise typer.Exit


def star_batch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a vision-language model one question per image, for as many images as you have.

    Records come from Parquet, images keep only the visual tokens that matter, and answers go back to
    Parquet with the numbers of the run. A job that was stopped goes on where it was.

    \b
    See it work, without a GPU and without downloading a model:
      star-batch demo
    \b
    Run a job:
      star-batch run job.yaml
    """


def app_with(names: Iterable[str]) -> typer.Typer:
    """The program with these commands alone."""
    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        epilog=exit_codes(),
    )
    app.callback()(star_batch)
    for name in names:
        module, short_help = importlib.import_module(PLACES[name]), _IN_SHORT.get(name)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, short_help=short_help)
        else:
            app.command(cls=Command, epilog=exit_codes(), short_help=short_help)(plainly(getattr(module, name)))
    return app


@cache
def whole_app() -> typer.Typer:
    """The program with all of its commands."""
    return app_with(PLACES)
