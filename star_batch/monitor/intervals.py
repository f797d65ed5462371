"""Counts while the job runs: who answered how much in which interval. Knows no Ray and no storage."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace

import pyarrow as pa

from star_batch.metrics import EngineSnapshot, EngineStats, Readings

_SILENCE_SECONDS = 15.0  # several reports
MAX_INTERVALS = 511
"""Of one actor; odd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What one actor has done since it started; `time` is its clock, in seconds since 1970."""

    actor: str
    time: float
    stats: EngineStats
    fetch_seconds: float
    readings: Readings = field(default_factory=Readings)
    errors: Counter[str] = field(default_factory=Counter)

    def snapshot(self, *, is_up: bool = True) -> EngineSnapshot:
        readings = self.readings if is_up else self.readings.at_the_end()
        return EngineSnapshot(engines=int(is_up), stats=self.stats, readings=readings, errors=self.errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What one actor did between two reports."""

    actor: str
    start: float
    end: float
    stats: EngineStats
    fetch_seconds: float

    def joined(self, later: "Interval") -> "Interval":
        return replace(
            self,
            end=later.end,
            stats=self.stats + later.stats,
            fetch_seconds=self.fetch_seconds + later.fetch_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all actors, and their intervals."""

    stats: EngineStats = field(default_factory=EngineStats)
    fetch_seconds: float = 0.0
    intervals: tuple[Interval, ...] = ()

    def to_table(self, run: int) -> pa.Table:
        """One row per actor and interval: throughput.parquet."""
        rows = [
            {
                "run": run,
                "actor": interval.actor,
                "start": interval.start,
                "end": interval.end,
                "fetch_seconds": interval.fetch_seconds,
                **asdict(interval.stats),
            }
            for interval in self.intervals
        ]
        return pa.Table.from_pylist(rows, schema=THROUGHPUT_SCHEMA)


THROUGHPUT_SCHEMA = pa.schema(
    [
        ("run", pa.int64()),
        ("actor", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("fetch_seconds", pa.float64()),
        *((f.name, pa.float64() if f.type in (float, "float") else pa.int64()) for f in fields(EngineStats)),
    ]
)


class Monitor:
    """Adds reports up. It may be lost at any time: then the counts are, too, and nothing else."""

    def __init__(self) -> None:
        self._latest: dict[str, EngineReport] = {}
        self._heard: dict[str, float] = {}
        self._intervals: dict[str, list[Interval]] = {}
        self._shortest: dict[str, float] = {}

    def report(self, report: EngineReport) -> None:
        before = self._latest.get(report.actor)
        if before is not None:
            self._add(
                Interval(
                    actor=report.actor,
                    start=before.time,
                    end=report.time,
                    stats=report.stats - before.stats,
                    fetch_seconds=report.fetch_seconds - before.fetch_seconds,
                )
            )
        self._latest[report.actor] = report
        self._heard[report.actor] = time.monotonic()

    def _add(self, interval: Interval) -> None:
        """Kept as it came until there are many of an actor; from then on it has half as many, twice as long."""
        mine = self._intervals.setdefault(interval.actor, [])
        shortest = self._shortest.get(interval.actor, 0.0)
        if mine and mine[-1].end - mine[-1].start < shortest:
            mine[-1] = mine[-1].joined(interval)
        else:
            mine.append(interval)
        if len(mine) > MAX_INTERVALS:
            mine[:] = [first.joined(second) for first, second in zip(mine[::2], mine[1::2], strict=True)]
            self._shortest[interval.actor] = (mine[-1].end - mine[0].start) / len(mine)

    def totals(self) -> Totals:
        return Totals(
            stats=sum((report.stats for report in self._latest.values()), EngineStats()),
            fetch_seconds=sum(report.fetch_seconds for report in self._latest.values()),
            intervals=tuple(interval for mine in self._intervals.values() for interval in mine),
        )

    def snapshot(self) -> EngineSnapshot:
        """All engines together; one that was not heard of for a while is not up any more."""
        oldest = time.monotonic() - _SILENCE_SECONDS
        reports = [(report, self._heard[actor] >= oldest) for actor, report in self._latest.items()]
        return sum((report.snapshot(is_up=is_up) for report, is_up in reports), EngineSnapshot())
