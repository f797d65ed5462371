"""Seconds of each stage, without making host or device wait for the other. Knows no model.

On CUDA the marks are events on the stream, read once the device has passed them; elsewhere the wall clock.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from star_batch.metrics import EngineStats


class _Lap(NamedTuple):
    stage: str
    outer: str | None
    is_over: Callable[[], bool]
    seconds: Callable[[], float]


class Stopwatch:
    """Adds seconds to fields of `stats`; what a stage inside another took is counted there alone."""

    def __init__(self, stats: EngineStats, device: torch.device) -> None:
        self._stats = stats
        self._lap = _lap_on_device if device.type == "cuda" else _lap_on_host
        self._laps: deque[_Lap] = deque()
        self._stage: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is inside under the field `name`."""
        outer, self._stage = self._stage, name
        end = self._lap(name, outer)
        try:
            yield
        finally:
            self._laps.append(end())
            self._stage = outer
        self.settle()

    def settle(self) -> None:
        """Count the stages that the device has finished."""
        while self._laps and self._laps[0].is_over():
            stage, outer, _, seconds = self._laps.popleft()
            self._add(stage, seconds())
            if outer is not None:
                self._add(outer, -seconds())

    def _add(self, stage: str, seconds: float) -> None:
        setattr(self._stats, stage, getattr(self._stats, stage) + seconds)


def _lap_on_host(stage: str, outer: str | None) -> Callable[[], _Lap]:
    start = time.perf_counter()

    def end() -> _Lap:
        seconds = time.perf_counter() - start
        return _Lap(stage, outer, lambda: True, lambda: seconds)

    return end


def _lap_on_device(stage: str, outer: str | None) -> Callable[[], _Lap]:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()

    def end() -> _Lap:
        last.record()
        return _Lap(stage, outer, last.query, lambda: first.elapsed_time(last) / 1000)

    return end
