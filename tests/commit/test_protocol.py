"""The protocol against whatever may happen: every operation may be the last of its process, or wait for ever.

The code is the real one, on a store in memory. Processes are threads that run one storage operation at a
time, and only when they are told to; one that is told no more has died, or sleeps until somebody wakes it.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from star_batch.commit.digests import digest_ids, is_in, joined
from star_batch.commit.finalise import Expected
from star_batch.commit.losses import read_checked
from star_batch.commit.parts import without_failed
from star_batch.commit.snapshots import Epoch, ids_of, next_epoch, open_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import StarBatchError
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers
from tests.pipeline.samples import complete

IDS = [f"id-{n}" for n in range(6)]
ALL = joined([digest_ids(IDS)])


class Died(BaseException):
    """Nothing in the code may catch it."""


@dataclass
class Process:
    """A thread that waits before every storage operation until it may go on."""

    work: Callable[[], object]
    epoch: Epoch | None = None
    _may_go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _has_stopped: threading.Event = field(default_factory=threading.Event)
    _is_killed: bool = False
    is_over: bool = False
    error: BaseException | None = None
    has_lost_reply: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def _run(self) -> None:
        CURRENT.process = self
        try:
            with contextlib.suppress(Died, StarBatchError):
                self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._has_stopped.set()

    def pause(self) -> None:
        """Called by the store, in the process's own thread."""
        if not self._is_killed:
            self._has_stopped.set()
            self._may_go.acquire()
        if self._is_killed:
            raise Died

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            if self.is_over:
                return
            self._has_stopped.clear()
            self._may_go.release()
            self._wait()

    def _wait(self) -> None:
        # A process that neither stops nor ends must fail the test, not hang it.
        assert self._has_stopped.wait(60), "a process waits for something that is not the store"
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        self._is_killed = True
        self.step()
        self._thread.join()


CURRENT = threading.local()


class SteppedStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec is not typed
    """A store in memory whose users take turns, and whose replies may be lost."""

    protocol = "stepped"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        process = getattr(CURRENT, "process", None)
        if process is not None:
            process.pause()
        yield

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> Any:
        with self._turn():
            return super().cat_file(path, start, end, **kwargs)

    def find(self, path: str, **kwargs: Any) -> Any:
        with self._turn():
            return super().find(path, **kwargs)

    def rm_file(self, path: str) -> None:
        with self._turn():
            super().rm_file(path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        with self._turn():
            if mode == "create" and self._strip_protocol(path) in self.store:
                raise FileExistsError(path)
            super().pipe_file(path, value, **kwargs)
        process = getattr(CURRENT, "process", None)
        if mode == "create" and process is not None and process.has_lost_reply:
            # The client tries again, and is told that the file is there.
            process.has_lost_reply = False
            raise FileExistsError(path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(str(path).replace("stepped://", "memory://")))


fsspec.register_implementation("stepped", SteppedStore, clobber=True)


class Protocol(RuleBasedStateMachine):
    """Runs begin, commit, end, die, sleep and wake in any order; lost leases are not even needed for it."""

    @initialize()
    def empty(self) -> None:
        SteppedStore.store.clear()
        SteppedStore.pseudo_dirs[:] = [""]
        self.output = Location("stepped://out")
        self.processes: list[Process] = []
        self.epochs: list[Epoch] = []
        self.has_killed_a_writer = False

    def teardown(self) -> None:
        for process in getattr(self, "processes", []):
            process.kill()

    def spawn(self, work: Callable[[], object], lost_reply: bool = False) -> Process:
        process = Process(work)
        process.has_lost_reply = lost_reply
        self.processes.append(process)
        return process

    @rule(retry_failed=st.booleans(), lost_reply=st.booleans())
    def begin(self, retry_failed: bool, lost_reply: bool) -> None:
        def work() -> None:
            seen = read_snapshot(self.output)
            epoch = next_epoch(self.output, seen, FINGERPRINT)
            kept = without_failed(epoch, seen.commits, ids_of(seen.commits)) if retry_failed else seen.commits
            open_epoch(epoch, kept, FINGERPRINT)
            self.epochs.append(epoch)

        self.spawn(work, lost_reply)

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), failed=st.booleans(), lost_reply=st.booleans())
    def commit(self, data: st.DataObject, failed: bool, lost_reply: bool) -> None:
        """By a worker of any epoch, of some rows that did not count when its run began, cut as it likes."""
        epoch = data.draw(st.sampled_from(self.epochs))
        ids = data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
        self.spawn(lambda: self._commit(epoch, ids, failed), lost_reply)

    def _commit(self, epoch: Epoch, ids: list[str], failed: bool) -> None:
        before = read_snapshot(self.output)
        done = ids_of(before.commits[: before.num_before])
        fresh = [id for id in ids if not is_in(joined([digest_ids([id])]), done)[0]]
        if before.number == epoch.number and fresh:
            commit_rows(epoch, answers(*fresh, failed=int(failed)))

    @precondition(lambda self: self.epochs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(self.epochs))
        expected = Expected(ids=ALL, epoch=epoch.number, fingerprint=FINGERPRINT)
        self.spawn(lambda: complete(self.output, expected))

    @precondition(lambda self: any(not process.is_over for process in self.processes))
    @rule(data=st.data(), steps=st.integers(1, 12))
    def wake(self, data: st.DataObject, steps: int) -> None:
        data.draw(st.sampled_from([p for p in self.processes if not p.is_over])).step(steps)

    @precondition(lambda self: any(not process.is_over for process in self.processes))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([p for p in self.processes if not p.is_over])).kill()

    @rule(is_harmed=st.booleans())
    def go_on_alone(self, is_harmed: bool) -> None:
        """A run that nobody disturbs finishes the job, whatever lies there, is lost, and whoever still sleeps."""
        if is_harmed and (there := read_snapshot(self.output).commits):
            self.output.at(there[0].file).delete()
        seen = read_checked(self.output)
        epoch = next_epoch(self.output, seen, FINGERPRINT)
        open_epoch(epoch, seen.commits, FINGERPRINT)
        done = ids_of(seen.commits)
        left = [id for id in IDS if not is_in(joined([digest_ids([id])]), done)[0]]
        for id in left:
            assert commit_rows(epoch, answers(id))
        expected = Expected(ids=ALL, epoch=epoch.number, fingerprint=FINGERPRINT)
        summary = complete(self.output, expected)
        assert (summary.rows, summary.answered + summary.failed) == (len(IDS), len(IDS))
        self.epochs.append(epoch)
        self.check_complete()

    def check_complete(self) -> None:
        seen = read_snapshot(self.output)
        assert seen.is_complete
        files = {f"answers/{name}" for name in self.output.at("answers").files()}
        assert {commit.file for commit in seen.commits} <= files
        counted = Counter(id for commit in seen.commits for id in self._ids(commit.file))
        assert counted == Counter(IDS)

    def _ids(self, file: str) -> list[str]:
        with SteppedStore().open(self.output.at(file).path, "rb") as part:
            return list(pq.read_table(part)["id"].to_pylist())

    @invariant()
    def what_counts_is_there(self) -> None:
        if hasattr(self, "output"):
            seen = read_snapshot(self.output)
            for commit in seen.commits:
                assert len(self._ids(commit.file)) == commit.rows
            if seen.is_complete:
                self.check_complete()


class LongProtocol(Protocol):
    """The same for some minutes."""


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )


Protocol.TestCase.settings = _settings(8)
LongProtocol.TestCase.settings = _settings(40)
TestProtocol = Protocol.TestCase
TestLongProtocol = pytest.mark.faults(LongProtocol.TestCase)
