"""A script of `jobs/`: the options of `run`, the job's file also by its name, and one more look at the job."""

from collections.abc import Callable

import typer

from star_batch.cli.exits import exit_codes, plainly
from star_batch.cli.program import as_program
from star_batch.cli.run import run
from star_batch.cli.usage import Command
from star_batch.config import JobConfig


def run_script(prepare: Callable[[JobConfig], JobConfig]) -> None:
    """Run what is typed, as `prepare` checks and completes it; its docstring is what `--help` says."""
    script = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    script.command(cls=Command, help=prepare.__doc__, epilog=exit_codes(), no_args_is_help=True)(plainly(run))
    as_program(lambda: script(obj=prepare))
