from collections import Counter

import pytest

from star_batch.metrics import EngineStats, Readings
from star_batch.monitor.intervals import MAX_INTERVALS, THROUGHPUT_SCHEMA, EngineReport, Monitor, Totals


def report(actor: str, time: float, answered: int, failed: int = 0) -> EngineReport:
    stats = EngineStats(rows_answered=answered, rows_failed=failed, vision_seconds=time)
    return EngineReport(actor=actor, time=time, stats=stats, fetch_seconds=time / 2)


def test_intervals_are_differences_and_totals_are_sums() -> None:
    monitor = Monitor()
    for said in [report("a", 1.0, 0), report("b", 1.0, 0), report("a", 3.0, 10), report("a", 4.0, 15, failed=2)]:
        monitor.report(said)
    totals = monitor.totals()
    assert totals.fetch_seconds == 2.5
    assert [(i.actor, i.start, i.end, i.stats.rows_answered) for i in totals.intervals] == [
        ("a", 1.0, 3.0, 10),
        ("a", 3.0, 4.0, 5),
    ]
    table = totals.to_table(run=7)
    assert table.schema == THROUGHPUT_SCHEMA
    assert table["vision_seconds"].to_pylist() == [2.0, 1.0]
    assert table["fetch_seconds"].to_pylist() == [1.0, 0.5]
    assert set(table["run"].to_pylist()) == {7}


def test_a_long_job_has_longer_intervals_and_loses_nothing() -> None:
    """A row per actor and two seconds: a night on sixty-four machines took a gigabyte."""
    monitor = Monitor()
    for second in range(0, 5000):
        monitor.report(report("a", float(second), second))
    intervals = monitor.totals().intervals
    assert MAX_INTERVALS / 4 < len(intervals) <= MAX_INTERVALS
    assert sum(i.stats.rows_answered for i in intervals) == 4999
    assert [i.start for i in intervals[1:]] == [i.end for i in intervals[:-1]]
    lengths = {i.end - i.start for i in intervals[:-1]}
    assert max(lengths) <= 3 * min(lengths)


def test_no_reports_make_an_empty_table() -> None:
    assert Totals().to_table(run=7).num_rows == 0


def test_a_snapshot_adds_engines_up_and_one_that_is_silent_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows and errors stay counted; the rows that waited in it are somebody else's by now."""
    now = [100.0]
    monkeypatch.setattr("star_batch.pipeline.reporter.time.monotonic", lambda: now[0])
    monitor = Monitor()
    for actor, heard in (("lost", 100.0), ("new", 110.0)):
        now[0] = heard
        readings = Readings(rows_waiting=4, idle_seconds=1.0)
        stats = EngineStats(rows_answered=10, rows_failed=1)
        errors = Counter(image_missing=1)
        monitor.report(
            EngineReport(actor=actor, time=0.0, stats=stats, fetch_seconds=0.0, readings=readings, errors=errors)
        )
    assert (monitor.snapshot().engines, monitor.snapshot().readings.rows_waiting) == (2, 8)
    now[0] = 120.0
    seen = monitor.snapshot()
    assert (seen.engines, seen.readings.rows_waiting, seen.readings.idle_seconds) == (1, 4, 2.0)
    assert (seen.stats.rows_answered, seen.errors) == (20, Counter(image_missing=2))
