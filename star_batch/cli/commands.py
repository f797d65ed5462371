"""The commands: a file each, and what they have in common.

What computes is imported by the command that needs it, so that `--help` and a mistyped option do not wait for
torch and Ray.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from star_batch import __version__
from star_batch.bench.command import Modes, bench_group
from star_batch.cli import demo, outputs, plan, run
from star_batch.cli.exits import exit_codes, plainly
from star_batch.cli.usage import Command, Group

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=exit_codes(),
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"star-batch {__version__}")
        raise typer.Exit


@app.callback()
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


def _add(command: Callable[..., None], short_help: str | None = None) -> None:
    app.command(cls=Command, epilog=exit_codes(), short_help=short_help)(plainly(command))


_add(run.run)
_add(plan.plan, "What a job will be like, how long it takes and what it costs.")
_add(outputs.status, "How far a job is, and who is at work on it.")
_add(outputs.verify, "Check that an output holds every row exactly once.")
_add(outputs.report, "Draw an output's report: one page that opens offline.")
_add(demo.demo, "See it work, with a small model that comes along.")


class _BenchModes(Group, Modes):
    """The commands of `bench`, heard as all others are."""


_bench = bench_group(group=_BenchModes, command=Command, wrapped=plainly, epilog=exit_codes())
app.add_typer(_bench, name="bench", short_help="Measure it: speed and accuracy, side by side.")
