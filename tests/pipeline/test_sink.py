from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.commit.snapshots import Epoch
from star_batch.pipeline.sink import AnswersSink, CommitPace
from star_batch.records import ANSWER_SCHEMA
from star_batch.storage.location import Location
from tests.commit.samples import answers, opened


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


@pytest.fixture
def epoch(output: Location) -> Epoch:
    return opened(output)


def parts(output: Location) -> list[str]:
    return output.at("answers").files()


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
