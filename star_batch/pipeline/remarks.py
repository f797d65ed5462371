"""What Ray's own processes say while a job runs: kept away from the terminal, and asked when something died.

Under memory pressure a raylet kills processes and starts them again, for ever. Here that is counted, said once in
plain words, and ends the job when no row is finished in between. Knows no row.
"""

import contextlib
import logging
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.exceptions
from ray.data._internal.execution.execution_callback import ExecutionCallback

from star_batch.commit.lease import STOP
from star_batch.errors import ClusterError
from star_batch.pipeline.memory import Witness

logger = logging.getLogger(__name__)

_MEMORY = "killed due to the node running low on memory"
_KILLED = re.compile(
    r"Selected to kill: .*?task name=(?P<task>.*?), required.*?pid=(?P<pid>\d+), .*?used=(?P<gb>[\d.]+)GB"
)
_LIMIT = re.compile(r"was (?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit")
_STAGES = {
    "EngineActor": ("an engine", "cluster.actors, engine.kv_memory_gib, cluster.rows_per_window"),
    "preprocess_block": ("preprocessing", "output.rows_per_file, cluster.rows_per_window"),
    "ReadPlannedParquet": ("reading the input", "output.rows_per_file"),
    "Write": ("writing the answers", "output.rows_per_file"),
}
_DEATHS = (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError)
_ANY_STAGE = ("a process of the job", "cluster.actors, cluster.rows_per_window, output.rows_per_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Processes that a raylet has killed in one go; `task` is what the largest of them was at, with `gb`."""

    pids: tuple[str, ...]
    task: str
    gb: float
    used: str
    limit: str

    def __str__(self) -> str:
        what, settings = next((said for mark, said in _STAGES.items() if mark in self.task), _ANY_STAGE)
        return (
            f"for want of memory Ray killed {what} ({self.gb:g} GB), as {self.used} of {self.limit} GB were in use "
            f"there: give it more memory, or lower {settings}"
        )


def kill_in(text: str) -> Kill | None:
    """The kill that a raylet tells of, if it does."""
    if _MEMORY not in text:
        return None
    found = [match.groupdict() for match in _KILLED.finditer(text)]
    largest = max(found, key=lambda one: float(one["gb"]), default={"task": "", "gb": "0"})
    memory = _LIMIT.search(text)
    return Kill(
        pids=tuple(one["pid"] for one in found),
        task=largest["task"],
        gb=float(largest["gb"]),
        used=memory["used"] if memory else "?",
        limit=memory["limit"] if memory else "?",
    )


class Remarks:
    """Of one job. Told by Ray's thread what raylets say, and by another how many rows are done."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows = 0
        self._in_a_row = 0
        self._is_main = threading.current_thread() is threading.main_thread()
        self._guard = threading.Lock()
        self._is_over = False
        self._witness = Witness()
        self.kills: list[Kill] = []

    def hear(self, data: Mapping[str, Any]) -> None:
        """What Ray would have printed."""
        for text in map(str, data.get("lines", ())):
            logger.debug("%s", text)
            kill = kill_in(text)
            # Every owner of a process that was killed tells the same.
            if kill is not None and kill.pids not in [other.pids for other in self.kills[-8:]]:
                self._add(kill)

    def _add(self, kill: Kill) -> None:
        if not self.kills:
            logger.warning("%s; what it was at is done again", kill)
        self.kills.append(kill)
        self._in_a_row += 1
        if self._in_a_row >= self._most and self._is_main:
            self._stop_caller()

    def _stop_caller(self) -> None:
        """Ray Data may wait for one of its own actors that was killed, and take no further step."""
        with self._guard:
            if not self._is_over:
                signal.pthread_kill(threading.main_thread().ident, STOP)  # type: ignore[arg-type]

    def end(self) -> None:
        with self._guard:
            self._is_over = True

    def progressed(self, rows: int) -> None:
        """So many rows are done; fewer than before when counts were lost."""
        if rows > self._rows:
            self._in_a_row = 0
        self._rows = rows

    def last_words(self) -> str:
        """Why a process died, if it was for want of memory; else nothing."""
        kernel = self._witness.words()
        return str(self.kills[-1]) if self.kills else kernel and f"a process of the job died: {kernel}"

    def check(self) -> None:
        """
        Raises:
            ClusterError: nothing is finished any more, as memory is wanting.
        """
        if self._in_a_row >= self._most:
            times = f"{self._in_a_row} times in a row, and no row was finished in between"
            raise ClusterError(f"{self.kills[-1]}; that was so {times}")


_listening: list[Remarks] = []
"""The job's that runs; Ray makes its callbacks itself, without arguments."""


class StopWithoutMemory(ExecutionCallback):  # type: ignore[misc]
    """Asked at each step of Ray Data's loop: what it raises ends the job."""

    def on_execution_step(self, executor: Any) -> None:
        for remarks in _listening:
            remarks.check()


@contextlib.contextmanager
def listening(most: int, *, verbose: bool) -> Iterator[Remarks]:
    """Inside the block raylets are heard; `most` kills in a row with no row finished in between end what runs there.

    It is one inside a lease, which turns its signal into an exception.

    Raises:
        ClusterError: memory is wanting.
    """
    remarks, worker = Remarks(most), ray._private.worker
    context = ray.data.DataContext.get_current()
    callbacks, printed = context.custom_execution_callback_classes, getattr(worker, "print_to_stdstream", None)

    def hear(data: Mapping[str, Any], *more: Any, **named: Any) -> None:
        remarks.hear(data)
        if verbose and printed is not None:
            printed(data, *more, **named)

    worker.print_to_stdstream = hear
    context.custom_execution_callback_classes = [*callbacks, StopWithoutMemory]
    _listening.append(remarks)
    try:
        yield remarks
    except KeyboardInterrupt:
        remarks.check()
        raise
    except ray.exceptions.RayError as error:
        words = remarks.last_words() if _is_death(error) else ""
        if not words:
            raise
        raise ClusterError(words) from None
    finally:
        remarks.end()
        _listening.remove(remarks)
        worker.print_to_stdstream = printed
        context.custom_execution_callback_classes = callbacks


def _is_death(error: BaseException | None) -> bool:
    """Whether a process died, below the wrappers that Ray has put around it."""
    while error is not None and not isinstance(error, _DEATHS):
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return error is not None
