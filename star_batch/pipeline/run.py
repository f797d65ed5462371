"""A job from its configuration to `_SUCCESS`: check, connect, execute, finalise. Knows no row."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from star_batch.config import JobConfig
from star_batch.errors import Interrupted, StarBatchError
from star_batch.metrics import Summary
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.cluster import connected, one_clear_line, shown_resources
from star_batch.pipeline.finalise import RunTotals, finalise, read_summary
from star_batch.pipeline.fingerprint import fingerprint_of
from star_batch.pipeline.flow import Work, answer_all
from star_batch.pipeline.monitor import Progress, Reporter, read_totals, start_monitor
from star_batch.pipeline.output import OutputState, amend, begin, open_output
from star_batch.pipeline.plan import plan_input
from star_batch.pipeline.provenance import provenance
from star_batch.pipeline.redaction import redacted
from star_batch.pipeline.storage import Location

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


def run(
    config: JobConfig,
    *,
    on_progress: OnProgress | None = None,
    verbose: bool = False,
    backend: Backend | None = None,
) -> Summary:
    """Answer every row of the input that has no answer yet, and finish the output.

    Goes on where an earlier run of the same job stopped; an output that is complete is left as it is.
    `on_progress` is called about once a second, from another thread. `verbose` lets Ray speak.

    Raises:
        ConfigError, ModelError, InputError, OutputError: the job cannot work; no row was answered.
        ClusterError: Ray cannot be reached, or something failed there.
        Interrupted: Ctrl-C.
    """
    try:
        return _run(config, on_progress, verbose, backend or Backend())
    except KeyboardInterrupt:
        raise Interrupted(_how_to_go_on(config)) from None
    except StarBatchError as error:
        text = redacted(str(error), {"in": config.input.storage_options, "out": config.output.storage_options})
        if text == str(error):
            raise
        raise type(error)(text) from None


def _run(config: JobConfig, on_progress: OnProgress | None, verbose: bool, backend: Backend) -> Summary:
    output = Location.of(config.output.path, config.output.storage_options)
    plan = plan_input(config.input)
    ids = plan.ids()
    plan.check_ids_unique(ids)
    fingerprint = fingerprint_of(config, backend.identify(config.model))
    before = open_output(output, fingerprint, overwrite=config.output.overwrite)
    todo = plan.without(before.ids, ids)
    summary = read_summary(output) if before.is_complete and not todo.num_rows else None
    if summary is not None:
        logger.info("%s is complete: %d rows", output.shown, summary.rows)
        return summary
    begin(output, provenance(config, fingerprint, plan.num_rows))
    done = RunTotals(before=before)
    if todo.num_rows:
        work = Work(config=config, backend=backend, output=output, plan=todo, fingerprint=fingerprint.digest)
        done = _execute(work, before, on_progress, verbose)
    return finalise(output, ids, done)


def _execute(work: Work, before: OutputState, on_progress: OnProgress | None, verbose: bool) -> RunTotals:
    with connected(work.config.cluster, verbose=verbose), one_clear_line():
        amend(work.output, {"cluster": shown_resources()})
        started = time.monotonic()
        monitor = start_monitor()
        with _reporter(monitor, on_progress, len(before.ids), work.plan.num_rows):
            answer_all(replace(work, monitor=monitor))
        seconds = time.monotonic() - started
        return RunTotals(before=before, totals=read_totals(monitor), wall_seconds=seconds)


def _reporter(
    monitor: object, on_progress: OnProgress | None, num_before: int, num_open: int
) -> AbstractContextManager[object]:
    if on_progress is None:
        return nullcontext()
    return Reporter(monitor=monitor, on_progress=on_progress, before=num_before, total=num_before + num_open)


def _how_to_go_on(config: JobConfig) -> str:
    same = "the same command without overwrite" if config.output.overwrite else "the same command"
    return f"interrupted; what is committed stays: run {same} again to go on where it stopped"
