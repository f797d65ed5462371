"""Where answers become visible: one Parquet part under a name of its own, then one immutable marker.

A part without a marker is invisible. A marker's name is a hash of the ids it covers, and it is created only
if it is not there yet: of several attempts at the same rows one wins, whatever dies or is repeated when.
Knows no engine and no input.
"""

import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data.block import Block
from ray.data.datasource import Datasink

from star_batch.errors import OutputError
from star_batch.pipeline.output import ANSWERS, COMMITS, Commit
from star_batch.pipeline.storage import Location, failing_as


class AnswersSink(Datasink[None]):  # type: ignore[misc]  # Ray is not typed
    """Commits each block that Ray hands to a write task."""

    def __init__(self, output: Location, schema: pa.Schema, fingerprint: str) -> None:
        self._output = output
        self._schema = schema
        self._fingerprint = fingerprint

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        tables = [_conform(block, self._schema) for block in blocks]
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        if table.num_rows:
            commit_rows(self._output, table, self._fingerprint)


def _conform(block: Block, schema: pa.Schema) -> pa.Table:
    table = block if isinstance(block, pa.Table) else pa.Table.from_pandas(block, preserve_index=False)
    return table.select(schema.names).cast(schema) if table.num_rows else schema.empty_table()


def commit_rows(output: Location, table: pa.Table, fingerprint: str) -> bool:
    """Make rows visible, all or none; False when another attempt at the same rows had won.

    Raises:
        OutputError: the output cannot be written to.
    """
    started = time.perf_counter()
    ids = table["id"].to_pylist()
    name, attempt = _hash_ids(ids, fingerprint), uuid.uuid4().hex
    part = f"{ANSWERS}/{name}-{attempt}.parquet"
    with failing_as(OutputError, "write the output", output):
        output.at(part).write_bytes(_to_parquet(table))
        failed = pc.sum(table["error"].is_valid()).as_py() or 0
        commit = Commit(
            file=part,
            attempt=attempt,
            fingerprint=fingerprint,
            rows=len(ids),
            answered=len(ids) - failed,
            failed=failed,
            ids=tuple(ids),
            seconds=time.perf_counter() - started,
        )
        return _create_marker(output.at(COMMITS, f"{name}.json"), commit)


def _create_marker(marker: Location, commit: Commit) -> bool:
    try:
        marker.create(commit.to_json())
    except FileExistsError:
        # A rival's, or our own: a first try may have succeeded and its reply been lost.
        return Commit.from_json(marker.read_bytes()).attempt == commit.attempt
    return True


def _hash_ids(ids: Sequence[str], fingerprint: str) -> str:
    # As JSON, so that no id can run into the next.
    return hashlib.sha256(json.dumps([fingerprint, *sorted(ids)]).encode()).hexdigest()[:32]


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
