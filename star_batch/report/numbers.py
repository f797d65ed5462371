"""A job's numbers: counted from the rows that count and from what its runs have left; written, and read again.

Knows no page, no Ray and no engine.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from star_batch.commit.history import read_history
from star_batch.commit.layout import METRICS
from star_batch.commit.markers import Commit
from star_batch.commit.parts import read_parts
from star_batch.errors import OutputError
from star_batch.metrics import Summary, summarise
from star_batch.monitor.prometheus import to_text
from star_batch.records import ANSWER_SCHEMA
from star_batch.report import RowNotes
from star_batch.storage.location import Location, failing_as


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """`throughput`: a row per run, actor and interval; `notes`: what the report shows of single rows."""

    summary: Summary
    throughput: pa.Table
    notes: RowNotes


def count(output: Location, commits: Sequence[Commit]) -> Numbers:
    """Reads every row that counts, once.

    Raises:
        OutputError: a part is gone or damaged.
    """
    history, notes = read_history(output, commits), RowNotes()
    summary = summarise(
        notes.noting(_batches(output, commits)),
        history.stats,
        wall_seconds=history.wall_seconds,
        working_seconds=history.working_seconds,
        fetch_seconds=history.fetch_seconds,
        write_seconds=sum(commit.seconds for commit in commits),
    )
    return Numbers(summary=summary, throughput=history.throughput, notes=notes)


def _batches(output: Location, commits: Sequence[Commit]) -> Iterator[pa.RecordBatch]:
    for part in read_parts(output, commits, ANSWER_SCHEMA.names):
        yield from part.to_batches()


def write_numbers(output: Location, numbers: Numbers) -> None:
    """For people, for Prometheus' textfile collector, and for whoever plots."""
    folder = output.at(METRICS)
    folder.at("summary.json").write_bytes(json.dumps(numbers.summary.as_dict(), indent=2, ensure_ascii=False).encode())
    folder.at("metrics.prom").write_bytes(to_text(numbers.summary).encode())
    buffer = io.BytesIO()
    pq.write_table(numbers.throughput, buffer)
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
