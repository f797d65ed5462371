"""What stands in for a job, in every test that asks for one."""

from pathlib import Path

import pytest

from star_batch import pipeline
from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.finalise import Expected, finalise
from star_batch.commit.layout import begin
from star_batch.commit.snapshots import Epoch
from star_batch.config import Input
from star_batch.pipeline.sink import commit_rows
from star_batch.records import Answer, to_table
from star_batch.storage.location import Location
from tests.cli.jobs import Pipeline
from tests.pipeline.samples import rows, write
from tests.pipeline.test_sink import FINGERPRINT, opened


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr(pipeline, "run", fake.run)
    return fake


@pytest.fixture
def half_done(tmp_path: Path) -> Epoch:
    """An output with two rows of three."""
    source = Input(path=str(write(tmp_path / "in.parquet", rows(3))), id_column="id", prompt_column="question")
    output = Location.of(str(tmp_path / "out"))
    begin(output, {"num_input_rows": 3, "config": {"input": source.model_dump(mode="json")}})
    epoch = opened(output)
    made = [Answer(id="row-0000", text="yes"), Answer(id="row-0001", error="bad", error_kind="image_missing")]
    commit_rows(epoch, to_table(made, model="m", fingerprint=FINGERPRINT.digest))
    return epoch


@pytest.fixture
def finished(half_done: Epoch, tmp_path: Path) -> Path:
    """The same with all of them, in a folder with its input."""
    commit_rows(half_done, to_table([Answer(id="row-0002", text="no")], model="m", fingerprint=FINGERPRINT.digest))
    ids = joined([digest_ids([f"row-000{n}" for n in range(3)])])
    expected = Expected(ids=ids, epoch=half_done.number, fingerprint=FINGERPRINT)
    finalise(half_done.output, expected, lambda: None)
    return tmp_path
