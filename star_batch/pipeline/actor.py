"""GPU stage: one Ray actor owns one engine and feeds it windows of rows from several concurrent calls.

Rows that failed before come through untouched. Answers that come too slowly to fill a file in time are committed
here and now; the others go on to where Ray puts them together. What the engine raises stops the job, as rows that
cannot be answered are answers with an error; but a process whose accelerator is lost, or whose engine hangs, makes
room for a fresh one.
"""

import asyncio
import contextlib
import functools
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.exceptions

from star_batch.commit.readable import readable_type
from star_batch.config import Input, JobConfig
from star_batch.errors import ClusterError, Quarantined, StarBatchError
from star_batch.inputs.prepared import kept_fields, kept_names, to_records
from star_batch.metrics import EngineStats
from star_batch.monitor.intervals import EngineReport
from star_batch.pipeline.attempts import Process, Rows
from star_batch.pipeline.backend import Backend, RecordEngine
from star_batch.pipeline.failure_limit import failures
from star_batch.pipeline.quarantine import Quarantine, is_device_failure
from star_batch.pipeline.ray_metrics import RayMetrics
from star_batch.pipeline.sink import AnswersSink, CommitPace
from star_batch.pipeline.watchdog import Watchdog
from star_batch.records import ANSWER_SCHEMA, Answer, Record, to_table
from star_batch.report.samples import Sampler

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 2.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSettings:
    """What an actor needs to start: small and without weights, so that a lost actor can be started again.

    Without a `sink` nothing is committed here, without a `monitor` nobody but Ray is told.
    """

    config: JobConfig
    backend: Backend
    fingerprint: str
    input_schema: pa.Schema
    sampler: Sampler
    coordinator: Any = field(repr=False)
    sink: AnswersSink | None = None
    monitor: Any = field(repr=False, default=None)


def answers_schema(input_schema: pa.Schema, input: Input) -> pa.Schema:
    """The one schema of every part: the answers' columns, then the carried ones."""
    kept = ((name, readable_type(input_schema.field(column).type)) for column, name in kept_names(input).items())
    return pa.schema([*ANSWER_SCHEMA, *kept])


