"""An output's report drawn from the store alone, whether its job is finished, at work or dead. Needs no Ray."""

from collections.abc import Iterator
from itertools import pairwise

import pyarrow as pa

from star_batch.commit.audit import status
from star_batch.commit.finalise import read_summary
from star_batch.commit.history import read_history, to_throughput, without_pauses
from star_batch.commit.layout import METRICS
from star_batch.commit.parts import read_parts
from star_batch.commit.snapshots import Standing, look, newest
from star_batch.errors import OutputError
from star_batch.metrics import Summary, summarise
from star_batch.pipeline.reporter import THROUGHPUT_SCHEMA
from star_batch.records import ANSWER_SCHEMA
from star_batch.report import Report, RowNotes
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
        seen = look(output)
        notes = RowNotes()
        counted = _count(output, seen, notes)
        finished = read_summary(output) if seen.is_complete else None
        report = Report(
            place=output.shown,
            state=state,
            summary=finished or counted,
            notes=notes,
            pace=_measured_pace(output) if finished else _pace_of(seen),
        )
        drawn = page(output, report, seen.fingerprint.digest if seen.fingerprint is not None else "")
        # A run that opened the next epoch meanwhile may have finished, and drawn a later page.
        return drawn if newest(output) == seen.number else redraw(output)


def _count(output: Location, seen: Standing, notes: RowNotes) -> Summary:
    history = read_history(output, seen.commits)
    return summarise(
        notes.noting(_batches(output, seen)),
        history.stats,
        wall_seconds=history.wall_seconds,
        fetch_seconds=history.fetch_seconds,
        write_seconds=sum(commit.seconds for commit in seen.commits),
    )


def _batches(output: Location, seen: Standing) -> Iterator[pa.RecordBatch]:
    for part in read_parts(output, seen.commits, ANSWER_SCHEMA.names):
        yield from part.to_batches()


def _measured_pace(output: Location) -> pa.Table | None:
    try:
        return without_pauses(to_throughput(read_parquet(output.at(METRICS, "throughput.parquet").read_bytes())))
    except (FileNotFoundError, pa.ArrowException, KeyError):
        return None


def _pace_of(seen: Standing) -> pa.Table:
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
