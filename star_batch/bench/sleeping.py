"""Engines that only sleep, as long as a GPU would take, and note when: what the real pipeline is tried out with.

Knows no measurement, and no model but its image size.
"""

import functools
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from pathlib import Path
from typing import NamedTuple

from star_batch.bench.shapes import SHAPES
from star_batch.bench.subject import shape_preprocessor
from star_batch.commit.fingerprint import Generation
from star_batch.config import JobConfig, Model
from star_batch.metrics import EngineStats, Readings
from star_batch.models import Preprocessor
from star_batch.options import Decoding
from star_batch.pipeline.backend import Backend
from star_batch.records import Answer, Record

_SHAPE = SHAPES["llava-1.5-7b"]
_LATE_SECONDS = 0.02  # waking up; more than this is waiting


class Turn(NamedTuple):
    """A window that an engine answered: seconds of a clock that all processes share, and its rows."""

    start: float
    end: float
    rows: int


class SleepingEngine:
    """Answers windows one after the other, `rate` rows per second, and does nothing else but note them in `file`."""

    def __init__(self, rate: float, file: Path) -> None:
        self._rate = rate
        self._file = file
        self._stats = EngineStats()
        self._requests: queue.SimpleQueue[tuple[Sequence[Record], Future[list[Answer]]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="star-batch-sleeping", daemon=True).start()

    def submit(self, records: Sequence[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]:
        future: Future[list[Answer]] = Future()
        self._requests.put((records, future))
        return future

    def stats(self) -> EngineStats:
        return copy(self._stats)

    def readings(self) -> Readings:
        return Readings()

    def _run(self) -> None:
        free = 0.0
        while True:
            records, future = self._requests.get()
            # Counted on from when the last window was due, so that waking up late does not add up.
            start = free if time.monotonic() - free < _LATE_SECONDS else time.monotonic()
            free = start + len(records) / self._rate
            time.sleep(max(0.0, free - time.monotonic()))
            self._stats += EngineStats(rows_answered=len(records))
            with self._file.open("a", encoding="ascii") as file:
                file.write(f"{start} {free} {len(records)}\n")
            future.set_result([Answer(id=record.id, text="", finish_reason="stop") for record in records])


def load_sleeping(config: JobConfig, rate: float, folder: str) -> SleepingEngine:
    return SleepingEngine(rate, Path(folder) / f"{os.getpid()}.txt")


@functools.cache
def load_preprocessor(model: Model) -> Preprocessor:
    """The image size of LLaVA-1.5; once per process."""
    return shape_preprocessor(_SHAPE)


def identify(config: JobConfig) -> Mapping[str, str]:
    return {"name": config.model.name}


def sleeping_backend(rate: float, folder: str) -> Backend:
    """Engines of `rate` rows/s, each with a file of its turns in `folder`."""
    engine = functools.partial(load_sleeping, rate=rate, folder=folder)
    return Backend(engine=engine, preprocessor=load_preprocessor, identify=identify, generation=lambda _: Generation())


def read_turns(file: Path) -> list[Turn]:
    lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    return [Turn(float(start), float(end), int(rows)) for start, end, rows in lines]
