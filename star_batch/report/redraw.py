"""An output's report drawn from the store alone, whether its job is finished, at work or dead. Needs no Ray."""

from itertools import pairwise

import pyarrow as pa

from star_batch.commit.audit import status
from star_batch.commit.history import to_throughput, without_pauses
from star_batch.commit.layout import METRICS
from star_batch.commit.snapshots import Snapshot, newest, read_snapshot
from star_batch.errors import OutputError
from star_batch.monitor.intervals import THROUGHPUT_SCHEMA
from star_batch.report import Report
from star_batch.report.numbers import count, read_summary
from star_batch.report.publish import page
from star_batch.storage.location import Location, failing_as
from star_batch.storage.parquet import read_parquet


def redraw(output: Location) -> bytes:
    """The page as it is at this moment; reads every row that counts.

    Raises:
        OutputError: the output cannot be read, or no job has ever begun there.
    """
    state = status(output).state
    with failing_as(OutputError, "read the output", output):
        seen = read_snapshot(output)
        counted = count(output, seen.commits)
        finished = read_summary(output) if seen.is_complete else None
        report = Report(
            place=output.shown,
            state=state,
            summary=finished or counted.summary,
            notes=counted.notes,
            pace=_measured_pace(output) if finished else _pace_of(seen),
        )
        drawn = page(output, report, seen.fingerprint.digest if seen.fingerprint is not None else "")
        # A run that opened the next epoch meanwhile may have finished, and drawn a later page.
        return drawn if newest(output) == seen.number else redraw(output)


def _measured_pace(output: Location) -> pa.Table | None:
    try:
        return without_pauses(to_throughput(read_parquet(output.at(METRICS, "throughput.parquet").read_bytes())))
    except (FileNotFoundError, pa.ArrowException, KeyError):
        return None


def _pace_of(seen: Snapshot) -> pa.Table:
    """What was committed when, as if one actor had done it: all that is known before the end."""
    commits = sorted(seen.recent, key=lambda commit: commit.at)
    ends = [seen.opened, *(commit.at for commit in commits)]
    nothing = dict.fromkeys(THROUGHPUT_SCHEMA.names, 0)
    rows = [
        nothing
        | {"actor": "", "start": start, "end": end, "rows_answered": commit.answered, "rows_failed": commit.failed}
        for (start, end), commit in zip(pairwise(ends), commits, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=THROUGHPUT_SCHEMA)
