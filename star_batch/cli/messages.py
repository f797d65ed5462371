"""What the program says beside its results, on stderr: remarks, warnings and errors as log records.

In plain words or, for machines that read logs, as one JSON object per line. Knows no job and no command.
"""

import logging
import sys
import threading
import traceback
from typing import Literal, TypeAlias

from star_batch.cli import screen
from star_batch.errors import StarBatchError
from star_batch.logs import JsonLine, OneLine, json_lines
from star_batch.streams import Lines
from star_batch.wording import line, lines

logger = logging.getLogger("star_batch")

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
            screen.err.print(self.format(record), soft_wrap=True)
        except Exception:
            self.handleError(record)


def logs_json() -> bool:
    """Whether logs are JSON, and so nothing else is to be printed."""
    return any(isinstance(handler.formatter, JsonLine) for handler in logger.handlers)


def is_live() -> bool:
    """Whether somebody looks at a terminal and wants to."""
    return screen.err.is_interactive and not logs_json() and logger.isEnabledFor(logging.INFO)


def show_error(error: BaseException, code: int, *, verbose: bool) -> None:
    """Why a command ends with this exit code; with a traceback if that is asked for."""
    if logs_json():
        extra = {"error": type(error).__name__, "exit_code": code}
        logger.error("%s", _on_one_line(error), exc_info=error if verbose else None, extra=extra)
        return
    if verbose:
        show_traceback(error)
    screen.err.print("star-batch: " + "\n".join(map(line, _parts(error))), soft_wrap=True)


def show_traceback(error: BaseException) -> None:
    """Where an error came from, for those who mend it."""
    screen.err.print(lines("".join(traceback.format_exception(error)).rstrip("\n")), soft_wrap=True)


def _parts(error: BaseException) -> tuple[object, ...]:
    """The lines that it was made of: a line break within one of them came from outside."""
    return error.args if isinstance(error, StarBatchError) else (error,)


def _on_one_line(error: BaseException) -> str:
    first, *others = _parts(error) or ("",)
    return f"{first} {'; '.join(str(other).strip() for other in others)}".rstrip()
