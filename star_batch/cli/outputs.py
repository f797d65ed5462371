"""`star-batch status`, `verify` and `report`: what an output holds, told from its folder alone."""

import logging
from collections.abc import Iterator
from typing import Annotated, Any, Protocol

import typer

from star_batch.cli.flags import Quiet, ResultsOnly, Tracebacks, text
from star_batch.cli.screen import show_line, show_numbers
from star_batch.errors import OutputError, PromiseBroken
from star_batch.wording import duration

logger = logging.getLogger(__name__)

Folder = Annotated[str, typer.Argument(metavar="OUT", help="The folder of answers, or the job's YAML file.")]


def status(out: Folder, verbose: Tracebacks = False, quiet: ResultsOnly = False) -> None:
    """How far a job is: rows done, failed and left, its pace, and which process is at work.

    Reads the output alone, from any machine, and disturbs nobody.
    """
    from star_batch.commit import audit

    _show_status(audit.status(place_of(out)[0]))


def verify(
    out: Folder,
    input: Annotated[list[str] | None, text("PATH", "The input, if it has moved; repeatable.")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Do not compare with the input's ids.")] = False,
    verbose: Tracebacks = False,
    quiet: Quiet = False,
) -> None:
    """Read every answer and check: each id of the input once, as an answer or with the reason why not.

    Exit code 0 says that it is so and that the job is finished, 8 that it is not.
    """
    from star_batch.commit import audit
    from star_batch.inputs.comparison import compare, recorded_input

    place, options = place_of(out)
    source = None if no_input else recorded_input(place, options)
    if source is not None and input:
        source = source.model_copy(update={"path": tuple(input)})
    verdict = audit.verify(place) if source is None else compare(place, source)
    compared = "without the input" if source is None else "each id of the input once"
    if not quiet:
        show_numbers((name, f"{getattr(verdict, name):,}", "") for name in ("rows", "answered", "failed"))
    if verdict.findings:
        raise PromiseBroken(f"{place.shown}: {'; '.join(verdict.findings)}")
    logger.info("verified: %s", compared)


def report(
    out: Folder,
    to: Annotated[str | None, typer.Option(metavar="FILE", help="Write the page here, not into the output.")] = None,
    verbose: Tracebacks = False,
    quiet: Quiet = False,
) -> None:
    """Draw OUT/report.html (again): what ran, the numbers, pictures with the tokens kept, failures.

    A job draws it when it ends. For one that is still at work, or has died, it shows what there is so far.

    \b
    A page to open here, of an output elsewhere:
      star-batch report s3://bucket/answers --to report.html
    """
    from star_batch.commit.layout import REPORT
    from star_batch.report.redraw import redraw
    from star_batch.storage.location import Location, failing_as

    place = place_of(out)[0]
    page = redraw(place)
    target = Location.of(to) if to is not None else place.at(REPORT)
    with failing_as(OutputError, "write the report", target):
        target.write_bytes(page)
    if not quiet:
        show_line(target.shown)


def place_of(folder_or_job: str) -> tuple[Any, dict[str, Any]]:
    """The output's place, and the options of the input's storage, where a job's file tells them."""
    from star_batch.storage.location import Location

    if not folder_or_job.endswith((".yaml", ".yml")):
        return Location.of(folder_or_job), {}
    from star_batch.config import load_config

    config = load_config(folder_or_job, {})
    return Location.of(config.output.path, config.output.storage_options), config.input.storage_options


class JobStatus(Protocol):
    """How far a job is that may run elsewhere; that of `commit.audit` is one."""

    @property
    def rows(self) -> int: ...
    @property
    def answered(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def left(self) -> int | None: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def state(self) -> str: ...
    @property
    def who(self) -> str: ...


def _show_status(status: JobStatus) -> None:
    """Rows done and left, and who is at work."""
    show_numbers(_status_rows(status))


def _status_rows(status: JobStatus) -> Iterator[tuple[str, str, str]]:
    yield "done", f"{status.rows:,}", "" if status.total is None else f"of {status.total:,}"
    yield "answered", f"{status.answered:,}", ""
    yield "failed", f"{status.failed:,}", ""
    if status.left is not None:
        is_on = status.state == "running" and status.left and status.rate
        yield "left", f"{status.left:,}", duration(status.left / status.rate) if is_on and status.rate else ""
    if status.rate is not None:
        yield "rows/s", f"{status.rate:,.1f}", "of the latest run"
    yield status.state, "", status.who
