"""A commit unit: one Parquet part under a name of its own, then one immutable marker. All of its rows count, or none.

A part without a marker is invisible. A marker's name is a hash of the ids it covers. Nothing is renamed and nothing
of others deleted on the way. All it needs of a store is a create that fails if the file exists: S3 by
`If-None-Match: *`, Google Cloud Storage by generation match 0 (gcsfs: mode "create"), local and NFS by a hard link.
Knows no engine and no input.
"""

import time
from dataclasses import replace

import pyarrow as pa

from star_batch.commit.layout import EPOCHS
from star_batch.commit.markers import create_marker
from star_batch.commit.parts import hash_ids, prepare_part, to_parquet
from star_batch.commit.snapshots import Epoch, newest
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import failing_as


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
        has_won = create_marker(epoch.marker(hash_ids(table["id"].to_pylist())), marked)
        crash_at("after marker")
        return has_won


def _check_open(epoch: Epoch) -> None:
    last = newest(epoch.output)
    if last > epoch.number:
        raise LeaseLost(f"{epoch.output.shown}: another run has taken over; this one wrote nothing since")
    if last < epoch.number:
        raise OutputError(f"{epoch.output.shown}: somebody has deleted the records of this run from {EPOCHS}")
