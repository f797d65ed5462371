"""Where answers become visible: one Parquet part under a name of its own, then one immutable marker.

A part without a marker is invisible. A marker's name is a hash of the ids it covers, and it is created only
if it is not there yet: of several attempts at the same rows one wins, whatever dies or is repeated when.
Nothing is renamed and nothing of others deleted on the way. All it needs of a store is a create that fails if
the file exists: S3 by `If-None-Match: *`, Google Cloud Storage by generation match 0 (gcsfs: mode "create"),
local and NFS by a hard link. Knows no engine and no input.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
from ray.data.block import Block
from ray.data.datasource import Datasink

from star_batch.commit.layout import EPOCHS, Commit
from star_batch.commit.parts import hash_ids, prepare_part, to_parquet
from star_batch.commit.snapshots import Epoch, newest
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import Location, failing_as


class AnswersSink(Datasink[None]):  # type: ignore[misc]  # Ray is not typed
    """Commits what Ray hands to a write task: blocks that have `rows_per_file` rows together, or are the last."""

    def __init__(self, epoch: Epoch, schema: pa.Schema, rows_per_file: int) -> None:
        self._epoch = epoch
        self._schema = schema
        self._rows_per_file = rows_per_file

    @property
    def min_rows_per_write(self) -> int:
        return self._rows_per_file

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        tables = [_conform(block, self._schema) for block in blocks]
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        if table.num_rows:
            commit_rows(self._epoch, table)


@dataclass(slots=True, kw_only=True)
class Pace:
    """Whether answers should wait for others to share a file with: not at a pace at which `rows` take over `seconds`.

    So what waits at any moment is less than a file, and was made in less than `seconds`. Times are a clock's.
    """

    rows: float
    seconds: float
    last: float

    def is_slow(self, rows: int, now: float) -> bool:
        """Whether these many answers, all that came since the last time, came slowly."""
        passed, self.last = now - self.last, now
        return passed * self.rows > rows * self.seconds


def _conform(block: Block, schema: pa.Schema) -> pa.Table:
    table = block if isinstance(block, pa.Table) else pa.Table.from_pandas(block, preserve_index=False)
    return table.select(schema.names).cast(schema) if table.num_rows else schema.empty_table()


def commit_rows(epoch: Epoch, table: pa.Table) -> bool:
    """Make rows visible, all or none; False when another attempt at the same rows had won.

    Raises:
        LeaseLost: the epoch is over; nothing of this became visible.
        OutputError: the output cannot be written to.
    """
    started = time.perf_counter()
    commit = prepare_part(epoch, table)
    part, data = epoch.output.at(commit.file), to_parquet(table)
    with failing_as(OutputError, "write the output", epoch.output):
        _check_open(epoch)
        crash_at("before part")
        part.write_bytes(data)
        crash_at("after part")
        try:
            _check_open(epoch)
        except LeaseLost:
            # Whoever finished the output has tidied up already, and readers may be reading.
            part.delete()
            raise
        marked = replace(commit, seconds=time.perf_counter() - started, size=len(data))
        has_won = _create_marker(epoch.marker(hash_ids(table["id"].to_pylist())), marked)
        crash_at("after marker")
        return has_won


def _check_open(epoch: Epoch) -> None:
    last = newest(epoch.output)
    if last > epoch.number:
        raise LeaseLost(f"{epoch.output.shown}: another run has taken over; this one wrote nothing since")
    if last < epoch.number:
        raise OutputError(f"{epoch.output.shown}: somebody has deleted the records of this run from {EPOCHS}")


def _create_marker(marker: Location, commit: Commit) -> bool:
    try:
        marker.create(commit.to_json())
    except FileExistsError:
        # A rival's, or our own: a first try may have succeeded and its reply been lost.
        return Commit.from_json(marker.read_bytes()).attempt == commit.attempt
    return True
