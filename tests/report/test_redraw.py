"""A report is drawn from the store alone, at any time; one that cannot be drawn costs no job anything."""

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.finalise import Expected
from star_batch.commit.history import Recorder
from star_batch.commit.layout import begin
from star_batch.commit.unit import commit_rows
from star_batch.errors import OutputError
from star_batch.report import publish
from star_batch.report.redraw import redraw
from star_batch.report.samples import Sampler
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.commit.test_history import totals
from tests.pipeline.samples import complete
from tests.report.test_samples import row

IDS = [f"row-{n:04d}" for n in range(4)]


@pytest.fixture
def output(tmp_path: Path) -> Location:
    """Three of four rows are committed."""
    place = Location.of(str(tmp_path / "out"))
    commit_rows(opened(place), answers(*IDS[:3], failed=1))
    begin(place, {"num_input_rows": 4, "config": {"model": {"name": "the model"}}})
    Sampler.of(place, FINGERPRINT.digest, num_samples=4, num_rows=4).keep([row(IDS[1])])
    return place


def finish(output: Location) -> None:
    with Recorder(output=output, run=2, totals=totals):
        commit_rows(opened(output), answers(IDS[3]))
    complete(output, Expected(ids=joined([digest_ids(IDS)]), epoch=2, fingerprint=FINGERPRINT))


def test_a_job_that_has_stopped_shows_what_there_is(output: Location) -> None:
    page = redraw(output).decode()
    for shown in ("stopped", "2 of 3 rows answered, 1 failed", "the model", IDS[1], "image_missing", "Rows per second"):
        assert shown in page


def test_a_finished_job_is_drawn_again_as_it_was(output: Location) -> None:
    finish(output)
    drawn = output.at("report.html").read_bytes()
    assert b"3 of 4 rows answered, 1 failed" in drawn
    assert redraw(output) == drawn


def test_without_its_numbers_it_is_drawn_from_its_rows(output: Location) -> None:
    finish(output)
    output.at("_metrics", "summary.json").delete()
    output.at("_metrics", "throughput.parquet").delete()
    assert b"3 of 4 rows answered, 1 failed" in redraw(output)


def test_where_no_job_has_begun_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no job has begun there"):
        redraw(Location.of(str(tmp_path)))


def test_a_report_that_cannot_be_drawn_costs_nothing_else(
    output: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: object) -> str:
        raise ZeroDivisionError("a plot of nothing")

    monkeypatch.setattr(publish, "render", fail)
    with caplog.at_level(logging.WARNING, logger="star_batch"):
        finish(output)
    assert output.at("_SUCCESS").exists()
    assert not output.at("report.html").exists()
    assert "the report was not written: ZeroDivisionError: a plot of nothing" in caplog.text


def without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def holding(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array([value] * table.num_rows))


@pytest.mark.parametrize(
    "change",
    [
        *[without("run"), without("start"), holding("run", None), holding("start", "x")],
        *[holding("end", value) for value in (None, float("nan"), float("inf"))],
    ],
)
@pytest.mark.parametrize("file", ["_metrics/throughput.parquet", "_runs/00000002.parquet"])
def test_numbers_that_cannot_be_true_are_left_out(
    output: Location, change: Callable[[pa.Table], pa.Table], file: str
) -> None:
    finish(output)
    place = output.at(file).path
    pq.write_table(change(pq.read_table(place)), place)
    assert b"3 of 4 rows answered, 1 failed" in redraw(output)
    output.at("_metrics", "summary.json").delete()
    assert b"3 of 4 rows answered, 1 failed" in redraw(output)
