"""Between callers' threads and the engine's: windows of answers to fill, and what is handed in. Knows no model."""

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from star_batch.engine.sequence import Sequence
from star_batch.records import Answer


class Window:
    """The answers of one submission; its future is done when the last of them is there, or with an error."""

    def __init__(self, num_rows: int) -> None:
        self.future: Future[list[Answer]] = Future()
        self.future.set_running_or_notify_cancel()  # a cancel from outside must not surprise the engine's thread
        self._answers: list[Answer | None] = [None] * num_rows
        self._num_missing = num_rows
        self._lock = threading.Lock()
        if not num_rows:
            self.future.set_result([])

    def put(self, index: int, answer: Answer) -> None:
        """Fill in one row."""
        with self._lock:
            self._answers[index] = answer
            self._num_missing -= 1
            is_last = self._num_missing == 0
        if is_last:  # outside the lock: callbacks of the future run here
            self.future.set_result([answer for answer in self._answers if answer is not None])

    def fail(self, error: BaseException) -> None:
        """Give up on what is missing."""
        with self._lock:
            is_open, self._num_missing = self._num_missing > 0, -1
        if is_open:
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whose answer a sequence is."""

    window: Window
    index: int


Arrival: TypeAlias = tuple[Sequence, Ticket]


class RequestQueue:
    """Sequences on their way to the engine's thread, until it is closed."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[Arrival] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ending: BaseException | None = None

    def put(self, arrivals: list[Arrival]) -> None:
        """Hand in rows of one window; if the queue is closed, their window fails with the reason."""
        with self._lock:
            ending = self._ending
            if ending is None:
                self._queue.put(arrivals)
                return
        fail_all((ticket for _, ticket in arrivals), ending)

    def take(self, *, seconds: float = 0.0) -> list[Arrival] | None:
        """The oldest arrivals; empty if none are there within `seconds`; None once after the last ones."""
        try:
            return self._queue.get(block=seconds > 0.0, timeout=seconds)
        except queue.Empty:
            return []

    def close(self, ending: BaseException) -> None:
        """Refuse what comes from now on; what was handed in before stays."""
        with self._lock:
            if self._ending is None:
                self._queue.put(None)
            self._ending = ending

    def drain(self) -> list[Arrival]:
        """Everything that nobody will take any more."""
        left: list[Arrival] = []
        while (arrivals := self.take()) or arrivals is None:
            left += arrivals or []
        return left


def fail_all(tickets: Iterable[Ticket], error: BaseException) -> None:
    for ticket in tickets:
        ticket.window.fail(error)
