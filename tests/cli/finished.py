"""A small output as a job leaves it, made without Ray and without an engine."""

from pathlib import Path

from star_batch.commit.digests import digest_ids, joined
from star_batch.commit.finalise import Expected
from star_batch.commit.layout import begin
from star_batch.commit.snapshots import Epoch
from star_batch.commit.unit import commit_rows
from star_batch.config import Input
from star_batch.records import Answer, to_table
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, opened
from tests.pipeline.samples import complete, rows, write


def make_half_done(folder: Path) -> Epoch:
    """An output with two rows of three, in a folder with its input."""
    source = Input(path=str(write(folder / "in.parquet", rows(3))), id_column="id", prompt_column="question")
    output = Location.of(str(folder / "out"))
    begin(output, {"num_input_rows": 3, "config": {"input": source.model_dump(mode="json")}})
    epoch = opened(output)
    made = [Answer(id="row-0000", text="yes"), Answer(id="row-0001", error="bad", error_kind="image_missing")]
    commit_rows(epoch, to_table(made, model="m", fingerprint=FINGERPRINT.digest))
    return epoch


def finish(half_done: Epoch) -> None:
    """The row that is missing, and the end."""
    commit_rows(half_done, to_table([Answer(id="row-0002", text="no")], model="m", fingerprint=FINGERPRINT.digest))
    ids = joined([digest_ids([f"row-000{n}" for n in range(3)])])
    complete(half_done.output, Expected(ids=ids, epoch=half_done.number, fingerprint=FINGERPRINT))