class EngineActor:
    """Answers windows of prepared rows, in the window's order."""

    def __init__(self, settings: ActorSettings) -> None:
        self._settings = settings
        actor = ray.get_runtime_context().get_actor_id()
        process = Process(actor, uuid.uuid4().hex)
        self._quarantine = Quarantine(settings.coordinator, process, settings.config.cluster.windows)
        self._num_open = 0
        self._num_running = 0
        self._failed_before = EngineStats()
        self._fetch_seconds = 0.0
        self._errors: Counter[str] = Counter()
        self._reporting = threading.Lock()
        self._name = f"{actor}-{os.getpid()}"
        self._failure: StarBatchError | None = None
        try:
            self._engine: RecordEngine = settings.backend.engine(settings.config)
        except StarBatchError as error:
            self._failure = error
        except Exception as error:
            # Whatever a loader raises is raised again with the first rows: here, Ray would print all of it.
            logger.exception("the engine cannot be loaded")
            self._failure = ClusterError(f"the engine cannot be loaded: {type(error).__name__}: {error}")
        else:
            self._watch()
            self._metrics = RayMetrics()
            threading.Thread(target=self._report_for_ever, name="star-batch-report", daemon=True).start()
        self._pace = _share_of_a_file(settings.config)

    def _watch(self) -> None:
        Watchdog(
            seconds=self._settings.config.faults.hang_seconds,
            progress=self._engine.stats,
            is_busy=lambda: self._num_running > 0,
            leave=self._quarantine.leave,
        ).start()

    async def __call__(self, rows: pa.Table) -> AsyncIterator[pa.Table]:
        if self._failure is not None:
            raise self._failure
        self._num_open += 1
        answers = await self._answer(rows)
        self._num_open -= 1
        await self._count(rows, answers)
        yield await self._committed_if_slow(self._to_table(rows, answers))

    async def _answer(self, rows: pa.Table) -> list[Answer]:
        failed = [_failed(row) for row in rows.select(["id", "error", "error_type"]).to_pylist()]
        good = rows.filter(rows["error"].is_null())
        answered = await self._quarantine.answer(tuple(good["id"].to_pylist()), functools.partial(self._run, good))
        fresh = iter(answered)
        return [answer if answer is not None else next(fresh) for answer in failed]

    async def _run(self, rows: pa.Table, ids: Rows) -> list[Answer]:
        wanted = rows.filter(pc.is_in(rows["id"], pa.array(ids, pa.string())))
        sampler = self._settings.sampler
        records = to_records(wanted, self._settings.config.input, with_kept=sampler.picks)
        self._num_running += 1
        try:
            future = self._engine.submit(records, decoding=self._settings.config.decoding)
            answers = await asyncio.wrap_future(future)
        except RuntimeError as error:
            if is_device_failure(error):
                self._quarantine.leave(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            raise
        finally:
            self._num_running -= 1
        if [answer.id for answer in answers] != [record.id for record in records]:
            raise StarBatchError(
                f"the engine gave {len(answers)} answers to {len(records)} records, or in another order"
            )
        await self._keep_samples(records, answers, wanted["reference"].to_pylist())
        return answers

    async def _committed_if_slow(self, answers: pa.Table) -> pa.Table:
        """What is left to commit. If this process dies between marker and reply, the same rows come again and lose."""
        sink = self._settings.sink
        if sink is None or not self._pace.is_slow(answers.num_rows, time.monotonic()):
            return answers
        await asyncio.to_thread(sink.write, [answers], None)
        return answers.slice(0, 0)

    async def _keep_samples(
        self, records: Sequence[Record], answers: Sequence[Answer], references: Sequence[str | None]
    ) -> None:
        """Of the rows that were picked, those that have an answer; a picture that is lost is nobody's trouble."""
        rows = zip(records, answers, references, strict=True)
        picked = [row for row in rows if row[0].with_kept and row[1].error is None]
        if not picked:
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(self._settings.sampler.keep, picked), _PATIENCE_SECONDS)
        except Exception as error:
            logger.warning("%d samples for the report were not kept: %s", len(picked), error)

    def _to_table(self, rows: pa.Table, answers: list[Answer]) -> pa.Table:
        config = self._settings.config
        table = to_table(
            answers,
            model=_model_name(config),
            fingerprint=self._settings.fingerprint,
            references=rows["reference"].to_pylist(),
            questions=rows["question_name"].to_pylist(),
            with_token_ids=config.output.token_ids,
        )
        names = kept_names(config.input)
        for column, kept in zip(names, kept_fields(self._settings.input_schema, tuple(names)), strict=True):
            field = self._settings.input_schema.field(column).with_name(names[column])
            table = table.append_column(field, rows[kept.name])
        return table

    async def _count(self, rows: pa.Table, answers: list[Answer]) -> None:
        failed = failures(answers)
        self._settings.coordinator.count.remote(len(answers) - len(failed), failed)
        self._errors = self._errors + Counter(failure.kind for failure in failed)
        num_quarantined = sum(failure.kind == Quarantined.kind for failure in failed)
        self._fetch_seconds += sum(rows["fetch_seconds"].to_pylist())
        self._failed_before += EngineStats(
            rows_failed=rows.num_rows - rows["error"].null_count + num_quarantined,
            decode_image_seconds=sum(rows["decode_seconds"].to_pylist()),
        )
        if not self._num_open:
            # This may have been the last window, and the process may end as soon as it is handed on.
            await _delivered(self._report())

    def _report_for_ever(self) -> None:
        """Also when no rows come: an engine that waits is what somebody wants to see."""
        while True:
            self._report()
            time.sleep(_REPORT_SECONDS)

    def _report(self) -> Any:
        """Send and forget; returns what can be waited for."""
        with self._reporting:  # one after the other, or they might arrive in another order
            report = EngineReport(
                actor=self._name,
                time=time.time(),
                stats=self._engine.stats() + self._failed_before,
                fetch_seconds=self._fetch_seconds,
                readings=self._engine.readings(),
                errors=self._errors,
            )
            self._metrics.export(report.snapshot())
            monitor = self._settings.monitor
            return monitor.report.remote(report) if monitor is not None else None


def _share_of_a_file(config: JobConfig) -> CommitPace:
    rows = config.output.rows_per_file / config.cluster.actor_range[0]
    return CommitPace(rows=rows, seconds=config.output.seconds_per_file, last=time.monotonic())


async def _delivered(sent: Any) -> None:
    """Wait a moment until a report has arrived; a monitor that is lost is nobody's trouble."""
    if sent is None:
        return
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(sent.future()), _PATIENCE_SECONDS)


def _failed(row: dict[str, str | None]) -> Answer | None:
    if row["error"] is None:
        return None
    return Answer(id=str(row["id"]), error=row["error"], error_kind=row["error_type"])


def _model_name(config: JobConfig) -> str:
    revision = config.model.revision
    return f"{config.model.name}@{revision}" if revision is not None else config.model.name
