import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from star_batch.commit.history import History, Recorder, read_history, without_pauses
from star_batch.commit.layout import RUNS
from star_batch.commit.snapshots import read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.metrics import EngineStats
from star_batch.monitor.intervals import THROUGHPUT_SCHEMA, Interval, Totals
from star_batch.storage.location import Location
from tests.commit.samples import answers, opened


def totals(answered: int = 3) -> Totals:
    stats = EngineStats(rows_answered=answered, output_tokens=5 * answered)
    interval = Interval(actor="a", start=0.0, end=2.0, stats=stats, fetch_seconds=2.0)
    return Totals(stats=stats, fetch_seconds=2.0, intervals=(interval,))


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def test_runs_add_up(output: Location) -> None:
    for run, answered in [(1, 3), (4, 2)]:
        with Recorder(output=output, run=run, totals=partial(totals, answered)):
            pass
    found = read_history(output, ())
    assert found.throughput["run"].to_pylist() == [1, 4]
    assert (found.stats.rows_answered, found.stats.output_tokens, found.fetch_seconds) == (5, 25, 4.0)
    assert found.wall_seconds > 0.0


def test_a_night_between_two_runs_is_cut_out_of_the_picture() -> None:
    times = [(1, 10.0, 12.0), (1, 11.0, 13.0), (4, 1000.0, 1002.0), (6, 5000.0, 5001.0)]
    table = pa.table(list(zip(*times, strict=True)), names=["run", "start", "end"])
    shown = without_pauses(table)
    assert shown["start"].to_pylist() == [10.0, 11.0, 13.0, 15.0]
    assert shown["end"].to_pylist() == [12.0, 13.0, 15.0, 16.0]
    assert without_pauses(THROUGHPUT_SCHEMA.empty_table()).num_rows == 0


def test_a_run_that_was_killed_was_at_work_until_its_last_commit(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file says nothing of its last seconds: rows that it answered then made the job look faster than it was."""
    clock = iter([100.0, 101.0])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))
        Recorder(output=output, run=1, totals=totals, _started=100.0)._write(totals())
    assert read_history(output, ()).wall_seconds == pytest.approx(0.0)
    commit_rows(opened(output), answers("x"))
    [commit] = read_snapshot(output).commits
    assert read_history(output, [commit]).wall_seconds == pytest.approx(commit.at - 100.0)


def test_who_is_interrupted_does_not_wait_for_numbers(output: Location) -> None:
    def slow() -> Totals:
        raise AssertionError("asked for numbers")

    with pytest.raises(KeyboardInterrupt), Recorder(output=output, run=1, totals=slow):
        raise KeyboardInterrupt
    assert read_history(output, ()).throughput.num_rows == 0


def test_a_damaged_file_costs_its_numbers_and_nothing_else(output: Location, caplog: pytest.LogCaptureFixture) -> None:
    with Recorder(output=output, run=2, totals=totals):
        pass
    output.at(RUNS, "00000001.parquet").write_bytes(b"no Parquet")
    assert read_history(output, ()).stats.rows_answered == 3
    assert "00000001.parquet is damaged" in caplog.text


def test_a_store_that_is_away_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with Recorder(output=Location.of(str(tmp_path / "out")), run=1, totals=totals):
        pass


def test_time_at_work_is_that_of_busy_intervals_however_many_engines_share_it() -> None:
    times = [(0.0, 2.0, 3), (1.0, 4.0, 1), (4.0, 9.0, 0), (100.0, 101.0, 2)]
    columns = dict.fromkeys(THROUGHPUT_SCHEMA.names, 0)
    rows = [{**columns, "actor": "a", "start": a, "end": b, "rows_answered": n} for a, b, n in times]
    history = History(throughput=pa.Table.from_pylist(rows, schema=THROUGHPUT_SCHEMA), wall_seconds=200.0)
    assert history.working_seconds == 5.0
    assert History(throughput=THROUGHPUT_SCHEMA.empty_table()).working_seconds == 0.0
