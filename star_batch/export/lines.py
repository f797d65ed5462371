"""Rows as JSON Lines and as CSV, one file each. Knows no output."""

import pyarrow as pa
import pyarrow.csv

from star_batch.export.plain import flattened, rows_of, to_json
from star_batch.storage.location import Location


def write_jsonl(rows: pa.RecordBatchReader, to: Location) -> int:
    """One JSON object per row, nested values nested; how many there were."""
    count = 0
    with to.writing() as file:
        for batch in rows:
            file.writelines(to_json(row).encode() + b"\n" for row in rows_of(batch))
            count += batch.num_rows
    return count


def write_csv(rows: pa.RecordBatchReader, to: Location) -> int:
    """A line of names, then the rows: texts in quotes, null as nothing, what is nested as JSON; how many there were."""
    count = 0
    flat = _flat(pa.RecordBatch.from_pylist([], rows.schema)).schema
    with to.writing() as file, pa.csv.CSVWriter(file, flat) as writer:
        for batch in rows:
            writer.write_batch(_flat(batch))
            count += batch.num_rows
    return count


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(map(flattened, batch.columns)), names=batch.schema.names)
