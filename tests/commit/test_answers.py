"""`read_answers`: exactly the rows that count, whatever else lies in the folder, at any time of a job."""

from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_batch import read_answers
from star_batch.commit.unit import commit_rows
from star_batch.errors import ConfigError, OutputError
from star_batch.records import ANSWER_SCHEMA, Answer, to_table
from star_batch.storage.location import Location
from tests.cli.finished import finish, make_half_done
from tests.commit.samples import FINGERPRINT, opened


def test_a_job_that_is_half_done(tmp_path: Path) -> None:
    epoch = make_half_done(tmp_path)
    [part] = (tmp_path / "out" / "answers").iterdir()
    lost = part.with_name(part.name.replace(part.name[-40:-8], "0" * 32))
    lost.write_bytes(part.read_bytes())
    assert pq.read_table(tmp_path / "out" / "answers").num_rows == 4, "an attempt that does not count"
    reader = read_answers(tmp_path / "out")
    assert reader.schema.names == ANSWER_SCHEMA.names
    assert [row["id"] for row in reader.read_all().to_pylist()] == ["row-0000", "row-0001"]
    finish(epoch)
    assert read_answers(str(tmp_path / "out")).read_all().num_rows == 3


def test_some_columns_in_their_order(tmp_path: Path) -> None:
    make_half_done(tmp_path)
    reader = read_answers(tmp_path / "out", ["error", "answer"])
    assert reader.read_all().to_pydict() == {"error": [None, "bad"], "answer": ["yes", None]}
    assert import_module("duckdb").from_arrow(read_answers(tmp_path / "out")).fetchall()[0][0] == "row-0000"
    assert read_answers(tmp_path / "out", ["id"]).read_pandas()["id"].tolist() == ["row-0000", "row-0001"]
    with pytest.raises(ConfigError, match="no column 'anwser'; columns: id, "):
        read_answers(tmp_path / "out", ["anwser"])


def test_nothing_there_and_nothing_yet(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no job has begun there"):
        read_answers(tmp_path / "out")
    opened(Location.of(str(tmp_path / "out")))
    assert read_answers(tmp_path / "out").read_all().num_rows == 0


def test_a_part_that_goes_while_it_is_read(tmp_path: Path) -> None:
    epoch = make_half_done(tmp_path)
    commit_rows(epoch, to_table([Answer(id="x", text="no")], model="m", fingerprint=FINGERPRINT.digest))
    reader = read_answers(tmp_path / "out")
    for part in (tmp_path / "out" / "answers").iterdir():
        part.unlink()
    with pytest.raises(OutputError, match="counts, and is not there"):
        reader.read_all()
    reader = None
    epoch = make_half_done(tmp_path / "again")
    reader = read_answers(tmp_path / "again" / "out")
    for part in (tmp_path / "again" / "out" / "answers").iterdir():
        part.unlink()
    opened(epoch.output)
    with pytest.raises(OutputError, match="read them again"):
        reader.read_all()
