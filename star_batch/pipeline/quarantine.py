"""Keeps a row that kills its process from killing the job: an actor asks the coordinator before its engine gets rows.

The coordinator is one small process beside the driver, with the job's attempts and its limit of failed rows. Rows
that it knows nothing bad about run beside others; suspects have their process to themselves, piece by piece.
Knows no table and no engine.
"""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from star_batch.config import Faults
from star_batch.errors import ClusterError, Quarantined, TooManyFailed
from star_batch.pipeline.attempts import Attempts, Dispatch, Process, Rows
from star_batch.pipeline.failure_limit import Failure, FailureLimit
from star_batch.pipeline.memory import Witness
from star_batch.records import Answer

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Rows], Awaitable[list[Answer]]]
"""Answers the rows of these ids, in order."""

_IN_TASKS = "tasks"
_PATIENCE_SECONDS = 5.0
_DEVICE_FAILURES = (
    "CUDA error",
    "uncorrectable ECC",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
# Also called CUDA errors, but a fresh process would meet them again.
_LASTING_FAILURES = ("no kernel image", "invalid device function", "driver version is insufficient")


def is_device_failure(error: RuntimeError) -> bool:
    """Whether the accelerator is unusable for this process from now on, and may be fine for the next."""
    words = str(error)
    is_named = type(error).__name__ == "AcceleratorError" or any(mark in words for mark in _DEVICE_FAILURES)
    return is_named and not any(mark in words for mark in _LASTING_FAILURES)


class Coordinator:
    """Wrapped into a Ray actor by `start_coordinator`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._attempts = Attempts(faults.max_attempts)
        self._failure_limit = FailureLimit(faults.max_failed)
        self._witness = Witness()

    def open(self, process: Process, ids: Rows) -> Dispatch:
        """See `Attempts.open`.

        Raises:
            TooManyFailed: more rows have failed than the job allows.
            ClusterError: the actor dies whatever it is given.
        """
        if (verdict := self._failure_limit.verdict()) is not None:
            raise TooManyFailed(verdict)
        dispatch = self._attempts.open(process, ids, self._witness.words())
        deaths = self._attempts.deaths_in_a_row(process.actor)
        if deaths >= self._faults.max_deaths_in_a_row:
            words = self._attempts.last_words
            raise ClusterError(
                f"{_name(process)} died {deaths} times in a row and finished nothing in between"
                f"{f' ({words})' if words else ''}: its machine or the model is at fault rather than a row"
            )
        return dispatch

    def begin(self, process: Process, ids: Rows) -> None:
        self._attempts.begin(process, ids)

    def finish(self, process: Process, ids: Rows) -> None:
        self._attempts.finish(process, ids)

    def leave(self, process: Process, words: str) -> None:
        self._attempts.leave(process, words)

    def count(self, answered: int, failed: Sequence[Failure]) -> None:
        self._failure_limit.add(answered, failed)

    def deaths(self) -> int:
        return self._attempts.deaths


def _name(process: Process) -> str:
    return "preprocessing" if process.actor == _IN_TASKS else "an engine"


def start_coordinator(faults: Faults) -> Any:
    """A handle that can be sent to actors; the coordinator lives where the driver lives, and no shorter."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(Coordinator)
    return remote.remote(faults)


def log_deaths(coordinator: Any) -> None:
    """Say how often rows had to be repeated because a process died."""
    with contextlib.suppress(ray.exceptions.RayError):
        if deaths := ray.get(coordinator.deaths.remote(), timeout=_PATIENCE_SECONDS):
            times = "once" if deaths == 1 else f"{deaths} times"
            logger.warning("a worker died %s; what it was at was done again", times)


class Quarantine:
    """One actor's side: at most `windows` windows at a time, and suspects alone."""

    def __init__(self, coordinator: Any, process: Process, windows: int) -> None:
        self._coordinator = coordinator
        self._process = process
        self._windows = windows
        self._permits = asyncio.Semaphore(windows)
        self._turnstile = asyncio.Lock()

    async def answer(self, ids: Rows, run: Run) -> list[Answer]:
        """Answers in the order of `ids`; a row that has proved deadly gets an error and is not run."""
        async with self._permits:
            dispatch: Dispatch = await _reply(self._coordinator.open.remote(self._process, ids))
            if dispatch.is_safe:
                return await self._finished(ids, run)
        async with self._alone():
            return await self._in_pieces(ids, dispatch, run)

    async def _in_pieces(self, ids: Rows, dispatch: Dispatch, run: Run) -> list[Answer]:
        answers = {id: Answer.failed(id, Quarantined(why)) for id, why in dispatch.quarantined.items()}
        for piece in dispatch.pieces:
            await _reply(self._coordinator.begin.remote(self._process, piece))
            answers.update(zip(piece, await self._finished(piece, run), strict=True))
        return [answers[id] for id in ids]

    async def _finished(self, ids: Rows, run: Run) -> list[Answer]:
        if not ids:
            return []
        answers = await run(ids)
        self._coordinator.finish.remote(self._process, ids)
        return answers

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Nothing else is in the engine inside the block. The turnstile keeps two from waiting for each other."""
        async with self._turnstile:
            for _ in range(self._windows):
                await self._permits.acquire()
        try:
            yield
        finally:
            for _ in range(self._windows):
                self._permits.release()

    def leave(self, words: str) -> None:
        """End this process so that a fresh one takes over; its rows are written down already."""
        logger.error("leaving: %s", words)
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            self._coordinator.leave.remote(self._process, words).future().result(_PATIENCE_SECONDS)
        os._exit(1)


@dataclass(frozen=True, slots=True)
class TaskQuarantine:
    """The same for what runs in tasks, one after the other: an image can kill the process that decodes it, too."""

    coordinator: Any

    def pieces(self, ids: Rows) -> Iterator[tuple[Rows, str | None]]:
        """What to work on, in this order, each before the next is asked for; with a reason: what not to touch."""
        # Names of their own, as the same rows are at work in an actor later; and every task is a process.
        names = {f"{_IN_TASKS}:{id}": id for id in ids}
        process = Process(_IN_TASKS, uuid.uuid4().hex)
        dispatch: Dispatch = ray.get(self.coordinator.open.remote(process, tuple(names)))
        for name, why in dispatch.quarantined.items():
            yield (names[name],), why
        for piece in dispatch.pieces:
            if not dispatch.is_safe:
                ray.get(self.coordinator.begin.remote(process, piece))
            yield tuple(names[name] for name in piece), None
            self.coordinator.finish.remote(process, piece)


async def _reply(sent: Any) -> Any:
    return await asyncio.wrap_future(sent.future())
