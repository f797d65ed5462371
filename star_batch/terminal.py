"""What a person sees of a job: a live line while it runs, tables when it is done. Knows no job and no command.

Results go to stdout, everything else to stderr: remarks, warnings and errors as log records, in plain words or,
for machines that read logs, as one JSON object per line. Whatever is shown goes through here, and here texts from
outside are never read as markup, break no line and bring no control characters. What cannot be shown is lost, and
nothing else: no function here raises for it.
"""

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal, Protocol, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from star_batch.errors import StarBatchError
from star_batch.logs import JsonLine, OneLine, json_lines
from star_batch.metrics import ONE_QUESTION, Summary
from star_batch.metrics import Progress as JobProgress
from star_batch.streams import Lines
from star_batch.wording import duration, line, lines, percent, printable


class Screen(Console):
    """A console that loses what it cannot show: a stream that is closed, a width that leaves no room."""

    def print(self, *objects: Any, **how: Any) -> None:
        with contextlib.suppress(Exception):
            super().print(*objects, **how)


out = Screen(markup=False, emoji=False, highlight=False)
err = Screen(markup=False, emoji=False, highlight=False, stderr=True)
logger = logging.getLogger("star_batch")

PLAIN_INTERVAL_SECONDS = 10.0

MAX_CONFUSED = 10
"""Labels up to which their table is shown; `summary.json` has it for any number."""

_LONGEST_NAME = 80
"""Characters of a label or a file's name that stands among others."""

LogFormat: TypeAlias = Literal["text", "json"]


def set_up_logs(log_format: LogFormat = "text", *, quiet: bool = False, job: str | None = None) -> None:
    """What the package logs goes to stderr: in text above the live line, in JSON with the job's name."""
    if isinstance(sys.stderr, Lines):
        sys.stderr = sys.stderr.stream
    handler: logging.Handler = _TerminalHandler()
    handler.setFormatter(OneLine())
    sys.excepthook, threading.excepthook = (lambda *error: show_traceback(error[1])), threading.__excepthook__
    if log_format == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(json_lines(job))
        _all_as_json()
    logger.handlers = [handler]
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


def _all_as_json() -> None:
    """Whoever else speaks on stderr (libraries, warnings, an error that nobody caught) does so in records, too."""
    sys.excepthook = lambda *error: logger.critical("a bug; please report it", exc_info=error)
    threading.excepthook = lambda args: logger.error("a thread failed", exc_info=args.exc_value)
    sys.stderr = Lines(sys.stderr, lambda line: logger.warning("%s", line))


class _TerminalHandler(logging.Handler):
    """Prints above the live line, and wraps no line, so that it can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            err.print(self.format(record), soft_wrap=True)
        except Exception:
            self.handleError(record)


def logs_json() -> bool:
    """Whether logs are JSON, and so nothing else is to be printed."""
    return any(isinstance(handler.formatter, JsonLine) for handler in logger.handlers)


def _is_live() -> bool:
    """Whether somebody looks at a terminal and wants to."""
    return err.is_interactive and not logs_json() and logger.isEnabledFor(logging.INFO)


def show_error(error: BaseException, code: int, *, verbose: bool) -> None:
    """Why a command ends with this exit code; with a traceback if that is asked for."""
    if logs_json():
        extra = {"error": type(error).__name__, "exit_code": code}
        logger.error("%s", _on_one_line(error), exc_info=error if verbose else None, extra=extra)
        return
    if verbose:
        show_traceback(error)
    err.print("star-batch: " + "\n".join(map(line, _parts(error))), soft_wrap=True)


def show_traceback(error: BaseException) -> None:
    """Where an error came from, for those who mend it."""
    err.print(lines("".join(traceback.format_exception(error)).rstrip("\n")), soft_wrap=True)


def _parts(error: BaseException) -> tuple[object, ...]:
    """The lines that it was made of: a line break within one of them came from outside."""
    return error.args if isinstance(error, StarBatchError) else (error,)


def _on_one_line(error: BaseException) -> str:
    first, *others = _parts(error) or ("",)
    return f"{first} {'; '.join(str(other).strip() for other in others)}".rstrip()


class JobStatus(Protocol):
    """How far a job is that may run elsewhere; the pipeline's `Status` is one."""

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


OnProgress = Callable[[JobProgress], None]


@contextmanager
def live_progress() -> Iterator[OnProgress]:
    """A callback that keeps one line up to date on a terminal and logs now and then elsewhere.

    The callback may come from any thread. Before it comes, the job is only checked, and may be refused.
    """
    if not _is_live():
        yield _Log()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=None))
    with Progress(*columns, console=err, transient=True, expand=True) as bar:
        task = bar.add_task("checking the job", total=None)

        def update(progress: JobProgress) -> None:
            total = progress.rows_total if progress.images_per_second else None
            bar.update(task, total=total, completed=progress.rows_done, description=describe(progress))

        yield update


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says what takes a while: a spinner on a terminal, a line elsewhere."""
    if not _is_live():
        logger.info("%s", what)
        yield
        return
    with err.status(Text(line(what))):
        yield


class _Log:
    """A line when the job starts, and one every ten seconds from its first row on."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, progress: JobProgress) -> None:
        now, has_rows = monotonic(), progress.images_per_second > 0
        if self._last is None or (has_rows and now - self._last >= PLAIN_INTERVAL_SECONDS):
            self._last = now
            logger.info("%s", describe(progress), extra=_numbers(progress))


