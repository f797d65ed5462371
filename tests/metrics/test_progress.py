"""How far a job is, from what its engines have done."""

from star_batch.metrics import EngineSnapshot, EngineStats, Progress


def done(answered: int, failed: int = 0) -> EngineSnapshot:
    return EngineSnapshot(engines=1, stats=EngineStats(rows_answered=answered, rows_failed=failed))


def test_progress_tells_the_time_that_is_left() -> None:
    progress = Progress.at(done(45, failed=5), seconds=10.0, before=100, total=200)
    assert (progress.rows_done, progress.rows_total, progress.failed) == (150, 200, 5)
    assert (progress.images_per_second, progress.seconds_left, progress.rows_left) == (5.0, 10.0, 50)


def test_progress_before_the_first_row() -> None:
    assert Progress.at(EngineSnapshot(), seconds=0.0, before=0, total=200).seconds_left is None


def test_rows_that_were_answered_twice_leave_no_less_than_nothing() -> None:
    progress = Progress.at(done(120), seconds=10.0, before=100, total=200)
    assert (progress.rows_left, progress.seconds_left) == (0, 0.0)
