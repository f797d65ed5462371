"""One run at a time per output. Whoever holds the lease renews it; a run that died is succeeded.

That answers are never lost or doubled does not hang on this: `snapshots` sees to it whatever clocks say and
whoever sleeps. The lease keeps two runs from doing the same work, and says who is there.

A lease is free when it was given back, when its process is known to be dead, when it ran out long ago by the
clock, or when it was watched for its whole term and nobody renewed it: that needs no two clocks to agree. A file that
somebody deleted or overwrote is written again by whoever holds the lease.
Knows no answers.
"""

import contextlib
import datetime
import hashlib
import json
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter

from star_batch.errors import LeaseHeld, LeaseLost, OutputError, StarBatchError
from star_batch.storage.compare_and_swap import Read, compare_and_swap, read
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import STORAGE_ERRORS, Location, explain, failing_as
from star_batch.wording import printable

logger = logging.getLogger(__name__)

LEASE = "_lease.json"
CLOCK_SKEW_SECONDS = 60.0
"""By how much the clocks of two machines may differ before a lease is taken for older than it is."""

_RENEWALS_PER_TERM = 4
_LOOKS_PER_TERM = 40
_TRIES = 5
_LONGEST_SECONDS = 3600.0  # as configured; a file that says more is damaged, as others would wait for so long
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
    def from_json(cls, data: bytes) -> Self | None:
        """None if it is no lease; what later versions may add is passed over."""
        try:
            terms = TypeAdapter(cls).validate_json(data)
        except ValueError:
            return None
        return terms if 0 < terms.seconds <= _LONGEST_SECONDS and math.isfinite(terms.expires) else None

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
        OutputError: the file is no lease, or can be renewed no longer.
    """

    output: Location
    seconds: float
    _terms: Terms = field(init=False)
    _done: threading.Event = field(default_factory=threading.Event)
    _end: StarBatchError | None = None
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
        if self._end is not None:
            raise self._end from None
        with contextlib.suppress(*STORAGE_ERRORS):
            self._write(_fresh(self._terms, is_released=True))

    def confirm(self) -> None:
        """Renew it now.

        Raises:
            LeaseLost: it is another's.
        """
        self._renew()
        if self._end is not None:
            raise self._end

    def _take(self) -> None:
        file = self.output.at(LEASE)
        watched, patience, is_told = None, 0.0, False
        while True:
            there = read(file)
            terms = _terms_in(self.output, there)
            if terms is not None and watched is None:
                watched, patience = terms, time.monotonic() + terms.seconds
            if terms is None or terms.is_free(time.time()) or time.monotonic() > patience:
                if self._put(file, there):
                    return
                watched = None
                continue
            if watched is not None and terms.nonce != watched.nonce:
                raise LeaseHeld(_held_words(self.output, terms))
            if not is_told:
                is_told = True
                words = "%s: waiting for up to %.0f seconds to see whether %s, is still at work"
                logger.warning(words, self.output.shown, terms.seconds, _who(terms))
            time.sleep(self.seconds / _LOOKS_PER_TERM)

    def _put(self, file: Location, there: Read | None) -> bool:
        crash_at("while taking the lease")
        self._terms = _fresh(self._terms)
        is_ours = compare_and_swap(file, there, self._terms.to_json())
        if is_ours:
            crash_at("after taking the lease")
        return is_ours

    def _keep(self) -> None:
        while not self._done.wait(self.seconds / _RENEWALS_PER_TERM):
            try:
                self._renew()
            except STORAGE_ERRORS as error:
                logger.warning("the lease could not be renewed: %s", explain(error, self.output.options))
            except Exception as error:  # whatever it is: no job works on without anybody who renews
                words = printable(f"{type(error).__name__}: {error}")
                self._end = OutputError(f"{self.output.shown}: the lease can be renewed no longer: {words}")
            if self._end is not None:
                self._stop_caller(self._end)
                return

    def _renew(self) -> None:
        other = self._write(_fresh(self._terms))
        if other is not None:
            words = f"another run has taken over ({_who(other)}); what was committed before that counts"
            self._end = LeaseLost(f"{self.output.shown}: {words}")

    def _write(self, terms: Terms) -> Terms | None:
        """The terms of another run that has the lease; None if it is ours."""
        file = replace(self.output.at(LEASE), retry_seconds=self.seconds)
        for _ in range(_TRIES):
            there = read(file)
            found = Terms.from_json(there.data) if there is not None else None
            if found is not None and found.holder != terms.holder:
                return found
            if there is None and terms.is_released:
                return None
            crash_at("while renewing the lease")
            if compare_and_swap(file, there, terms.to_json()):
                if found is None:
                    logger.warning("%s: %s; it was written again", file.shown, _harm(there))
                return None
            # A race: with a renewal of our own from another thread all is well.
        return None

    def _stop_caller(self, why: StarBatchError) -> None:
        """As if somebody had pressed Ctrl-C: it reaches the main thread wherever it waits."""
        with self._guard:
            if self._done.is_set():
                return
            if not self._is_main:
                logger.error("%s; the job stops before it declares its end", why)
                return
            signal.pthread_kill(threading.main_thread().ident, STOP)  # type: ignore[arg-type]

    @property
    def _is_main(self) -> bool:
        """Only the main thread is told signals."""
        return self._caller is threading.main_thread()


def read_lease(output: Location) -> Terms | None:
    """Who holds an output, or held it last.

    Raises:
        OutputError: it cannot be read, or is no lease.
    """
    with failing_as(OutputError, "read the output", output):
        return _terms_in(output, read(output.at(LEASE)))


def _terms_in(output: Location, there: Read | None) -> Terms | None:
    if there is None:
        return None
    terms = Terms.from_json(there.data)
    if terms is None:
        raise OutputError(
            f"{output.at(LEASE).shown} is not a lease: it is damaged, or somebody else's. A run at work there writes "
            "it again within its term; if there is none, delete the file"
        )
    return terms


def _harm(there: Read | None) -> str:
    if there is None:
        return "somebody has deleted the lease of this run"
    begins = printable(there.data[:40].decode(errors="replace"))
    return f"somebody has overwritten the lease of this run (it begins with {begins!r})"


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
    return f"{output.shown}: another run is at work there: {_who(terms)}; wait for it, or stop it"


def _who(terms: Terms) -> str:
    return f"process {terms.pid} on {printable(terms.host)}, since {printable(terms.since)}"


def _machine() -> str | None:
    """A name for everything in which a process id means the same process: this boot, this container."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read()
        return hashlib.sha256(f"{boot}{os.stat('/proc/self/ns/pid').st_ino}".encode()).hexdigest()[:16]
    return None


def _is_alive(pid: int) -> bool:
    if pid <= 0:  # to the system a group of processes, or all of them
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
