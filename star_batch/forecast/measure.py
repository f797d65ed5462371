"""A short run of the real engine on sampled rows, as full as a job would keep it. Knows no Ray and no price."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from star_batch.config import JobConfig
from star_batch.metrics import EngineStats
from star_batch.pipeline.backend import RecordEngine, load_engine
from star_batch.records import Answer, Picture, Record

_WINDOW = 8  # rows; small, so that the clock can be read often


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an engine did in `seconds` once it was warm; `answers` to the sampled rows, as far as it came.

    `load_seconds` went by before the first row.
    """

    rows_per_second: float
    seconds: float
    load_seconds: float
    answers: tuple[Answer, ...]
    stats: EngineStats


def measure(config: JobConfig, records: Sequence[Record], *, seconds: float) -> Measured:
    """Load the job's engine here and let it answer the records over and over for about `seconds`.

    Raises:
        ModelError: the checkpoint cannot be loaded here.
        ConfigError: the pruning does not fit it.
    """
    started = time.perf_counter()
    engine = load_engine(config)
    load_seconds = time.perf_counter() - started
    feed = _Feed(engine, config, records)
    try:
        feed.fill(_WINDOW)
        first = feed.take()  # alone, which warms everything up and tells how fast it goes at least
        pace = _WINDOW / first
        feed.fill(min(rows_in_flight(config), max(_WINDOW, int(pace * seconds))))
        feed.take()
        begun, before = time.perf_counter(), engine.stats()
        while time.perf_counter() - begun < seconds:
            feed.take()
        elapsed, done = time.perf_counter() - begun, engine.stats() - before
        feed.drain()
    finally:
        _close(engine)
    return Measured(
        rows_per_second=(done.rows_answered + done.rows_failed) / elapsed,
        seconds=elapsed,
        load_seconds=load_seconds,
        answers=tuple(feed.answers.values()),
        stats=done,
    )


def rows_in_flight(config: JobConfig) -> int:
    """As many as a job gives an engine at a time."""
    cluster = config.cluster
    return cluster.windows * min(cluster.rows_per_window, config.output.rows_per_file)


class _Feed:
    """Windows of the records, over and over, as many in flight as is asked for."""

    def __init__(self, engine: RecordEngine, config: JobConfig, records: Sequence[Record]) -> None:
        self.answers: dict[str, Answer] = {}
        self._engine = engine
        self._decoding = config.decoding
        self._windows = _windows(records)
        self._pending: deque[Future[list[Answer]]] = deque()
        self._num_wanted = 0

    def fill(self, num_rows: int) -> None:
        """From here on keep so many rows in flight."""
        self._num_wanted = max(1, num_rows // _WINDOW)
        while len(self._pending) < self._num_wanted:
            self._pending.append(self._engine.submit(next(self._windows), decoding=self._decoding))

    def take(self) -> float:
        """Wait for the oldest window and submit another; seconds that it took."""
        started = time.perf_counter()
        for answer in self._pending.popleft().result():
            self.answers.setdefault(answer.id, answer)
        seconds = time.perf_counter() - started
        self.fill(self._num_wanted * _WINDOW)
        return seconds

    def drain(self) -> None:
        while self._pending:
            self._pending.popleft().result()


def _windows(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Never the same picture again: an engine encodes equal ones in flight only once."""
    window: list[Record] = []
    for number in count():
        for record in records:
            window.append(replace(record, image=[_altered(image, number) for image in record.images]))
            if len(window) == _WINDOW:
                yield window
                window = []


def _altered(picture: object, number: int) -> Picture:
    assert isinstance(picture, Picture)
    views = picture.views.copy()
    views[0, 0, 0] ^= np.uint8(number % 256)
    return replace(picture, views=views)


def _close(engine: RecordEngine) -> None:
    """Engines of the pipeline's protocol live as long as their process; the real one need not."""
    if (close := getattr(engine, "close", None)) is not None:
        close()
