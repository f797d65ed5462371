import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.errors import OutputError
from star_batch.metrics import EngineStats
from star_batch.pipeline.finalise import RunTotals, finalise, read_summary
from star_batch.pipeline.monitor import Monitor, Report
from star_batch.pipeline.output import OutputState, load_commits
from star_batch.pipeline.sink import commit_rows
from star_batch.pipeline.storage import Location
from tests.pipeline.test_sink import answers

IDS = [f"row-{n:04d}" for n in range(4)]


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


@pytest.fixture
def ids() -> pa.ChunkedArray:
    return pa.chunked_array([IDS[:2], IDS[2:]])


def run_totals(before: OutputState | None = None) -> RunTotals:
    monitor = Monitor()
    for second, done in [(0.0, 0), (2.0, 3)]:
        stats = EngineStats(rows_answered=done, output_tokens=5 * done)
        monitor.report(Report(actor="a", time=second, stats=stats, fetch_seconds=second))
    return RunTotals(before=before or OutputState(), totals=monitor.totals(), wall_seconds=2.0)


def test_a_complete_output(output: Location, ids: pa.ChunkedArray) -> None:
    commit_rows(output, answers(*IDS[:3], failed=1), "f")
    commit_rows(output, answers(IDS[3]), "f")
    commit_rows(output, answers(IDS[3]), "f")  # an attempt that loses
    summary = finalise(output, ids, run_totals())
    assert (summary.rows, summary.answered, summary.failed) == (4, 3, 1)
    assert summary.failed_by_type == {"image_missing": 1}
    assert summary.images_per_second == 1.5
    assert summary.stage_seconds["fetch"] == 2.0
    assert summary.stage_seconds["write"] > 0.0
    assert output.at("_SUCCESS").exists()
    assert len(output.at("answers").files()) == 2
    assert sorted(pq.read_table(output.at("answers").path)["id"].to_pylist()) == IDS
    assert json.loads(output.at("_metrics", "summary.json").read_bytes())["rows"] == 4
    assert b"star_batch_rows_total" in output.at("_metrics", "metrics.prom").read_bytes()
    [interval] = pq.read_table(output.at("_metrics", "throughput.parquet").path).to_pylist()
    assert (interval["actor"], interval["start"], interval["end"]) == ("a", 0.0, 2.0)
    assert (interval["rows_answered"], interval["output_tokens"]) == (3, 15)


def test_it_can_be_repeated(output: Location, ids: pa.ChunkedArray) -> None:
    commit_rows(output, answers(*IDS), "f")
    first = finalise(output, ids, run_totals())
    assert finalise(output, ids, run_totals()) == first
    assert read_summary(output) == first


def test_answers_of_an_earlier_run_count_in_no_rate(output: Location, ids: pa.ChunkedArray) -> None:
    commit_rows(output, answers(*IDS[:2]), "f")
    before = OutputState(commits=load_commits(output))
    commit_rows(output, answers(*IDS[2:]), "f")
    summary = finalise(output, ids, run_totals(before))
    assert summary.answered == 4
    assert summary.images_per_second == 1.0


@pytest.mark.parametrize(
    ("commits", "words"),
    [
        ([IDS[:3]], r"1 rows are missing \('row-0003'\)"),
        ([], "4 rows are missing"),
        ([IDS, IDS[:1]], r"1 ids stand in several parts \('row-0000'\)"),
        ([[*IDS, "x"]], r"1 ids are not in the input \('x'\)"),
    ],
)
def test_a_result_that_does_not_match_is_no_success(
    output: Location, ids: pa.ChunkedArray, commits: list[list[str]], words: str
) -> None:
    for committed in commits:
        commit_rows(output, answers(*committed), "f")
    with pytest.raises(OutputError, match=f"do not match the input's 4 rows: {words}"):
        finalise(output, ids, run_totals())
    assert not output.at("_SUCCESS").exists()


@pytest.mark.parametrize("content", [None, b"{", b"{}", b'{"rows": 1, "mean_kept_tokens": []}'])
def test_a_summary_that_cannot_be_read_is_none(output: Location, content: bytes | None) -> None:
    if content is not None:
        output.at("_metrics", "summary.json").write_bytes(content)
    assert read_summary(output) is None
