from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_batch.commit.digests import digest_ids
from star_batch.commit.snapshots import Epoch, Snapshot, next_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened


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


def test_a_rivals_marker_that_is_gone_means_that_the_epoch_is_over(
    output: Location, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(self: Location, data: bytes) -> None:
        raise FileExistsError(self.path)  # and a later run tidies it up here

    monkeypatch.setattr(Location, "create", too_late)
    with pytest.raises(LeaseLost, match="is gone: another run has taken over"):
        commit_rows(epoch, answers("a"))


def test_a_rivals_marker_that_is_damaged_is_named(output: Location, epoch: Epoch) -> None:
    commit_rows(epoch, answers("a"))
    [name] = output.at("_commits").files()
    output.at("_commits", name).write_bytes(b"{")
    with pytest.raises(OutputError, match=f"{name} is damaged"):
        commit_rows(epoch, answers("a"))
