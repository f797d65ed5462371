"""The rows of an output that are visible at this moment, a part at a time, also while a job is at work.

Knows no Ray, no engine, and no other form than Arrow's.
"""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import pyarrow as pa

from star_batch.commit.markers import Commit
from star_batch.commit.parts import read_part, read_parts
from star_batch.commit.snapshots import Snapshot, newest, read_snapshot
from star_batch.errors import ConfigError, OutputError
from star_batch.records import ANSWER_SCHEMA
from star_batch.storage.location import Location, failing_as
from star_batch.wording import quoted


def read_answers(
    output: str | PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.RecordBatchReader:
    """Exactly the rows that count when it is called: each id once, as an answer or with its error.

    The folder `OUT/answers` has the same rows once `_SUCCESS` is there. Before that it may also hold files that do not
    count; this reads none of those. Rows come a part at a time: `read_all()` makes a table of them, `read_pandas()` a
    data frame, and DuckDB and polars take the reader as it is.

    Args:
        output: The job's `output.path`.
        columns: Which to read, in this order; None for all.
        storage_options: As the job's `output.storage_options`.

    Raises:
        OutputError: no job has begun there, or it cannot be read; also while rows are taken from the reader.
        ConfigError: there is no such column, or no such file system.
    """
    return visible_rows(Location.of(fspath(output), storage_options), columns)


def visible_rows(output: Location, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
    """The same of a place; see `read_answers`."""
    with failing_as(OutputError, "read the output", output):
        seen = read_snapshot(output)
        if not seen.number:
            raise OutputError(f"{output.shown}: no job has begun there")
        schema = _schema(output, seen.commits)
    for name in columns or ():
        if name not in schema.names:
            raise ConfigError(f"{output.shown}: no column {quoted(name)}; columns: {', '.join(schema.names)}")
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    return pa.RecordBatchReader.from_batches(wanted, _batches(output, seen, wanted))


def _schema(output: Location, commits: Sequence[Commit]) -> pa.Schema:
    """That of the first part; all have the same."""
    first: pa.Schema = read_part(output, commits[0]).schema if commits else ANSWER_SCHEMA
    return first.remove_metadata()


def _batches(output: Location, seen: Snapshot, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    names = list(dict.fromkeys(["id", *schema.names]))  # a part is known by its ids
    with failing_as(OutputError, "read the output", output):
        try:
            for part in read_parts(output, seen.commits, names):
                yield from part.select(schema.names).cast(schema).to_batches()
        except pa.ArrowException:
            raise OutputError(f"{output.shown}: its parts have different columns") from None
        except OutputError:
            if newest(output) == seen.number:
                raise
            raise OutputError(f"{output.shown}: a run has changed the answers meanwhile: read them again") from None
