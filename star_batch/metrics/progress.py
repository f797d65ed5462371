"""Engines at one moment, and how far a job is. Knows no clock: seconds and rows are given. Knows no Ray."""

from collections import Counter
from dataclasses import dataclass, field

from star_batch.metrics.counters import EngineStats, Readings
from star_batch.wording import duration


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSnapshot:
    """One engine at one moment, or `engines` of them together; `errors` counts failed rows by `error_type`.

    `stats` and `errors` include rows that failed before they came to an engine.
    """

    engines: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    readings: Readings = field(default_factory=Readings)
    errors: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "EngineSnapshot") -> "EngineSnapshot":
        return EngineSnapshot(
            engines=self.engines + other.engines,
            stats=self.stats + other.stats,
            readings=self.readings + other.readings,
            errors=self.errors + other.errors,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. `rows_done` includes failed rows and what an earlier run had committed.

    `images_per_second` is 0 until the first row of this run is done; `engines` is what its engines have done.
    """

    rows_done: int
    rows_total: int
    failed: int
    images_per_second: float
    seconds_left: float | None
    engines: EngineSnapshot = field(default_factory=EngineSnapshot)

    @classmethod
    def at(cls, engines: EngineSnapshot, *, seconds: float, before: int, total: int) -> "Progress":
        """After `seconds` in which the engines' rows were added to those of `before`."""
        failed = engines.stats.rows_failed
        done = engines.stats.rows_answered + failed
        rate = done / seconds if seconds > 0 else 0.0
        return cls(
            rows_done=before + done,
            rows_total=total,
            failed=failed,
            images_per_second=rate,
            seconds_left=max(0, total - before - done) / rate if rate else None,
            engines=engines,
        )

    @property
    def shown(self) -> str:
        """`1,200 of 2,000 rows, 56.1 images/s, 3 failed, 14 s left`; before the first row, what it waits for."""
        if not self.images_per_second:
            return "starting Ray and loading the model"
        parts = [
            f"{self.rows_done:,} of {self.rows_total:,} rows",
            f"{self.images_per_second:,.1f} images/s",
            f"{self.failed:,} failed",
        ]
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)

    @property
    def rows_left(self) -> int:
        """Rows that were answered again after a crash are done twice, but no row is left twice."""
        return max(0, self.rows_total - self.rows_done)
