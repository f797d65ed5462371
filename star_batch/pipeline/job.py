"""A job from its configuration to `_SUCCESS`: check, connect, execute, finalise. Knows no row."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from star_batch import interruption
from star_batch.commit.clearing import clear
from star_batch.commit.digests import Digests, is_in
from star_batch.commit.finalise import Expected, finalise
from star_batch.commit.fingerprint import Fingerprint, Generation, fingerprint_of
from star_batch.commit.history import Recorder
from star_batch.commit.layout import SUCCESS, amend, begin, check_nothing_foreign
from star_batch.commit.lease import Lease
from star_batch.commit.losses import loss_words, read_checked
from star_batch.commit.markers import Commit, strays
from star_batch.commit.parts import without_failed
from star_batch.commit.snapshots import (
    Epoch,
    Snapshot,
    check_fingerprint,
    ids_of,
    newest,
    next_epoch,
    open_epoch,
    with_vanished,
)
from star_batch.config import JobConfig
from star_batch.errors import Interrupted, OutputError, StarBatchError
from star_batch.export.write import export_finished
from star_batch.inputs.base import Format, format_of, plan_input
from star_batch.inputs.columns import with_kept_columns
from star_batch.inputs.rows import InputPlan, distinct
from star_batch.metrics import EngineSnapshot, Progress, Summary
from star_batch.monitor.export import Board, endpoint, push
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.cluster import connected, one_clear_line, shown_resources
from star_batch.pipeline.completion import Completion
from star_batch.pipeline.devices import refuse_early
from star_batch.pipeline.flow import Work, answer_all
from star_batch.pipeline.provenance import provenance
from star_batch.pipeline.remarks import listening
from star_batch.pipeline.reporter import Reporter, read_totals, start_monitor
from star_batch.report.numbers import read_summary
from star_batch.report.samples import Sampler
from star_batch.storage.location import Location, failing_as
from star_batch.storage.probe import probe
from star_batch.storage.redaction import redacted
from star_batch.wording import printable

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
        LeaseHeld: another run is at work on this output, or has taken over.
        ClusterError: Ray cannot be reached, or something failed there.
        TooManyFailed: more rows have failed than the job allows.
        Interrupted: Ctrl-C, or SIGTERM.
    """
    summary = None
    try:
        with interruption.at_work():
            summary = _run(config, on_progress, verbose, backend or Backend())
            return summary
    except KeyboardInterrupt:
        raise Interrupted(_how_to_go_on(config)) from None
    except StarBatchError as error:
        text = redacted(str(error), {"in": config.input.storage_options, "out": config.output.storage_options})
        if text == str(error):
            raise
        raise type(error)(text) from None
    finally:
        push(config.metrics, summary)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is asked, checked as far as it goes without the output; `ids` are the plan's."""

    config: JobConfig
    backend: Backend
    output: Location
    plan: InputPlan
    ids: Digests
    format: Format
    fingerprint: Fingerprint
    generation: Generation
    on_progress: OnProgress = field(repr=False, default=lambda _: None)
    verbose: bool
    store: Mapping[str, str] = field(default_factory=dict)

    def left(self, done: Sequence[Commit]) -> InputPlan:
        return self.plan.only(~is_in(self.ids, ids_of(done)))

    def expected(self, done: Sequence[Commit]) -> Digests:
        """The ids of all rows that the output is to hold at the end."""
        return with_vanished(self.ids, done)


def _run(config: JobConfig, on_progress: OnProgress | None, verbose: bool, backend: Backend) -> Summary:
    format = format_of(config.input)
    config = format.stage(config)
    output = Location.of(config.output.path, config.output.storage_options, retry_seconds=config.output.retry_seconds)
    plan, ids = distinct(plan_input(config.input, output), config.input.duplicates)
    config = config.model_copy(update={"input": with_kept_columns(config.input, plan.schema)})
    checkpoint, generation = backend.identify(config), backend.generation(config)
    job = _Job(
        config=config,
        backend=backend,
        output=output,
        plan=plan,
        ids=ids,
        format=format,
        fingerprint=fingerprint_of(config, checkpoint, generation, plan.labels),
        generation=generation,
        verbose=verbose,
    )
    interruption.look()
    summary = _finished_before(job)
    if summary is not None:
        return summary
    with endpoint(config.metrics) as board:
        job = replace(job, store=probe(job.output), on_progress=_telling(board, on_progress))
        with Lease(output=job.output, seconds=config.output.lease_seconds) as lease:
            return _run_alone(job, lease)


def _telling(board: Board, on_progress: OnProgress | None) -> OnProgress:
    has_failed = False

    def tell(progress: Progress) -> None:
        nonlocal has_failed
        board.show(progress)
        try:
            if on_progress is not None:
                on_progress(progress)
        except Exception as error:
            # Whoever only looks on stops no job, and complains once.
            if not has_failed:
                logger.warning(
                    "on_progress failed (%s); the job goes on", printable(f"{type(error).__name__}: {error}")
                )
            has_failed = True

    return tell


def _finished_before(job: _Job) -> Summary | None:
    """The summary of an output that needs nothing; not a file of it is touched."""
    if job.config.output.overwrite:
        return None
    seen = _look(job)
    has_work = job.config.output.retry_failed and seen.failed
    if not seen.is_complete or has_work or job.left(seen.commits).num_rows:
        return None
    with failing_as(OutputError, "read the output", job.output):
        if strays(job.output, seen.commits):
            return None
    summary = read_summary(job.output)
    if summary is not None:
        logger.info("%s is complete: %d rows", job.output.shown, summary.rows)
        export_finished(job.output, job.config.output.export, job.config.input)
    return summary


