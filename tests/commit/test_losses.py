"""Parts that somebody has deleted or cut: their rows are answered again, and nothing else is."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from star_batch.commit.audit import status, verify
from star_batch.commit.digests import digest_ids
from star_batch.commit.losses import loss_words, read_checked
from star_batch.commit.markers import Commit
from star_batch.commit.snapshots import next_epoch as following
from star_batch.commit.snapshots import open_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import ClusterError
from star_batch.inputs.comparison import compare
from star_batch.pipeline.job import run
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import job, rows, write
from tests.pipeline.test_crashes import ROWS, UNIT, Bench

HARMS: dict[str, Callable[[Location], None]] = {
    "gone": Location.delete,
    "empty": lambda part: part.write_bytes(b""),
    "cut": lambda part: part.write_bytes(part.read_bytes()[:-100]),
}


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def committed(output: Location) -> tuple[Commit, ...]:
    """Two parts that a snapshot names, and one of the epoch at work."""
    commit_rows(opened(output), answers("a", "b"))
    commit_rows(opened(output), answers("c"))
    commit_rows(opened(output), answers("d"))
    assert read_checked(output) == read_snapshot(output)
    return read_snapshot(output).commits


@pytest.mark.parametrize("has_size", [True, False])
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [0, 2])
def test_a_part_that_is_not_whole_is_lost(output: Location, harm: str, number: int, has_size: bool) -> None:
    commits = committed(output)
    if not has_size:  # as markers were once
        for marker in output.at("_commits").files():
            values = json.loads(output.at("_commits", marker).read_bytes())
            del values["size"]
            output.at("_commits", marker).write_bytes(json.dumps(values).encode())
        seen = read_snapshot(output)
        kept = [replace(commit, size=None) for commit in seen.commits]
        open_epoch(following(output, seen, FINGERPRINT), kept, FINGERPRINT)
        commits = read_snapshot(output).commits
    HARMS[harm](output.at(commits[number].file))
    seen = read_checked(output)
    assert seen.lost == (commits[number],)
    assert seen.commits == tuple(commit for commit in commits if commit != commits[number])
    assert not seen.is_complete
    assert loss_words(seen) == f"1 part with {commits[number].rows} rows gone or cut ({commits[number].file})"


def test_lost_parts_of_the_snapshot_do_not_shift_what_is_recent(output: Location) -> None:
    commits = committed(output)
    output.at(commits[0].file).delete()
    assert read_checked(output).recent == read_snapshot(output).recent == commits[2:]


def test_a_part_that_was_written_again_by_another_tool_is_not_lost(output: Location) -> None:
    [commit, *_] = committed(output)
    path = output.at(commit.file).path
    pq.write_table(pq.read_table(path), path, compression="none")
    assert os.path.getsize(path) != commit.size
    assert read_checked(output).lost == ()


def test_verify_names_the_cure_and_status_does_not_call_it_complete(
    output: Location, caplog: pytest.LogCaptureFixture
) -> None:
    [first, *_] = committed(output)
    output.at("_SUCCESS").write_bytes(opened(output).name.encode())
    assert status(output).is_complete
    output.at(first.file).delete()
    findings = verify(output, None).findings
    assert f"{output.at(first.file).shown} counts, and is not there: run the same command again" in findings[0]
    found = status(output)
    assert (found.state, found.rows) == ("stopped", 2)
    assert "1 part with 2 rows gone or cut" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("harm", HARMS)
def test_a_job_answers_lost_rows_again_and_no_others(tmp_path: Path, harm: str) -> None:
    """Once everything was computed, the run ended with 5, and so did every further one."""
    bench = Bench(tmp_path, str(tmp_path / "out"))
    assert bench.run() == 0
    HARMS[harm](bench.output.at(read_snapshot(bench.output).commits[1].file))
    assert bench.run() == 0
    bench.check()
    assert bench.answered().total() == ROWS + UNIT
    assert bench.run() == 0
    assert bench.answered().total() == ROWS + UNIT
    assert status(bench.output).is_complete


@pytest.mark.faults
def test_lost_rows_that_are_not_in_the_input_any_more_are_no_dead_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, str(tmp_path / "out"))
    assert bench.run() == 0
    last = digest_ids([f"row-{ROWS - 1:04d}"])
    [lost] = [commit for commit in read_snapshot(bench.output).commits if last in commit.ids]
    write(tmp_path / "in.parquet", rows(ROWS - UNIT))
    vanished = bench.config.model_copy(update={"input": bench.config.input.model_copy(update={"vanished": "keep"})})
    bench.output.at(lost.file).delete()
    assert bench.run(config=vanished) == 0
    assert compare(bench.output, vanished.input).rows == ROWS - UNIT
    assert compare(bench.output, vanished.input).findings == ()


@pytest.mark.faults
def test_nothing_of_an_output_is_touched_where_there_is_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`overwrite` cleared first, and then found nobody at the cluster's address."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # it is the other tests'
    bench = Bench(tmp_path, str(tmp_path / "out"))
    assert bench.run() == 0

    def contents() -> dict[str, bytes]:
        names = [name for name in bench.output.files() if not name.startswith("_lease.")]
        return {name: bench.output.at(name).read_bytes() for name in names}

    before = contents()
    output = {"overwrite": True, "rows_per_file": UNIT}
    config = job(tmp_path / "in.parquet", tmp_path / "out", output=output, cluster={"address": "127.0.0.1:9"})
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9"):
        run(config, backend=FAKE)
    assert contents() == before
    assert status(bench.output).is_complete
