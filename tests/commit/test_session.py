"""The commit protocol alone, as somebody with another pipeline uses it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.session import Session, answered
from star_batch.commit.unit import commit_rows
from star_batch.errors import InputError, LeaseHeld, LeaseLost, OutputError

IDS = [f"image {n}" for n in range(10)]
JOB = {"model": "mine", "prompt": 3}


def rows(ids: list[str], error: str | None = None) -> pa.Table:
    return pa.table({"id": ids, "score": [0.5] * len(ids), "error": pa.array([error] * len(ids), pa.string())})


def test_every_id_is_there_once_after_a_stop(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Session(output=out, ids=IDS, job=JOB) as session:
        assert session.left == IDS
        assert session.commit(rows(IDS[:3]))
        assert not session.commit(rows(IDS[:3])), "the second attempt at the same rows loses"
    with Session(output=out, ids=IDS, job=JOB) as session:
        assert session.left == IDS[3:]
        session.commit(rows(session.left[:4], error="broken"))
        session.commit(rows(session.left[4:]).drop_columns("error"))
        assert session.finish(lambda commits: sum(commit.failed for commit in commits)) == 4
    table = pq.read_table(Path(out, "answers"))
    assert sorted(table["id"].to_pylist()) == IDS
    assert table["score"].null_count == 0
    assert Path(out, "_SUCCESS").exists()
    with Session(output=out, ids=IDS, job=JOB) as session:
        assert session.left == []
        session.finish()


def test_an_end_with_rows_missing_is_none(tmp_path: Path) -> None:
    with Session(output=str(tmp_path / "out"), ids=IDS, job=JOB) as session:
        session.commit(rows(IDS[:3]))
        with pytest.raises(OutputError, match="7 rows are missing"):
            session.finish()
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_another_job_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Session(output=out, ids=IDS, job=JOB) as session:
        session.commit(rows(IDS))
    with (
        pytest.raises(OutputError, match="prompt: 3 there, 4 here"),
        Session(output=out, ids=IDS, job=JOB | {"prompt": 4}),
    ):
        pass
    with Session(output=out, ids=IDS, job=JOB) as session:
        session.finish()


def test_two_are_not_there_at_once_and_a_zombie_writes_nothing_that_counts(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Session(output=out, ids=IDS, job=JOB) as session:
        with pytest.raises(LeaseHeld), Session(output=out, ids=IDS, job=JOB, seconds=1.0):
            pass
        zombie = session.epoch
    with Session(output=out, ids=IDS, job=JOB) as session:
        with pytest.raises(LeaseLost):
            commit_rows(zombie, rows(IDS))
        assert session.left == IDS


def test_ids_are_distinct(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"), Session(output=str(tmp_path), ids=["a", "a"], job=JOB):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_a_list_of_ids_every_row_is_there_once(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Session(output=out, ids=None, job=JOB) as session:
        assert session.left == []
        assert len(session.done) == 0
        session.commit(rows(["a", "b"]))
        session.commit(rows(["b", "c"], error="broken"))
        session.finish()
    table = pq.read_table(Path(out, "answers")).sort_by("id")
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["error"].to_pylist() == [None, None, "broken"]
    assert len(answered(out, JOB)) == 3
    with pytest.raises(OutputError, match="another job"):
        answered(out, {})
    with Session(output=out, ids=None, job=JOB) as session:
        assert len(session.done) == 3
        session.commit(rows(["d"]))
        session.finish()
    assert len(answered(out, JOB)) == 4
