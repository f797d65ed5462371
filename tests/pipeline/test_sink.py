from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.errors import OutputError
from star_batch.pipeline.output import load_commits
from star_batch.pipeline.sink import AnswersSink, commit_rows
from star_batch.pipeline.storage import Location
from star_batch.records import ANSWER_SCHEMA, Answer, to_table


def answers(*ids: str, failed: int = 0) -> pa.Table:
    made = [Answer(id=id, text="yes") for id in ids]
    made[:failed] = [Answer(id=id, error="bad", error_kind="image_missing") for id in ids[:failed]]
    return to_table(made, model="m", fingerprint="f")


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def parts(output: Location) -> list[str]:
    return output.at("answers").files()


def test_a_commit_is_a_part_and_a_marker(output: Location) -> None:
    assert commit_rows(output, answers("a", "b", "c", failed=1), "f")
    [commit] = load_commits(output)
    assert (commit.rows, commit.answered, commit.failed, commit.ids) == (3, 2, 1, ("a", "b", "c"))
    assert commit.fingerprint == "f"
    assert pq.read_table(output.at(commit.file).path).equals(answers("a", "b", "c", failed=1))


def test_of_two_attempts_one_wins_and_the_other_is_an_orphan(output: Location) -> None:
    assert commit_rows(output, answers("a", "b"), "f")
    assert not commit_rows(output, answers("b", "a"), "f")
    assert len(load_commits(output)) == 1
    assert len(parts(output)) == 2


def test_a_lost_reply_is_understood(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker was created, the reply was lost, the client tried again and was told that it is there."""
    create = Location.create

    def create_twice(self: Location, data: bytes) -> None:
        create(self, data)
        create(self, data)

    monkeypatch.setattr(Location, "create", create_twice)
    assert commit_rows(output, answers("a"), "f")
    assert len(load_commits(output)) == 1


def test_ids_cannot_run_into_each_other(output: Location) -> None:
    assert commit_rows(output, answers("a\nb"), "f")
    assert commit_rows(output, answers("a", "b"), "f")
    assert len(load_commits(output)) == 2


def test_a_death_before_the_marker_leaves_nothing_visible(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Location, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Location, "create", die)
    with pytest.raises(KeyboardInterrupt):
        commit_rows(output, answers("a"), "f")
    assert load_commits(output) == ()
    assert len(parts(output)) == 1


def test_a_write_task_makes_one_part_of_the_fixed_schema(output: Location) -> None:
    schema = pa.schema([*ANSWER_SCHEMA, pa.field("kept", pa.large_string())])
    blocks = [t.append_column("kept", pa.array([None])) for t in (answers("a"), answers("b", failed=1))]
    AnswersSink(output, schema, "f").write(iter([*blocks, schema.empty_table()]), None)
    [part] = parts(output)
    assert pq.read_schema(output.at("answers", part).path).equals(schema)


def test_no_rows_make_no_part(output: Location) -> None:
    AnswersSink(output, ANSWER_SCHEMA, "f").write(iter([ANSWER_SCHEMA.empty_table()]), None)
    AnswersSink(output, ANSWER_SCHEMA, "f").write(iter([]), None)
    assert output.files() == []


def test_an_output_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write the output: Not a directory"):
        commit_rows(Location.of(str(tmp_path / "out")), answers("a"), "f")
