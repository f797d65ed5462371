import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_batch.commit.digests import Digests, digest_ids, joined
from star_batch.commit.finalise import Expected
from star_batch.commit.history import Recorder
from star_batch.commit.snapshots import Epoch, newest, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import LeaseLost, OutputError
from star_batch.metrics import Summary
from star_batch.report.numbers import read_summary
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.commit.test_history import totals
from tests.pipeline.samples import complete

IDS = [f"row-{n:04d}" for n in range(4)]


WRONG = [b'"labels": 5', b'"stage_seconds": 5', b'"rows": "x"', b'"accuracy": NaN', b'"wall_seconds": 1e400']


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


@pytest.fixture
def epoch(output: Location) -> Epoch:
    return opened(output)


@pytest.fixture
def ids() -> Digests:
    return joined([digest_ids(IDS)])


def finish(output: Location, ids: Digests) -> Summary:
    return complete(output, Expected(ids=ids, epoch=newest(output), fingerprint=FINGERPRINT))


def test_a_complete_output(output: Location, epoch: Epoch, ids: Digests) -> None:
    commit_rows(epoch, answers(*IDS[:3], failed=1))
    commit_rows(epoch, answers(IDS[3]))
    commit_rows(epoch, answers(IDS[3]))  # an attempt that loses
    with Recorder(output=output, run=epoch.number, totals=totals):
        pass
    summary = finish(output, ids)
    assert (summary.rows, summary.answered, summary.failed) == (4, 3, 1)
    assert summary.failed_by_type == {"image_missing": 1}
    assert summary.images_per_second == 3 / summary.working_seconds
    assert summary.stage_seconds["fetch"] == 2.0
    assert summary.stage_seconds["write"] > 0.0
    assert output.at("_SUCCESS").exists()
    assert len(output.at("answers").files()) == 2
    assert sorted(pq.read_table(output.at("answers").path)["id"].to_pylist()) == IDS
    assert json.loads(output.at("_metrics", "summary.json").read_bytes())["rows"] == 4
    assert b"star_batch_output_rows" in output.at("_metrics", "metrics.prom").read_bytes()
    [interval] = pq.read_table(output.at("_metrics", "throughput.parquet").path).to_pylist()
    assert (interval["run"], interval["actor"], interval["start"], interval["end"]) == (1, "a", 0.0, 2.0)
    assert (interval["rows_answered"], interval["output_tokens"]) == (3, 15)


def test_it_can_be_repeated(output: Location, epoch: Epoch, ids: Digests) -> None:
    commit_rows(epoch, answers(*IDS))
    first = finish(output, ids)
    assert read_summary(output) == first
    assert finish(output, ids) == first


@pytest.mark.parametrize(
    ("commits", "words"),
    [
        ([IDS[:3]], "1 rows are missing"),
        ([], "4 rows are missing"),
        ([[*IDS, "x"]], "1 rows are not in the input"),
    ],
)
def test_a_result_that_does_not_match_is_no_success(
    output: Location, epoch: Epoch, ids: Digests, commits: list[list[str]], words: str
) -> None:
    for committed in commits:
        commit_rows(epoch, answers(*committed))
    with pytest.raises(OutputError, match=f"do not match the input's 4 rows: {words}"):
        finish(output, ids)
    assert not output.at("_SUCCESS").exists()


@pytest.mark.parametrize(
    "content",
    [
        *[None, b"{", b"{}", b'{"rows": 1, "mean_kept_tokens": []}', b"[" * 200_000],
        *[b'{"rows": 1, "answered": 1, "failed": 0, %s}' % wrong for wrong in WRONG],
    ],
)
def test_a_summary_that_cannot_be_read_is_none(output: Location, content: bytes | None) -> None:
    if content is not None:
        output.at("_metrics", "summary.json").write_bytes(content)
    assert read_summary(output) is None


def test_work_that_was_cut_again_in_another_way_counts_once(output: Location, epoch: Epoch, ids: Digests) -> None:
    """Nothing in this pipeline does it, but nothing else in it would notice."""
    commit_rows(epoch, answers(*IDS[:3], failed=2))
    commit_rows(epoch, answers(*IDS[1:]))
    assert read_snapshot(output).rows == 6
    with Recorder(output=output, run=epoch.number, totals=totals):
        pass
    summary = finish(output, ids)
    assert (summary.rows, summary.answered, summary.failed) == (4, 3, 1)
    table = pq.read_table(output.at("answers").path).sort_by("id")
    assert table["id"].to_pylist() == IDS
    assert table["error"].to_pylist() == ["bad", None, None, None]


def test_orphans_of_a_later_epoch_are_not_ours_to_delete(output: Location, epoch: Epoch, ids: Digests) -> None:
    commit_rows(epoch, answers(*IDS))
    ours = f"answers/{epoch.name}-{'0' * 32}-{'0' * 32}.parquet"
    theirs = f"answers/00000009-{'0' * 12}-{'0' * 32}-{'0' * 32}.parquet"
    for name in (ours, theirs):
        output.at(name).write_bytes(b"PAR1 and no more")
    finish(output, ids)
    assert not output.at(ours).exists()
    assert output.at(theirs).exists()


def test_a_file_of_somebody_else_among_the_answers_is_no_success(output: Location, epoch: Epoch, ids: Digests) -> None:
    commit_rows(epoch, answers(*IDS))
    output.at("answers", "mine.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match=r"mine\.parquet is not a file of this tool"):
        finish(output, ids)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "counts, and is not there"), (b"PAR1", "is damaged"), (b"other", "holds other rows")]
)
def test_a_part_that_is_not_what_its_marker_says(
    output: Location, epoch: Epoch, ids: Digests, content: bytes | None, words: str
) -> None:
    commit_rows(epoch, answers(*IDS))
    part = output.at(read_snapshot(output).commits[0].file)
    if content == b"other":
        commit_rows(epoch, answers("x"))
        content = next(output.at(c.file).read_bytes() for c in read_snapshot(output).commits if c.rows == 1)
        output.at(
            "_commits", next(n for n in output.at("_commits").files() if len(n) and _rows(output, n) == 1)
        ).delete()
    part.delete() if content is None else part.write_bytes(content)
    with pytest.raises(OutputError, match=words):
        finish(output, ids)
    assert not output.at("_SUCCESS").exists()


def _rows(output: Location, marker: str) -> int:
    return int(json.loads(output.at("_commits", marker).read_bytes())["rows"])


def test_another_run_has_come_in_between(output: Location, epoch: Epoch, ids: Digests) -> None:
    commit_rows(epoch, answers(*IDS))
    expected = Expected(ids=ids, epoch=epoch.number, fingerprint=FINGERPRINT)
    opened(output)
    with pytest.raises(LeaseLost):
        complete(output, expected)
    assert not output.at("_SUCCESS").exists()