def _look(job: _Job) -> Snapshot:
    with failing_as(OutputError, "read the output", job.output):
        seen = read_checked(job.output)
        check_nothing_foreign(job.output)
    check_fingerprint(job.output, seen.fingerprint, job.fingerprint)
    foreign = len(job.expected(seen.commits)) - len(job.ids)
    if foreign and job.config.input.vanished == "refuse":
        raise OutputError(
            f"{job.output.shown} holds answers to {foreign} rows that are not in the input: "
            "choose another output, or say overwrite, or vanished: keep"
        )
    return seen


def _start_anew(job: _Job) -> Snapshot:
    with failing_as(OutputError, "read the output", job.output):
        check_nothing_foreign(job.output)
        return Snapshot(number=newest(job.output))


def _run_alone(job: _Job, lease: Lease) -> Summary:
    seen = _start_anew(job) if job.config.output.overwrite else _look(job)
    epoch = next_epoch(job.output, seen, job.fingerprint)
    kept = _kept(job, epoch, seen)
    sampler = Sampler.of(
        job.output, epoch.fingerprint, num_samples=job.config.output.samples, num_rows=job.plan.num_rows
    )
    work = Work(config=job.config, backend=job.backend, epoch=epoch, plan=job.left(kept), sampler=sampler)
    last, wanted = seen.number, job.expected(kept)
    _say_what_is_there(job, seen, kept, len(wanted))
    if work.plan.num_rows:
        refuse_early(job.config)
        last = epoch.number
        _execute(job, work, kept, len(wanted))
    elif seen.lost:
        last = epoch.number
        _begin(job, epoch, kept, len(wanted))
    interruption.look()
    expected = Expected(ids=wanted, epoch=last, fingerprint=job.fingerprint)
    completion = Completion(
        output=job.output,
        fingerprint=job.fingerprint.digest,
        max_failed=job.config.faults.max_failed,
        write_results=job.format.write_results,
    )
    summary = finalise(job.output, expected, lease.confirm, completion)
    export_finished(job.output, job.config.output.export, job.config.input)
    return summary


def _kept(job: _Job, epoch: Epoch, seen: Snapshot) -> Sequence[Commit]:
    """What an earlier run has left and this one does not do again."""
    if not job.config.output.retry_failed:
        return seen.commits
    with failing_as(OutputError, "read the output", job.output):
        return without_failed(epoch, seen.commits, among=job.ids)


def _say_what_is_there(job: _Job, seen: Snapshot, kept: Sequence[Commit], total: int) -> None:
    if seen.lost:
        logger.warning("%s: %s; they are answered again%s", job.output.shown, loss_words(seen), _but_for(job, seen))
    done = sum(commit.rows for commit in kept)
    if 0 < done < total:
        shown = f"{done:,} of {total:,} rows are done ({sum(commit.failed for commit in kept):,} failed)"
        logger.info("%s: %s; going on with the other %s", job.output.shown, shown, f"{total - done:,}")


def _but_for(job: _Job, seen: Snapshot) -> str:
    """Lost rows of an input that is not there any more stay lost."""
    vanished = int((~is_in(ids_of(seen.lost), job.ids)).sum())
    return f", but for {vanished:,} that are not in the input any more" if vanished else ""


def _begin(job: _Job, epoch: Epoch, kept: Sequence[Commit], total: int) -> None:
    """From here on the output is this run's; nobody takes it for complete."""
    with failing_as(OutputError, "write the output", job.output):
        job.output.at(SUCCESS).delete()
        open_epoch(epoch, kept, job.fingerprint)
        if job.config.output.overwrite:
            clear(job.output, before=epoch.number, keep=job.config.input.paths)
    record = provenance(job.config, job.fingerprint, total, job.generation)
    begin(job.output, record | {"store": dict(job.store)})
    if job.generation.not_applied:
        logger.warning("the checkpoint's generation settings that are not applied: %s", job.generation.shown)


def _execute(job: _Job, work: Work, kept: Sequence[Commit], total: int) -> None:
    # From here on there is something to wait for; whatever could be refused was refused before.
    num_before = sum(commit.rows for commit in kept)
    job.on_progress(Progress.at(EngineSnapshot(), seconds=0.0, before=num_before, total=total))
    most = job.config.faults.max_deaths_in_a_row
    with (
        connected(job.config.cluster, verbose=job.verbose) as is_own_ray,
        one_clear_line(),
        listening(most, verbose=job.verbose) as remarks,
    ):
        interruption.look()
        # Only now: what an earlier run has left is as it was if there is no Ray.
        _begin(job, work.epoch, kept, total)
        amend(job.output, {"cluster": shown_resources()})

        def tell(progress: Progress) -> None:
            remarks.progressed(progress.rows_done)
            job.on_progress(progress)

        _answer(job, replace(work, is_own_ray=is_own_ray), tell, before=num_before, total=total)


def _answer(job: _Job, work: Work, tell: OnProgress, *, before: int, total: int) -> None:
    """Watched by a monitor, which ends with this function."""
    monitor = start_monitor()
    recorder = Recorder(output=job.output, run=work.epoch.number, totals=lambda: read_totals(monitor))
    with recorder, Reporter(monitor=monitor, on_progress=tell, before=before, total=total):
        answer_all(replace(work, monitor=monitor))


def _how_to_go_on(config: JobConfig) -> str:
    once = {"overwrite": config.output.overwrite, "retry-failed": config.output.retry_failed}
    without = "".join(f" without {flag}" for flag, is_set in once.items() if is_set)
    return f"interrupted; what is committed stays: run the same command{without} again to go on where it stopped"
