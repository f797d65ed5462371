"""Whether somebody wants the program to end: by Ctrl-C, by SIGTERM, or by closing its terminal.

A program listens from its first line on (`listen`). As long as there is nothing to clean up, being told is its
end, with one sentence; while it is `at_work` it is a `KeyboardInterrupt`, and what others swallow is found by
`look` after each phase; `held` keeps it back while somebody else's work must not be cut in two. A second wish ends
the program wherever it is. What is ignored (`nohup`) stays ignored.

Whoever uses the package as a library keeps its own handlers. Knows no job, and imports nothing that takes time.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130
SENTENCE = "interrupted; the same command goes on where it stopped"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_WISH_SECONDS = 0.5
"""Whoever tells a process and its group, as `timeout` does, means it once."""
_SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"


class _Ear:
    """The one handler, and what it has heard."""

    def __init__(self) -> None:
        self.is_program = False
        self.is_json = False
        self.stderr = 2
        self.asked: float | None = None
        self.num_at_work = 0
        self.num_held = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now, before = time.monotonic(), self.asked
        if before is not None and now - before < _ONE_WISH_SECONDS:
            return
        self.asked = now
        if self.is_program and (before is not None or not self.num_at_work):
            self.leave()
        if before is not None or not self.num_held:
            raise KeyboardInterrupt

    def leave(self) -> NoReturn:
        """Past whatever is on the stack: nothing there can swallow it, or hold it up."""
        said = _record() if self.is_json else f"star-batch: {SENTENCE}"
        with contextlib.suppress(OSError):
            cursor = _SHOW_CURSOR if os.isatty(self.stderr) else b""
            os.write(self.stderr, cursor + said.encode() + b"\n")
        os._exit(EXIT_CODE)


def _record() -> str:
    """Written by hand: a handler imports nothing."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    ends = f'"error": "Interrupted", "exit_code": {EXIT_CODE}, "job": null'
    return f'{{"level": "ERROR", "message": "{SENTENCE}", {ends}, "ts": "{now}"}}'


_ear = _Ear()


def listen(*, is_json: bool = False) -> None:
    """From here on this process is a program that can be told to end; the first thing that one does.

    Args:
        is_json: whether what goes to stderr is to be JSON.
    """
    _ear.is_program, _ear.is_json, _ear.asked = True, is_json, None
    with contextlib.suppress(OSError):
        _ear.stderr = os.dup(2)  # its own, as file 2 is closed to Ray while that starts
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ear)


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Inside the block there is something to clean up: being told to end is a `KeyboardInterrupt`, by SIGTERM, too.

    In a library that holds for SIGTERM only where nobody else handles it.
    """
    _ear.num_at_work += 1
    is_default = _is_main() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_default:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        _ear.num_at_work -= 1
        if is_default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def look() -> None:
    """Between two phases of the work.

    Raises:
        KeyboardInterrupt: the program was told to end, and something has swallowed it.
    """
    if _ear.is_program and _ear.asked is not None and _is_main():
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Being told to end waits for the end of the block; and all handlers are those of before, whoever set others."""
    if not _is_main():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler in (_ear, signal.default_int_handler)]
    _ear.asked = _ear.asked if _ear.is_program else None
    _ear.num_held += 1
    for number in ours:
        signal.signal(number, _ear)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        _ear.num_held -= 1
    if _ear.asked is not None and ours:
        raise KeyboardInterrupt


def _is_main() -> bool:
    """Only the main thread is told signals."""
    return threading.current_thread() is threading.main_thread()
