"""The end of a job: every row is there once, orphans are gone, the numbers are written, then `_SUCCESS`.

Opens an epoch of its own, so that nothing that is still on its way counts any more. May be interrupted
anywhere and run again with the same result. Knows no Ray and no engine.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from star_batch.commit.digests import Digests, is_in, is_repeated
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.history import read_history, without_pauses
from star_batch.commit.layout import (
    ANSWERS,
    EPOCHS,
    METRICS,
    SUCCESS,
    Commit,
    check_nothing_foreign,
    delete,
    part_epoch,
)
from star_batch.commit.parts import in_one_form, read_parts, without_repeats
from star_batch.commit.snapshots import PART_FORM, ids_of, look, next_epoch, old_records, open_epoch
from star_batch.errors import LeaseLost, OutputError
from star_batch.metrics import Summary, summarise
from star_batch.monitor.prometheus import to_text
from star_batch.pipeline.failure_limit import MaxFailed, check_failed
from star_batch.records import ANSWER_SCHEMA
from star_batch.report import Report, RowNotes
from star_batch.report.publish import publish
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import Location, failing_as


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is to be found at the end: the input's ids, no epoch after the one this run worked in, few failed rows."""

    ids: Digests
    epoch: int
    fingerprint: Fingerprint
    max_failed: MaxFailed = None


WriteResults: TypeAlias = Callable[[Location, Sequence[Commit]], None]
"""Writes the answers that count once more in another form."""


def finalise(
    output: Location,
    expected: Expected,
    confirm: Callable[[], None],
    write_results: WriteResults | None = None,
) -> Summary:
    """Check the result against the input's ids, clean up, write the metrics, and say that the job is complete.

    `confirm` raises if another run has the output by now.

    Raises:
        OutputError: rows are missing, doubled or foreign, or the output cannot be read or written.
        LeaseLost: another run has taken over.
        TooManyFailed: more rows have failed than the job allows.
    """
    notes = RowNotes()
    with failing_as(OutputError, "finish the output", output):
        seen = look(output)
        if seen.number > expected.epoch:
            raise LeaseLost(f"{output.shown}: another run has taken over; what was committed before that counts")
        if seen.number < expected.epoch:
            raise OutputError(f"{output.shown}: somebody has deleted the records of this run from {EPOCHS}")
        check_nothing_foreign(output)
        epoch = next_epoch(output, seen, expected.fingerprint)
        commits = in_one_form(epoch, without_repeats(epoch, seen.commits))
        epoch = replace(epoch, form=PART_FORM)
        crash_at("after trimming")
        check_rows(commits, expected.ids)
        output.at(SUCCESS).delete()
        open_epoch(epoch, commits, expected.fingerprint)
        history = read_history(output, commits)
        summary = summarise(
            notes.noting(_batches(output, commits)),
            history.stats,
            wall_seconds=history.wall_seconds,
            fetch_seconds=history.fetch_seconds,
            write_seconds=sum(commit.seconds for commit in commits),
        )
        crash_at("after summary")
        delete_orphans(output, commits, epoch.number)
        _write_metrics(output, summary, history.throughput)
        pace = without_pauses(history.throughput)
        report = Report(place=output.shown, state="complete", summary=summary, notes=notes, pace=pace)
        publish(output, report, expected.fingerprint.digest)
        if write_results is not None:
            write_results(output, commits)
        crash_at("after metrics")
        check_failed(expected.max_failed, summary.rows, summary.failed_by_type, notes.first_examples())
        confirm()
        output.at(SUCCESS).write_bytes(epoch.name.encode())
        crash_at("after success")
    return summary


def check_rows(commits: Sequence[Commit], wanted: Digests) -> None:
    """answered + failed == rows == distinct ids == rows of the input, and the ids are the input's.

    Raises:
        OutputError: they are not; the message says how.
    """
    if findings := list(differences(commits, wanted)):
        raise OutputError(f"the answers do not match the input's {len(wanted)} rows: {'; '.join(findings)}")


def differences(commits: Sequence[Commit], wanted: Digests | None = None) -> Iterator[str]:
    """In which ways the rows that count are not exactly the wanted ones, or not even once each."""
    ids = ids_of(commits)
    rows, answered, failed = (sum(getattr(c, name) for c in commits) for name in ("rows", "answered", "failed"))
    findings = {"ids stand in several rows": np.count_nonzero(is_repeated(ids))}
    if wanted is not None:
        findings["rows are missing"] = np.count_nonzero(~is_in(wanted, ids))
        findings["rows are not in the input"] = np.count_nonzero(~is_in(ids, wanted))
    yield from (f"{count} {what}" for what, count in findings.items() if count)
    if not answered + failed == rows == len(ids):
        yield f"{answered} answered + {failed} failed are not {rows} rows with {len(ids)} ids"


def delete_orphans(output: Location, commits: Sequence[Commit], epoch: int) -> None:
    """Delete parts that will never count: attempts that lost or died, before or in this epoch. And old records."""
    named = {commit.file for commit in commits}
    parts = [name for name in output.at(ANSWERS).files() if (part_epoch(name) or epoch + 1) <= epoch]
    for number, part in enumerate(name for name in parts if f"{ANSWERS}/{name}" not in named):
        output.at(ANSWERS, part).delete()
        if not number:
            crash_at("while deleting")
    delete(old_records(output, epoch))


def _batches(output: Location, commits: Sequence[Commit]) -> Iterator[pa.RecordBatch]:
    for part in read_parts(output, commits, ANSWER_SCHEMA.names):
        yield from part.to_batches()


def _write_metrics(output: Location, summary: Summary, throughput: pa.Table) -> None:
    folder = output.at(METRICS)
    folder.at("summary.json").write_bytes(json.dumps(summary.as_dict(), indent=2, ensure_ascii=False).encode())
    folder.at("metrics.prom").write_bytes(to_text(summary).encode())
    buffer = io.BytesIO()
    pq.write_table(throughput, buffer)
    folder.at("throughput.parquet").write_bytes(buffer.getvalue())


def read_summary(output: Location) -> Summary | None:
    """The summary of a complete output; None if there is none that can be read."""
    with failing_as(OutputError, "read the summary", output):
        try:
            summary = TypeAdapter(Summary).validate_json(output.at(METRICS, "summary.json").read_bytes())
            json.dumps(summary.as_dict(), allow_nan=False)
        except (FileNotFoundError, ValueError):
            return None
    return summary
