"""What an output holds, told from the store alone: how far its job is, and whether every row is there once.

Changes nothing and needs no Ray running. Knows no engine.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow.compute as pc

from star_batch.commit.digests import Digests
from star_batch.commit.finalise import differences
from star_batch.commit.layout import read_run
from star_batch.commit.lease import Terms, read_lease
from star_batch.commit.losses import loss_words, read_checked
from star_batch.commit.markers import Commit, strays
from star_batch.commit.parts import read_part
from star_batch.commit.snapshots import Snapshot, read_snapshot, with_vanished
from star_batch.errors import OutputError
from star_batch.storage.location import Location, failing_as

logger = logging.getLogger(__name__)

_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a job is. `rate`: rows per second since the run that is or was at work began; None without any.

    `total` is None where no run has left a record of its input.
    """

    answered: int
    failed: int
    total: int | None
    rate: float | None
    is_complete: bool
    epoch: int
    lease: Terms | None

    @property
    def rows(self) -> int:
        return self.answered + self.failed

    @property
    def left(self) -> int | None:
        return None if self.total is None else self.total - self.rows

    @property
    def state(self) -> Literal["complete", "running", "stopped", "dead"]:
        """Stopped is over in an orderly way; dead is a run that was not heard of for too long."""
        if self.is_complete:
            return "complete"
        if self.lease is None or self.lease.is_released:
            return "stopped"
        return "dead" if self.lease.is_free(time.time()) else "running"

    @property
    def who(self) -> str:
        """Which process is at work, or was when it died."""
        if self.lease is None or self.state in ("complete", "stopped"):
            return ""
        return f"process {self.lease.pid} on {self.lease.host}, since {self.lease.since}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found by reading every row; the promise holds if there are no `findings`."""

    rows: int
    answered: int
    failed: int
    findings: tuple[str, ...]


def status(output: Location) -> Status:
    """How far the job of an output is.

    Raises:
        OutputError: it cannot be read, or no job has ever begun there.
    """
    seen, record = _look(output, read_checked), read_run(output) or {}
    if seen.lost:
        logger.warning("%s: %s; the same command, run again, answers them again", output.shown, loss_words(seen))
    return Status(
        answered=seen.answered,
        failed=seen.failed,
        total=record.get("num_input_rows"),
        rate=_rate(seen),
        is_complete=seen.is_complete,
        epoch=seen.number,
        lease=read_lease(output),
    )


def verify(output: Location, wanted: Digests | None = None, *, keeps_vanished: bool = False) -> Verdict:
    """Read every row that counts and compare with the ids `wanted`, if they are given.

    Args:
        output: where the answers are.
        wanted: the input's ids.
        keeps_vanished: answers to other ids are fine, too.

    Raises:
        OutputError: the output cannot be read at all.
    """
    seen = _look(output, read_snapshot)
    if wanted is not None and keeps_vanished:
        wanted = with_vanished(wanted, seen.commits)
    with failing_as(OutputError, "read the output", output):
        findings = [
            *_row_findings(output, seen),
            *differences(seen.commits, wanted),
            *_folder_findings(output, seen),
        ]
    return Verdict(rows=seen.rows, answered=seen.answered, failed=seen.failed, findings=tuple(findings))


def _look(output: Location, how: Callable[[Location], Snapshot]) -> Snapshot:
    with failing_as(OutputError, "read the output", output):
        seen = how(output)
    if not seen.number:
        raise OutputError(f"{output.shown}: no job has begun there")
    return seen


def _rate(seen: Snapshot) -> float | None:
    if not seen.recent:
        return None
    seconds = max(commit.at for commit in seen.recent) - seen.opened
    return sum(commit.rows for commit in seen.recent) / seconds if seconds > 0 else None


def _row_findings(output: Location, seen: Snapshot) -> Iterator[str]:
    digest = seen.fingerprint.digest if seen.fingerprint is not None else ""
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        for found in threads.map(partial(_check_part, output, digest), seen.commits):
            if isinstance(found, OutputError):
                yield str(found)
            else:
                counts += found
    yield from (f"{count} {what}" for what, count in counts.items())


def _check_part(output: Location, fingerprint: str, commit: Commit) -> Counter[str] | OutputError:
    try:
        rows = read_part(output, commit, ["id", "answer", "error", "fingerprint"])
    except OutputError as error:
        return error
    has_answer, has_error = pc.is_valid(rows["answer"]), pc.is_valid(rows["error"])
    is_foreign = pc.fill_null(pc.not_equal(rows["fingerprint"], fingerprint), True)
    is_miscounted = (pc.sum(has_error).as_py() or 0) != commit.failed
    counts = {
        "rows have neither an answer nor an error": pc.sum(pc.invert(pc.or_(has_answer, has_error))).as_py(),
        "rows have both an answer and an error": pc.sum(pc.and_(has_answer, has_error)).as_py(),
        "rows are answers of another job": pc.sum(is_foreign).as_py(),
        "parts have another number of failed rows than their marker says": int(is_miscounted),
    }
    return +Counter({what: count or 0 for what, count in counts.items()})


def _folder_findings(output: Location, seen: Snapshot) -> Iterator[str]:
    if not seen.is_complete:
        yield "the job is not finished"
        return
    if found := strays(output, seen.commits):
        yield f"{len(found)} files among the answers do not count ({found[0]})"
