"""Standard streams that cost nobody a job: what cannot be shown is lost, and nothing else happens.

A reader that has gone (`| head`), a full disk, a terminal that was closed, a stream that was closed before the
start, a character that the terminal does not know. Knows no command.
"""

import contextlib
import io
import logging
import os
import re
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

_PATIENCE_SECONDS = 5.0


def protect() -> None:
    """Make stdout and stderr of this process such streams; to be called before any file is opened."""
    _open_what_is_closed()
    logging.raiseExceptions = False
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        # Somebody else's stream is his own.
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _lossy(stream, number))
            setattr(sys, f"__{name}__", getattr(sys, name))


def _open_what_is_closed() -> None:
    """Else the next file that is opened gets the number, and what is printed goes into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def _lossy(stream: TextIO | None, number: int) -> TextIO:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    is_live = number == 2 or os.isatty(number)
    buffer = io.BufferedWriter(_Lossy(number))
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=is_live)


class _Lossy(io.RawIOBase):
    """Takes whatever is written, and writes what it can. `name` and `mode` are what `print` and others look for."""

    mode = "wb"

    def __init__(self, number: int) -> None:
        self._number = number
        self.name = f"<{'stdout' if number == 1 else 'stderr'}>"

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        with contextlib.suppress(OSError):
            while left:
                left = left[self._written(left) :]
        return size

    def _written(self, data: memoryview) -> int:
        """Also where somebody has made the file one that does not wait."""
        try:
            return os.write(self._number, data)
        except BlockingIOError:
            return 0 if select.select([], [self._number], [], _PATIENCE_SECONDS)[1] else len(data)


class Lines(io.TextIOBase):
    """A stream whose lines, whoever prints them, become records; `stream` is what it stands before."""

    def __init__(self, stream: TextIO, tell: Callable[[str], None]) -> None:
        self.stream = stream
        self._tell = tell
        self._begun = ""

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = re.split("[\r\n]", self._begun + text)
        for line in filter(str.strip, lines):
            self._tell(line)
        return len(text)
