"""What each run of a job did, in a small file of its own: the numbers at the end are about all of them.

A run writes its file again every so often, as nobody knows when it ends. Knows no Ray and no row.
"""

import contextlib
import io
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_batch.commit.layout import RUNS, is_finite, part_epoch
from star_batch.commit.markers import Commit
from star_batch.metrics import EngineStats
from star_batch.monitor.intervals import THROUGHPUT_SCHEMA, Totals
from star_batch.storage.location import STORAGE_ERRORS, Location
from star_batch.storage.parquet import read_parquet

logger = logging.getLogger(__name__)

_WRITE_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0
_INFO = b"star_batch"
_WORK = ("rows_answered", "vision_seconds", "select_seconds", "prefill_seconds", "decode_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All runs together: a row per run, actor and interval, and how long they were at work."""

    throughput: pa.Table
    wall_seconds: float = 0.0

    @property
    def stats(self) -> EngineStats:
        return EngineStats(**{f.name: pc.sum(self.throughput[f.name]).as_py() or 0 for f in fields(EngineStats)})

    @property
    def working_seconds(self) -> float:
        """In which at least one engine was at work, as far as its intervals tell."""
        busy = sum((self.throughput[name].to_numpy() for name in _WORK), np.zeros(self.throughput.num_rows)) > 0
        spans = self.throughput.select(["start", "end"]).filter(pa.array(busy)).sort_by("start")
        seconds, until = 0.0, -math.inf
        for start, end in zip(spans["start"].to_pylist(), spans["end"].to_pylist(), strict=True):
            seconds += max(0.0, end - max(start, until))
            until = max(until, end)
        return seconds

    @property
    def fetch_seconds(self) -> float:
        return float(pc.sum(self.throughput["fetch_seconds"]).as_py() or 0.0)


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Inside the block, what a run has done is written down now and then, and once more at its end."""

    output: Location
    run: int
    totals: Callable[[], Totals]
    _started: float = field(default_factory=time.time)
    _finished: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> "Recorder":
        self._write(Totals())
        self._thread = threading.Thread(target=self._keep, name="star-batch-history", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finished.set()
        # Who is interrupted has little time.
        if kind is None or issubclass(kind, Exception):
            self._thread.join(_PATIENCE_SECONDS)
            self._write(self.totals())

    def _keep(self) -> None:
        while not self._finished.wait(_WRITE_SECONDS):
            self._write(self.totals())

    def _write(self, totals: Totals) -> None:
        info = json.dumps({"started": self._started, "ended": time.time()})
        buffer = io.BytesIO()
        pq.write_table(totals.to_table(self.run).replace_schema_metadata({_INFO: info}), buffer, compression="zstd")
        # These are numbers about the job, and none of its answers: no trouble is made over them.
        with contextlib.suppress(*STORAGE_ERRORS):
            replace(self.output.at(RUNS, f"{self.run:08d}.parquet"), retry_seconds=0.0).write_bytes(buffer.getvalue())


def read_history(output: Location, commits: Sequence[Commit]) -> History:
    """What all runs have left. One that was killed was at work at least until its last commit."""
    tables, wall_seconds = [THROUGHPUT_SCHEMA.empty_table()], 0.0
    for name in sorted(output.at(RUNS).files()):
        file = output.at(RUNS, name)
        try:
            written = read_parquet(file.read_bytes())
            info = json.loads(written.schema.metadata[_INFO])
            table, started, ended = to_throughput(written), info["started"], info["ended"]
            if not (is_finite(started) and is_finite(ended)):
                raise ValueError("no times")
        except (pa.ArrowException, ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s is damaged; what that run did counts in no rate", file.shown)
            continue
        last = max((commit.at for commit in commits if _run_of(commit) == name[:8]), default=ended)
        wall_seconds += max(ended, last) - started
        tables.append(table)
    return History(throughput=pa.concat_tables(tables), wall_seconds=wall_seconds)


def to_throughput(table: pa.Table) -> pa.Table:
    """What was read as such numbers; others that are there as well are left out.

    Raises:
        KeyError, pa.ArrowException: some are missing, or are no numbers.
    """
    numbers = table.select(THROUGHPUT_SCHEMA.names).cast(THROUGHPUT_SCHEMA)
    numbers.validate(full=True)
    for column in numbers.columns:
        is_odd = pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column), min_count=0).as_py()
        if column.null_count or is_odd:
            raise pa.ArrowInvalid("not every value is a number")
    return numbers


def without_pauses(throughput: pa.Table) -> pa.Table:
    """The same as if each run had begun when the one before it ended."""
    tables, ended = [throughput.slice(0, 0)], None
    for run in sorted(set(throughput["run"].to_pylist())):
        table = throughput.filter(pc.equal(throughput["run"], run))
        pause = pc.min(table["start"]).as_py() - ended if ended is not None else 0.0
        for name in ("start", "end"):
            table = table.set_column(table.column_names.index(name), name, pc.subtract(table[name], pause))
        tables.append(table)
        ended = pc.max(table["end"]).as_py()
    return pa.concat_tables(tables)


def _run_of(commit: Commit) -> str:
    return f"{part_epoch(commit.file.rpartition('/')[2]) or 0:08d}"
