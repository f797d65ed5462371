"""Rows as a folder that Hugging Face's `datasets` reads: Parquet files, and a card that says how they came to be.

Where the answers are choices, the label is a class label. Knows no way to the hub.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_batch.export.card import card
from star_batch.export.folder import empty
from star_batch.storage.location import Location

_OURS = re.compile(r"README\.md|data/train-\d{5}\.parquet")
_ROWS_PER_FILE = 100_000


def write_dataset(
    rows: pa.RecordBatchReader,
    to: Location,
    run: Mapping[str, Any],
    labels: Sequence[str] = (),
    rows_per_file: int = _ROWS_PER_FILE,
) -> int:
    """`data/train-*.parquet` and `README.md`, from the rows and the record of the run; how many rows there were."""
    empty(to, _OURS)
    schema = _labelled_schema(rows.schema, labels)
    answered = count = 0
    rest = (_labelled(batch, schema, labels) for batch in rows)
    nothing = pa.RecordBatch.from_pylist([], schema)
    for number, first in enumerate(chain([nothing], rest)):
        with to.at("data", f"train-{number:05d}.parquet").writing() as file, pq.ParquetWriter(file, schema) as writer:
            for batch in _until_full(first, rest, rows_per_file):
                if batch.num_rows:  # a row group without rows is more than some readers take
                    writer.write_batch(batch)
                count += batch.num_rows
                answered += batch["error"].null_count
    to.at("README.md").write_bytes(card(run, rows=count, answered=answered, labels=labels).encode())
    return count


def _until_full(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    yield first
    count = first.num_rows
    while count < most and (batch := next(rest, None)) is not None:
        yield batch
        count += batch.num_rows


def _labelled_schema(schema: pa.Schema, labels: Sequence[str]) -> pa.Schema:
    """As `datasets` writes it down for itself, for the one column whose type Arrow does not tell."""
    if not labels:
        return schema
    feature = {"names": list(labels), "_type": "ClassLabel"}
    described = {"info": {"features": {"label": feature}}}
    place = schema.get_field_index("label")
    return schema.set(place, pa.field("label", pa.int64())).with_metadata({"huggingface": json.dumps(described)})


def _labelled(batch: pa.RecordBatch, schema: pa.Schema, labels: Sequence[str]) -> pa.RecordBatch:
    columns = {field.name: batch.column(field.name) for field in schema}
    if labels:
        columns["label"] = pc.index_in(columns["label"], pa.array(labels, columns["label"].type)).cast(pa.int64())
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
