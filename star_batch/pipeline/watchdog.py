"""Ends a process whose engine hangs, so that a fresh one takes over. Knows no engine and no Ray.

Two clocks: a thread that sees whether anything moves and can say why it leaves; and, should that thread never
run again because something holds the interpreter, `faulthandler`'s, which needs no interpreter.
"""

import faulthandler
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_GRACE_SECONDS = 10.0
_LONGEST_NAP = 5.0
_STDERR = 2


@dataclass(slots=True, kw_only=True)
class Watchdog:
    """`progress` gives something that differs whenever a step was finished; `leave` is told why and never returns."""

    seconds: float
    progress: Callable[[], object]
    is_busy: Callable[[], bool]
    leave: Callable[[str], None]
    _last: object = None
    _moved: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="star-batch-watchdog", daemon=True).start()

    def _watch(self) -> None:
        while True:
            if self.is_stuck():
                faulthandler.cancel_dump_traceback_later()
                faulthandler.dump_traceback(_STDERR)
                self.leave(f"the engine finished nothing for {self.seconds:g} seconds")
            faulthandler.dump_traceback_later(self.seconds + _GRACE_SECONDS, exit=True, file=_STDERR)
            time.sleep(min(_LONGEST_NAP, self.seconds / 10))

    def is_stuck(self) -> bool:
        """Whether nothing has moved for too long while there was something to do."""
        seen, now = self.progress(), time.monotonic()
        if not self.is_busy() or seen != self._last:
            self._last, self._moved = seen, now
        return now - self._moved >= self.seconds
