"""Whole jobs without Ray, whose engine labels what it is asked about."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from star_batch.commit.unit import commit_rows
from star_batch.config import JobConfig
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.prepared import kept_names
from star_batch.inputs.rows import read_rows
from star_batch.metrics import Summary
from star_batch.pipeline import job as jobs
from star_batch.pipeline.flow import Work
from star_batch.records import Answer, to_table
from tests.pipeline import bare
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import SCHEMA, job, rows, write

CHOICES = ("cat", "dog", "none")
NUM_ROWS = 10
ODD = 'a "quote", a comma,\na line\u2028and =1+1'


def answer(id: str, number: int) -> Answer:
    """Every fifth fails."""
    if number % 5 == 4:
        return Answer(id=id, error=ODD, error_kind="image_missing")
    label = CHOICES[number % 2]
    shares = {label: 0.75, CHOICES[1 - number % 2]: 0.25, "none": 0.0}
    return Answer(
        id=id,
        text=label,
        label=label,
        label_probability=0.75,
        label_margin=0.5,
        label_probabilities=shares,
        num_kept=(3, 1),
    )


def answer_all(work: Work) -> None:
    """In two commits."""
    tables = pa.concat_tables(table for group in work.plan.pieces for table in read_rows(work.plan, group))
    half = -(-tables.num_rows // 2)
    for start in (0, half):
        some = tables.slice(start, half)
        answers = [answer(id, start + number) for number, id in enumerate(some[ID_COLUMN].to_pylist())]
        table = to_table(answers, model="fake", fingerprint=work.epoch.fingerprint)
        for column, name in kept_names(work.config.input).items():
            table = table.append_column(name, some[column].combine_chunks())
        commit_rows(work.epoch, table)


def config_of(folder: Path, **output: Any) -> JobConfig:
    """Rows with ids, a label of their own, a note that may be anything, and images as bytes."""
    schema = pa.schema([*SCHEMA, ("label", pa.string()), ("note", pa.string()), ("when", pa.timestamp("us"))])
    records: list[Mapping[str, Any]] = [
        {**row, "label": "dog", "note": ODD if number else "", "when": number}
        for number, row in enumerate(rows(NUM_ROWS))
    ]
    if not (folder / "in.parquet").exists():
        write(folder / "in.parquet", records, schema)
    asked = {"prompt": "what is it?", "choices": CHOICES, "id_column": "id", "keep_columns": "*"}
    return job(folder / "in.parquet", folder / "out", input=asked, output=output)


def run(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> Summary:
    for name, substitute in {**bare.WITHOUT_RAY, "answer_all": answer_all}.items():
        monkeypatch.setattr(jobs, name, substitute)
    return jobs.run(config, backend=FAKE)
