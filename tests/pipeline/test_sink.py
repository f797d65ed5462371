from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.commit.digests import digest_ids
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.snapshots import Epoch, Snapshot, next_epoch, open_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import LeaseLost, OutputError
from star_batch.pipeline.sink import AnswersSink, CommitPace
from star_batch.records import ANSWER_SCHEMA, Answer, to_table
from star_batch.storage.location import Location


def answers(*ids: str, failed: int = 0) -> pa.Table:
    made = [Answer(id=id, text="yes") for id in ids]
    made[:failed] = [Answer(id=id, error="bad", error_kind="image_missing") for id in ids[:failed]]
    return to_table(made, model="m", fingerprint="f")


FINGERPRINT = Fingerprint({"pruning.keep": 0.5, "model.dtype": "auto"})


def opened(output: Location, fingerprint: Fingerprint = FINGERPRINT) -> Epoch:
    """A new epoch in which everything that counted goes on to count."""
    seen = read_snapshot(output)
    epoch = next_epoch(output, seen, fingerprint)
    open_epoch(epoch, seen.commits, fingerprint)
    return epoch


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


@pytest.fixture
def epoch(output: Location) -> Epoch:
    return opened(output)


def parts(output: Location) -> list[str]:
    return output.at("answers").files()


def test_a_commit_is_a_part_and_a_marker(output: Location, epoch: Epoch) -> None:
    assert commit_rows(epoch, answers("a", "b", "c", failed=1))
    [commit] = read_snapshot(output).commits
    assert (commit.rows, commit.answered, commit.failed) == (3, 2, 1)
    assert (commit.ids, commit.fingerprint) == (digest_ids(["a", "b", "c"]), FINGERPRINT.digest)
    assert pq.read_table(output.at(commit.file).path).equals(answers("a", "b", "c", failed=1))


def test_of_two_attempts_one_wins_and_the_other_is_an_orphan(output: Location, epoch: Epoch) -> None:
    assert commit_rows(epoch, answers("a", "b"))
    assert not commit_rows(epoch, answers("b", "a"))
    assert len(read_snapshot(output).commits) == 1
    assert len(parts(output)) == 2


def test_a_lost_reply_is_understood(output: Location, epoch: Epoch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker was created, the reply was lost, the client tried again and was told that it is there."""
    create = Location.create

    def create_twice(self: Location, data: bytes) -> None:
        create(self, data)
        create(self, data)

    monkeypatch.setattr(Location, "create", create_twice)
    assert commit_rows(epoch, answers("a"))
    assert len(read_snapshot(output).commits) == 1


def test_ids_cannot_run_into_each_other(output: Location, epoch: Epoch) -> None:
    assert commit_rows(epoch, answers("a\nb"))
    assert commit_rows(epoch, answers("a", "b"))
    assert len(read_snapshot(output).commits) == 2


def test_a_death_before_the_marker_leaves_nothing_visible(
    output: Location, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Location, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Location, "create", die)
    with pytest.raises(KeyboardInterrupt):
        commit_rows(epoch, answers("a"))
    assert read_snapshot(output).commits == ()
    assert len(parts(output)) == 1


def test_a_write_task_makes_one_part_of_the_fixed_schema(output: Location, epoch: Epoch) -> None:
    schema = pa.schema([*ANSWER_SCHEMA, pa.field("kept", pa.large_string())])
    blocks = [t.append_column("kept", pa.array([None])) for t in (answers("a"), answers("b", failed=1))]
    AnswersSink(epoch, schema, 512).write(iter([*blocks, schema.empty_table()]), None)
    [part] = parts(output)
    assert pq.read_schema(output.at("answers", part).path).equals(schema)


def test_no_rows_make_no_part(output: Location, epoch: Epoch) -> None:
    AnswersSink(epoch, ANSWER_SCHEMA, 512).write(iter([ANSWER_SCHEMA.empty_table()]), None)
    AnswersSink(epoch, ANSWER_SCHEMA, 512).write(iter([]), None)
    assert parts(output) == []


def test_an_output_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    epoch = next_epoch(Location.of(str(tmp_path / "out")), Snapshot(number=-1), FINGERPRINT)
    with pytest.raises(OutputError, match="cannot write the output: Not a directory"):
        commit_rows(epoch, answers("a"))


def test_a_run_whose_records_were_deleted_stops_at_its_next_commit(output: Location, epoch: Epoch) -> None:
    commit_rows(epoch, answers("a"))
    output.at("_epochs", "00000001.parquet").delete()
    with pytest.raises(OutputError, match="somebody has deleted the records of this run from _epochs"):
        commit_rows(epoch, answers("b"))
    assert len(parts(output)) == 1


def test_nothing_of_an_epoch_that_is_over_becomes_visible(output: Location, epoch: Epoch) -> None:
    """A process of a run that everybody takes for dead was only slow."""
    commit_rows(epoch, answers("a"))
    later = opened(output)
    with pytest.raises(LeaseLost, match="another run has taken over"):
        commit_rows(epoch, answers("b"))
    commit_rows(later, answers("b"))
    assert [commit.rows for commit in read_snapshot(output).commits] == [1, 1]
    assert len(parts(output)) == 2


def test_a_part_that_arrives_after_the_end_is_taken_back(
    output: Location, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Location.write_bytes

    def write_late(self: Location, data: bytes) -> None:
        opened(output)
        write(self, data)

    monkeypatch.setattr(Location, "write_bytes", write_late)
    with pytest.raises(LeaseLost):
        commit_rows(epoch, answers("a"))
    assert parts(output) == []


def test_a_marker_that_arrives_after_the_end_is_read_by_nobody(
    output: Location, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Location.create

    def create_late(self: Location, data: bytes) -> None:
        monkeypatch.setattr(Location, "create", create)
        opened(output)
        create(self, data)

    monkeypatch.setattr(Location, "create", create_late)
    assert commit_rows(epoch, answers("a"))
    assert read_snapshot(output).commits == ()


@given(
    arrivals=st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(1, 64)), max_size=60),
    rows=st.integers(1, 300),
    seconds=st.floats(0.1, 60.0),
)
def test_what_waits_is_less_than_a_file_and_was_quickly_made(
    arrivals: list[tuple[float, int]], rows: int, seconds: float
) -> None:
    """However slow and fast take turns."""
    pace, now, waiting, work = CommitPace(rows=rows, seconds=seconds, last=0.0), 0.0, 0, 0.0
    for passed, answered in arrivals:
        now += passed
        if not pace.is_slow(answered, now):
            waiting, work = waiting + answered, work + passed
        if waiting >= rows:
            waiting, work = 0, 0.0
        assert work <= seconds + 1e-6


def test_a_slow_model_does_not_wait_for_a_full_file_and_a_fast_one_does() -> None:
    pace = CommitPace(rows=512, seconds=60.0, last=100.0)
    assert [pace.is_slow(64, now) for now in (102.0, 109.0, 129.0, 136.0, 3600.0)] == [False, False, True, False, True]
