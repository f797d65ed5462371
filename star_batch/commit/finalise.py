"""The end of a job: every row is there once, orphans are gone, then `_SUCCESS`.

Opens an epoch of its own, so that nothing that is still on its way counts any more. May be interrupted
anywhere and run again with the same result. Knows no Ray and no engine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from star_batch.commit.digests import Digests, is_in, is_repeated
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.layout import ANSWERS, EPOCHS, SUCCESS, check_nothing_foreign, delete, part_epoch
from star_batch.commit.markers import Commit
from star_batch.commit.parts import in_one_form, without_repeats
from star_batch.commit.snapshots import (
    PART_FORM,
    Epoch,
    Snapshot,
    ids_of,
    next_epoch,
    old_records,
    open_epoch,
    read_snapshot,
)
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import Location, failing_as

T = TypeVar("T")

Describe: TypeAlias = Callable[[Sequence[Commit]], T]
"""Writes down what the rows that count are like, before the output is complete. What it raises leaves it unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is to be found at the end: the input's ids, and no epoch after the one this run worked in."""

    ids: Digests
    epoch: int
    fingerprint: Fingerprint


def finalise(output: Location, expected: Expected, confirm: Callable[[], None], describe: Describe[T]) -> T:
    """Check the result against the input's ids, clean up, describe it, and say that the job is complete.

    `confirm` raises if another run has the output by now. Returns what `describe` does.

    Raises:
        OutputError: rows are missing, doubled or foreign, or the output cannot be read or written.
        LeaseLost: another run has taken over.
    """
    with failing_as(OutputError, "finish the output", output):
        epoch, commits = _trimmed(output, _look(output, expected), expected)
        check_rows(commits, expected.ids)
        output.at(SUCCESS).delete()
        open_epoch(epoch, commits, expected.fingerprint)
        delete_orphans(output, commits, epoch.number)
        described = describe(commits)
        crash_at("after metrics")
        confirm()
        output.at(SUCCESS).write_bytes(epoch.name.encode())
        crash_at("after success")
    return described


def _look(output: Location, expected: Expected) -> Snapshot:
    seen = read_snapshot(output)
    if seen.number > expected.epoch:
        raise LeaseLost(f"{output.shown}: another run has taken over; what was committed before that counts")
    if seen.number < expected.epoch:
        raise OutputError(f"{output.shown}: somebody has deleted the records of this run from {EPOCHS}")
    check_nothing_foreign(output)
    return seen


def _trimmed(output: Location, seen: Snapshot, expected: Expected) -> tuple[Epoch, Sequence[Commit]]:
    """What may be opened next, and what is to count then: every id once, in today's types."""
    epoch = next_epoch(output, seen, expected.fingerprint)
    commits = in_one_form(epoch, without_repeats(epoch, seen.commits))
    crash_at("after trimming")
    return replace(epoch, form=PART_FORM), commits


def check_rows(commits: Sequence[Commit], wanted: Digests) -> None:
    """answered + failed == rows == distinct ids == rows of the input, and the ids are the input's.

    Raises:
        OutputError: they are not; the message says how.
    """
    if findings := list(differences(commits, wanted)):
        raise OutputError(f"the answers do not match the input's {len(wanted)} rows: {'; '.join(findings)}")


def differences(commits: Sequence[Commit], wanted: Digests | None = None) -> Iterator[str]:
    """In which ways the rows that count are not exactly the wanted ones, or not even once each."""
    ids = ids_of(commits)
    rows, answered, failed = (sum(getattr(c, name) for c in commits) for name in ("rows", "answered", "failed"))
    findings = {"ids stand in several rows": np.count_nonzero(is_repeated(ids))}
    if wanted is not None:
        findings["rows are missing"] = np.count_nonzero(~is_in(wanted, ids))
        findings["rows are not in the input"] = np.count_nonzero(~is_in(ids, wanted))
    yield from (f"{count} {what}" for what, count in findings.items() if count)
    if not answered + failed == rows == len(ids):
        yield f"{answered} answered + {failed} failed are not {rows} rows with {len(ids)} ids"


def delete_orphans(output: Location, commits: Sequence[Commit], epoch: int) -> None:
    """Delete parts that will never count: attempts that lost or died, before or in this epoch. And old records."""
    named = {commit.file for commit in commits}
    parts = [name for name in output.at(ANSWERS).files() if (part_epoch(name) or epoch + 1) <= epoch]
    for number, part in enumerate(name for name in parts if f"{ANSWERS}/{name}" not in named):
        output.at(ANSWERS, part).delete()
        if not number:
            crash_at("while deleting")
    delete(old_records(output, epoch))