def _numbers(progress: JobProgress) -> dict[str, float | None]:
    names = ("rows_done", "rows_total", "failed", "images_per_second", "seconds_left")
    return {name: getattr(progress, name) for name in names}


def describe(progress: JobProgress) -> str:
    """`1,200 of 2,000 rows, 56.1 images/s, 3 failed, 14 s left`; before the first row, what it waits for."""
    if not progress.images_per_second:
        return "starting Ray and loading the model"
    parts = [
        f"{progress.rows_done:,} of {progress.rows_total:,} rows",
        f"{progress.images_per_second:,.1f} images/s",
        f"{progress.failed:,} failed",
    ]
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)


def show_summary(summary: Summary) -> None:
    """The numbers of a finished job; where there are few labels, how they go with the references."""
    show_numbers(_summary_rows(summary))
    for question, table in summary.confusion.items():
        labels = sorted({*table, *(label for row in table.values() for label in row)})
        if len(labels) <= MAX_CONFUSED:
            _show_confusion(question, labels, table)


def _show_confusion(question: str, labels: Sequence[str], table: Mapping[str, Mapping[str, int]]) -> None:
    title = "reference" if question == ONE_QUESTION else f"{_name(question)}: reference"
    out.print(f"\nRows by {title} (down) and label (across)", style="bold", soft_wrap=True)
    shown = [[name, *(f"{row.get(label, 0):,}" for label in labels)] for name, row in table.items()]
    show_table(["", *labels], shown)


def _name(text: str) -> str:
    """One among several on a line."""
    return printable(text, _LONGEST_NAME)


def show_status(status: JobStatus) -> None:
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


def show_numbers(rows: Iterable[tuple[str, str, str]]) -> None:
    """Names, numbers and what there is to say about them."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, note in rows:
        table.add_row(_name(name), printable(value), line(note))
    out.print(table)


def _summary_rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    yield "rows", f"{summary.rows:,}", ""
    yield "answered", f"{summary.answered:,}", _counts(summary.labels)
    yield "failed", f"{summary.failed:,}", _counts(summary.failed_by_type)
    if summary.accuracy is not None:
        note = f"of {summary.num_references:,} references; a failed row counts as wrong"
        yield "accuracy", percent(summary.accuracy), note
    for question, share in summary.agreement.items():
        about = "labels" if question == ONE_QUESTION else f"{_name(question)}: labels"
        yield "agreement", percent(share), f"{about} that are the reference"
    yield "images/s", f"{summary.images_per_second:,.1f}", f"in {duration(summary.wall_seconds)}"
    if summary.mean_visual_tokens is not None:
        yield "visual tokens", f"{summary.mean_visual_tokens:,.0f}", _kept(summary)
    yield "tokens/s", f"{summary.input_tokens_per_second:,.0f}", "into the language model"
    yield "", f"{summary.output_tokens_per_second:,.0f}", "generated"
    if busy := {stage: seconds for stage, seconds in summary.stage_seconds.items() if seconds >= 0.05}:
        stages = sorted(busy, key=lambda stage: -busy[stage])
        yield (
            "busy",
            duration(sum(busy.values())),
            ", ".join(f"{stage.replace('_', ' ')} {duration(busy[stage])}" for stage in stages),
        )


def _kept(summary: Summary) -> str:
    kept = ", then ".join(f"{mean:,.0f}" for mean in summary.mean_kept_tokens)
    mean = "" if summary.mean_layer_tokens is None else f"; {summary.mean_layer_tokens:,.1f} per layer"
    return f"per image, of which kept {kept}{mean}" if kept else "per image"


def _counts(counts: dict[str, int], most: int = 8) -> str:
    shown = [f"{_name(name)} {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, "..."] if len(counts) > most else shown)


def show_list(title: str, entries: Sequence[tuple[str, str]]) -> None:
    """A heading and its lines, none of them wrapped, so that a path can be copied."""
    if not entries:
        return
    named = [(_name(name), text) for name, text in entries]
    width = max(len(name) for name, _ in named)
    out.print()
    show_line(title, style="bold")
    for name, text in named:
        show_line(f"  {name:{width}}  {text}")


def show_line(text: object, style: str | None = None) -> None:
    """A line of results, not wrapped, so that a path can be copied."""
    out.print(line(text), style=style, soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column reads from the left, numbers from the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(_name(name), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_name, row))
    out.print(table)
