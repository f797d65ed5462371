"""One run at a time per output. Whoever holds the lease renews it; a run that died is succeeded.

That answers are never lost or doubled does not hang on this: `epochs` sees to it whatever clocks say and
whoever sleeps. The lease keeps two runs from doing the same work, and says who is there.

A lease is free when it was given back, when its process is known to be dead, when it ran out long ago by the
clock, or when it was watched for its whole term and nobody renewed it: that needs no two clocks to agree.
Knows no answers.
"""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from star_batch.errors import LeaseHeld, LeaseLost, OutputError
from star_batch.pipeline.faults import crash_at
from star_batch.pipeline.storage import STORAGE_ERRORS, Location, explain, failing_as
from star_batch.pipeline.swap import Read, read, swap

logger = logging.getLogger(__name__)

LEASE = "_lease.json"
CLOCK_SKEW_SECONDS = 60.0
"""By how much the clocks of two machines may differ before a lease is taken for older than it is."""

_RENEWALS_PER_TERM = 4
_LOOKS_PER_TERM = 40
STOP = signal.SIGUSR2  # not SIGINT, which is ignored in what nohup or a script started in the background
_HELD: set[str] = set()
"""Leases of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the file says. `machine` is where process ids mean the same; None where that cannot be told.

    `nonce` is new with every write, so that a writer whose reply was lost finds out what became of it.
    """

    holder: str
    host: str
    pid: int
    machine: str | None
    since: str
    seconds: float
    expires: float
    nonce: str
    is_released: bool = False

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            raise OutputError(f"{LEASE} is not a lease of this tool: choose another output") from None

    def is_free(self, now: float) -> bool:
        """Whether it may be taken without watching it."""
        return self.is_released or self._is_dead() or now > self.expires + CLOCK_SKEW_SECONDS

    def _is_dead(self) -> bool:
        if self.machine is None or self.machine != _machine():
            return False
        # Our own number may have been another's before.
        return self.holder not in _HELD if self.pid == os.getpid() else not _is_alive(self.pid)


@dataclass(slots=True, kw_only=True)
class Lease:
    """`with Lease(output=..., seconds=60.0):` and nobody else is inside; the end of the block gives it back.

    Raises:
        LeaseHeld: another run is at work; with its machine and process.
        LeaseLost: another run took over while this one was not heard of.
    """

    output: Location
    seconds: float
    _terms: Terms = field(init=False)
    _done: threading.Event = field(default_factory=threading.Event)
    _is_lost: bool = False
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _caller: threading.Thread = field(init=False)
    _thread: threading.Thread = field(init=False)
    _before: Any = None

    def __enter__(self) -> Self:
        self._terms = _own_terms(self.seconds)
        _HELD.add(self._terms.holder)
        with failing_as(OutputError, "take the lease of the output", self.output):
            self._take()
        self._caller = threading.current_thread()
        if self._is_main:
            self._before = signal.signal(STOP, signal.default_int_handler)
        self._thread = threading.Thread(target=self._keep, name="star-batch-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._done.set()
        if self._is_main:
            signal.signal(STOP, self._before or signal.SIG_DFL)
        _HELD.discard(self._terms.holder)
        if self._is_lost:
            raise LeaseLost(self._lost_words()) from None
        with contextlib.suppress(*STORAGE_ERRORS):
            self._write(_fresh(self._terms, is_released=True))

    def confirm(self) -> None:
        """Renew it now.

        Raises:
            LeaseLost: it is another's.
        """
        self._renew()
        if self._is_lost:
            raise LeaseLost(self._lost_words())

    def _take(self) -> None:
        file = self.output.at(LEASE)
        watched, patience = None, 0.0
        while True:
            there = read(file)
            terms = Terms.from_json(there.data) if there is not None else None
            if terms is not None and watched is None:
                watched, patience = terms, time.monotonic() + terms.seconds
            if terms is None or terms.is_free(time.time()) or time.monotonic() > patience:
                if self._put(file, there):
                    return
                watched = None
                continue
            if watched is not None and terms.nonce != watched.nonce:
                raise LeaseHeld(_held_words(self.output, terms))
            time.sleep(self.seconds / _LOOKS_PER_TERM)

    def _put(self, file: Location, there: Read | None) -> bool:
        crash_at("while taking the lease")
        self._terms = _fresh(self._terms)
        is_ours = swap(file, there, self._terms.to_json())
        if is_ours:
            crash_at("after taking the lease")
        return is_ours

    def _keep(self) -> None:
        while not self._done.wait(self.seconds / _RENEWALS_PER_TERM):
            try:
                self._renew()
            except STORAGE_ERRORS as error:
                logger.warning("the lease could not be renewed: %s", explain(error, self.output.options))
            if self._is_lost:
                self._stop_caller()
                return

    def _renew(self) -> None:
        if not self._write(_fresh(self._terms)):
            self._is_lost = True

    def _write(self, terms: Terms) -> bool:
        file = replace(self.output.at(LEASE), retry_seconds=self.seconds)
        there = read(file)
        if there is None or Terms.from_json(there.data).holder != terms.holder:
            return False
        crash_at("while renewing the lease")
        return swap(file, there, terms.to_json()) or self._still_ours(file)

    def _still_ours(self, file: Location) -> bool:
        """After a lost race: with a renewal of our own, from another thread, all is well."""
        there = read(file)
        return there is not None and Terms.from_json(there.data).holder == self._terms.holder

    def _stop_caller(self) -> None:
        """As if somebody had pressed Ctrl-C: it reaches the main thread wherever it waits."""
        with self._guard:
            if not self._done.is_set() and self._is_main:
                signal.pthread_kill(threading.main_thread().ident, STOP)  # type: ignore[arg-type]

    @property
    def _is_main(self) -> bool:
        """Only the main thread is told signals."""
        return self._caller is threading.main_thread()

    def _lost_words(self) -> str:
        return f"{self.output.shown}: another run has taken over; what was committed before that counts"


def read_lease(output: Location) -> Terms | None:
    """Who holds an output, or held it last."""
    with failing_as(OutputError, "read the output", output):
        there = read(output.at(LEASE))
    return Terms.from_json(there.data) if there is not None else None


def _own_terms(seconds: float) -> Terms:
    return Terms(
        holder=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        machine=_machine(),
        since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        expires=0.0,
        nonce="",
    )


def _fresh(terms: Terms, is_released: bool = False) -> Terms:
    return replace(terms, nonce=uuid.uuid4().hex, expires=time.time() + terms.seconds, is_released=is_released)


def _held_words(output: Location, terms: Terms) -> str:
    return (
        f"{output.shown}: another run is at work there: process {terms.pid} on {terms.host}, since {terms.since}; "
        "wait for it, or stop it"
    )


def _machine() -> str | None:
    """A name for everything in which a process id means the same process: this boot, this container."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read()
        return hashlib.sha256(f"{boot}{os.stat('/proc/self/ns/pid').st_ino}".encode()).hexdigest()[:16]
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
