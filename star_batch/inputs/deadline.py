"""Work that may never come back, piece by piece at the same time, each with its own time; the others go on.

A thread that waits for a mount whose server is gone cannot be stopped. It is left behind, another takes its place, and
neither the end of the work nor the end of the process waits for it. Knows no row.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

S = TypeVar("S")
R = TypeVar("R")

Again: TypeAlias = Callable[[], None]
"""Says that a piece of work is tried once more: its time starts anew."""

_THREADS = 16
# Left behind in this process. So many are no bad file, but a machine in trouble.
_MOST_STUCK = 1024


@dataclass(frozen=True, slots=True)
class Late:
    """Instead of a result: `why` it is not there."""

    why: str


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class _Stuck:
    """How many threads are left behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.number = 0

    def add(self, change: int) -> None:
        with self._lock:
            self.number += change


_stuck = _Stuck()


def each_within(work: Callable[[S, Again], R], items: Sequence[S], seconds: float) -> list[R | Late]:
    """What `work` makes of each item, in their order. What it raises is raised here."""
    return _Team(work, items, seconds).results() if items else []


class _Team(Generic[S, R]):
    """Threads that take items off one queue; the caller's thread watches the clocks."""

    def __init__(self, work: Callable[[S, Again], R], items: Sequence[S], seconds: float) -> None:
        self._work = work
        self._num_items = len(items)
        self._seconds = seconds
        self._waiting = deque(enumerate(items))
        self._began: dict[int, float] = {}
        self._found: dict[int, R | Late | _Raised] = {}
        self._changed = threading.Condition()

    def results(self) -> list[R | Late]:
        with self._changed:
            for _ in range(min(_THREADS, self._num_items)):
                self._hire()
            while len(self._found) < self._num_items:
                self._changed.wait(self._patience())
                self._give_up()
            # A thread that is left behind holds on to this object, and should not to what was read.
            found, self._found = self._found, {}
        return [_result(found[number]) for number in range(self._num_items)]

    def _hire(self) -> None:
        threading.Thread(target=self._serve, name="star_batch_read", daemon=True).start()

    def _serve(self) -> None:
        while (taken := self._take()) is not None:
            number, item = taken
            found: R | _Raised
            try:
                found = self._work(item, functools.partial(self._start, number))
            except BaseException as error:
                found = _Raised(error)
            if not self._hand_in(number, found):
                return

    def _take(self) -> tuple[int, S] | None:
        with self._changed:
            if not self._waiting:
                return None
            number, item = self._waiting.popleft()
            self._began[number] = time.monotonic()
            self._changed.notify()  # one more clock to watch
            return number, item

    def _start(self, number: int) -> None:
        with self._changed:
            if number in self._began:
                self._began[number] = time.monotonic()

    def _hand_in(self, number: int, found: R | _Raised) -> bool:
        """Whether somebody still waits for it; another thread does the rest if not."""
        with self._changed:
            if self._began.pop(number, None) is None:
                _stuck.add(-1)
                return False
            self._found[number] = found
            self._changed.notify()
            return True

    def _patience(self) -> float | None:
        """Until the next one may be late."""
        if not self._began:
            return None
        return max(0.0, min(self._began.values()) + self._seconds - time.monotonic())

    def _give_up(self) -> None:
        latest = time.monotonic() - self._seconds
        for number in [number for number, began in self._began.items() if began <= latest]:
            del self._began[number]
            self._found[number] = Late(f"not there within {self._seconds:g} seconds")
            _stuck.add(1)
            if self._waiting and _stuck.number < _MOST_STUCK:
                self._hire()
        if not self._began and self._waiting and _stuck.number >= _MOST_STUCK:
            self._found |= {number: Late(f"not tried: {_stuck.number:,} others hang") for number, _ in self._waiting}
            self._waiting.clear()


def _result(found: R | Late | _Raised) -> R | Late:
    if isinstance(found, _Raised):
        raise found.error
    return found
