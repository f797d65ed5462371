"""The end of a job: every row is there once, orphans are gone, the numbers are written, then `_SUCCESS`.

May be interrupted anywhere and run again with the same result. Knows no Ray and no engine.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.errors import OutputError
from star_batch.metrics import Summary, summarise, to_prometheus
from star_batch.pipeline.monitor import Totals
from star_batch.pipeline.output import ANSWERS, METRICS, SUCCESS, Commit, OutputState, is_own, load_commits
from star_batch.pipeline.storage import Location, failing_as
from star_batch.records import ANSWER_SCHEMA

_NUM_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """What this run did: how long it took, what its engines counted, and what was there before."""

    before: OutputState
    totals: Totals = field(default_factory=Totals)
    wall_seconds: float = 0.0


def finalise(output: Location, ids: pa.ChunkedArray, run: RunTotals) -> Summary:
    """Check the result against the input's ids, clean up, write the metrics, and say that the job is complete.

    Raises:
        OutputError: rows are missing, doubled or foreign, or the output cannot be read or written.
    """
    with failing_as(OutputError, "finish the output", output):
        commits = load_commits(output)
        check_rows(commits, ids)
        delete_orphans(output, commits)
        known = {commit.file for commit in run.before.commits}
        summary = summarise(
            _batches(output, commits),
            run.totals.stats,
            wall_seconds=run.wall_seconds,
            fetch_seconds=run.totals.fetch_seconds,
            write_seconds=sum(commit.seconds for commit in commits if commit.file not in known),
            answered_before=run.before.num_answered,
        )
        _write_metrics(output, summary, run.totals)
        output.at(SUCCESS).write_bytes(b"")
    return summary


def check_rows(commits: Sequence[Commit], ids: pa.ChunkedArray) -> None:
    """answered + failed == rows == distinct ids == rows of the input, and the ids are the input's.

    Raises:
        OutputError: they are not; the message says how and names a few ids.
    """
    counts = Counter(id for commit in commits for id in commit.ids)
    rows = sum(commit.rows for commit in commits)
    answered, failed = (sum(commit.answered for commit in commits), sum(commit.failed for commit in commits))
    doubled = [id for id, count in counts.items() if count > 1]
    wanted = set(ids.to_pylist())
    missing, foreign = wanted - counts.keys(), counts.keys() - wanted
    findings = [
        *_finding("rows are missing", missing),
        *_finding("ids stand in several parts", doubled),
        *_finding("ids are not in the input", foreign),
        *([f"{answered} answered + {failed} failed are not {rows} rows"] if answered + failed != rows else []),
    ]
    if findings:
        raise OutputError(f"the answers do not match the input's {len(ids)} rows: {'; '.join(findings)}")


def _finding(what: str, ids: "Sequence[str] | set[str]") -> Iterator[str]:
    if ids:
        shown = ", ".join(repr(id) for id in sorted(ids)[:_NUM_SHOWN])
        yield f"{len(ids)} {what} ({shown}{', ...' if len(ids) > _NUM_SHOWN else ''})"


def delete_orphans(output: Location, commits: Sequence[Commit]) -> None:
    """Delete parts that no marker names: attempts that lost or died."""
    named = {commit.file for commit in commits}
    for name in output.at(ANSWERS).files():
        if is_own(name) and f"{ANSWERS}/{name}" not in named:
            output.at(ANSWERS, name).delete()


def _batches(output: Location, commits: Sequence[Commit]) -> Iterator[pa.RecordBatch]:
    for commit in commits:
        part = pq.read_table(io.BytesIO(output.at(commit.file).read_bytes()), columns=ANSWER_SCHEMA.names)
        yield from part.to_batches()


def _write_metrics(output: Location, summary: Summary, totals: Totals) -> None:
    folder = output.at(METRICS)
    folder.at("summary.json").write_bytes(json.dumps(summary.as_dict(), indent=2, ensure_ascii=False).encode())
    folder.at("metrics.prom").write_bytes(to_prometheus(summary).encode())
    buffer = io.BytesIO()
    pq.write_table(totals.to_table(), buffer)
    folder.at("throughput.parquet").write_bytes(buffer.getvalue())


def read_summary(output: Location) -> Summary | None:
    """The summary of a complete output; None if there is none that can be read."""
    with failing_as(OutputError, "read the summary", output):
        try:
            values = json.loads(output.at(METRICS, "summary.json").read_bytes())
            return Summary(**values | {"mean_kept_tokens": tuple(values["mean_kept_tokens"])})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
