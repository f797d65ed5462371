"""The monitor as one small Ray actor, which collects what engine actors send and forget, and who hears of it."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from star_batch.metrics import EngineSnapshot, Progress
from star_batch.monitor.intervals import Monitor, Totals

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0


def start_monitor() -> Any:
    """A handle that can be sent to actors."""
    # Under memory pressure Ray kills this one, too. What actors report is their whole, so that a fresh one learns it.
    return ray.remote(num_cpus=0, max_restarts=-1)(Monitor).remote()


def read_totals(monitor: Any) -> Totals:
    """What the monitor knows; nothing if it is lost."""
    with contextlib.suppress(ray.exceptions.RayError):
        totals: Totals = ray.get(monitor.totals.remote(), timeout=_PATIENCE_SECONDS)
        return totals
    return Totals()


@dataclass(slots=True, kw_only=True)
class Reporter:
    """Tells somebody about once a second how far the job is, from a thread of its own, and once at its end."""

    monitor: Any
    on_progress: Callable[[Progress], None]
    before: int
    total: int
    _started: float = field(default_factory=time.monotonic)
    _finished: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Reporter":
        threading.Thread(target=self._poll, name="star-batch-progress", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finished.set()
        if kind is None:
            self._tell()

    def _poll(self) -> None:
        while not self._finished.wait(_POLL_SECONDS):
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            engines: EngineSnapshot = ray.get(self.monitor.snapshot.remote(), timeout=_PATIENCE_SECONDS)
            if not engines.stats.rows_answered + engines.stats.rows_failed:
                # The clock starts when the engines do: loading a model says nothing about the time that is left.
                self._started = time.monotonic()
            seconds = time.monotonic() - self._started
            self.on_progress(Progress.at(engines, seconds=seconds, before=self.before, total=self.total))
