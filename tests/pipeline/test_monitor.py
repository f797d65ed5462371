import pytest

from star_batch.metrics import EngineStats
from star_batch.pipeline.monitor import THROUGHPUT_SCHEMA, Monitor, Progress, Report, Totals


def report(actor: str, time: float, answered: int, failed: int = 0) -> Report:
    stats = EngineStats(rows_answered=answered, rows_failed=failed, vision_seconds=time)
    return Report(actor=actor, time=time, stats=stats, fetch_seconds=time / 2)


def test_intervals_are_differences_and_totals_are_sums() -> None:
    monitor = Monitor()
    for said in [report("a", 1.0, 0), report("b", 1.0, 0), report("a", 3.0, 10), report("a", 4.0, 15, failed=2)]:
        monitor.report(said)
    totals = monitor.totals()
    assert monitor.counts() == (15, 2)
    assert totals.fetch_seconds == 2.5
    assert [(i.actor, i.start, i.end, i.stats.rows_answered) for i in totals.intervals] == [
        ("a", 1.0, 3.0, 10),
        ("a", 3.0, 4.0, 5),
    ]
    table = totals.to_table()
    assert table.schema == THROUGHPUT_SCHEMA
    assert table["vision_seconds"].to_pylist() == [2.0, 1.0]


def test_no_reports_make_an_empty_table() -> None:
    assert Totals().to_table().num_rows == 0


def test_progress_tells_the_time_that_is_left() -> None:
    progress = Progress.at(seconds=10.0, done=50, failed=5, before=100, total=200)
    assert (progress.rows_done, progress.rows_total, progress.failed) == (150, 200, 5)
    assert progress.images_per_second == pytest.approx(5.0)
    assert progress.seconds_left == pytest.approx(10.0)


def test_progress_before_the_first_row() -> None:
    assert Progress.at(seconds=0.0, done=0, failed=0, before=0, total=200).seconds_left is None
