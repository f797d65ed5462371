"""The promise for somebody else's pipeline: every id once, whatever dies when. Knows no way to make an answer.

with Session("s3://bucket/out", ids=ids, job={"model": "mine"}) as session:
    for table in answer(session.left):  # Arrow tables with the columns id and error, and your own
        session.commit(table)
    session.finish()
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from star_batch.commit.digests import Digests, digest_ids, is_in, is_repeated, joined
from star_batch.commit.finalise import Describe, Expected, finalise
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.layout import SUCCESS, check_nothing_foreign
from star_batch.commit.lease import Lease
from star_batch.commit.losses import read_checked
from star_batch.commit.snapshots import (
    Epoch,
    Snapshot,
    check_fingerprint,
    ids_of,
    next_epoch,
    open_epoch,
    read_snapshot,
    with_vanished,
)
from star_batch.commit.unit import commit_rows
from star_batch.errors import InputError, OutputError
from star_batch.storage.location import Location, failing_as


@dataclass(slots=True, kw_only=True)
class Session:
    """One run at an output, alone there until the block ends; the same call goes on where an earlier one stopped.

    Args:
        output: a local folder, `s3://` or `gs://`.
        ids: of all rows that there are to be, as text, each once; None where nobody knows them: then every row that
            is committed is to be there once, and nobody can say that one is missing.
        job: what the answers depend on. An output that was begun with another is refused.
        options: fsspec's for that file system.
        seconds: a run that was not heard of for so long may be succeeded by another.

    Raises:
        InputError: an id stands there twice.
        OutputError: the output cannot be written to, or holds answers of another job.
        LeaseHeld: another run is at work there.
    """

    output: str
    ids: Sequence[str] | None
    job: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seconds: float = 60.0
    epoch: Epoch = field(init=False)
    """The right to commit; small. Processes that are sent it call `star_batch.commit.unit.commit_rows` with it."""
    left: list[str] = field(init=False)
    """Ids that have no row yet, in order."""
    done: Digests = field(init=False, repr=False)
    """Of the ids that had a row when this began."""
    _wanted: Digests = field(init=False, repr=False)
    _lease: Lease = field(init=False, repr=False)
    _exit: ExitStack = field(init=False, repr=False)

    def __enter__(self) -> Self:
        place, ids = Location.of(self.output, self.options), joined([digest_ids(list(self.ids or ()))])
        if is_repeated(ids).any():
            raise InputError(f"{place.shown}: an id stands twice among the {len(ids):,} ids; make them distinct")
        fingerprint = Fingerprint(dict(self.job))
        with ExitStack() as stack:
            self._lease = stack.enter_context(Lease(output=place, seconds=self.seconds))
            seen = _look(place, fingerprint)
            self.done = ids_of(seen.commits)
            is_there = is_in(ids, self.done)
            self.left = [id for id, is_done in zip(self.ids or (), is_there, strict=True) if not is_done]
            self._wanted = with_vanished(ids, seen.commits)
            self.epoch = next_epoch(place, seen, fingerprint)
            with failing_as(OutputError, "write the output", place):
                place.at(SUCCESS).delete()
                open_epoch(self.epoch, seen.commits, fingerprint)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    def commit(self, rows: pa.Table) -> bool:
        """Make rows count, all or none; False when another attempt at the same rows had won.

        Args:
            rows: `id` (text), `error` (text; null where there is an answer), and whatever else.

        Raises:
            LeaseLost: another run has taken over; nothing of this counts.
            OutputError: the output cannot be written to.
        """
        if "error" not in rows.column_names:
            rows = rows.append_column("error", pa.nulls(rows.num_rows, pa.large_string()))
        return commit_rows(self.epoch, rows)

    def finish(self, describe: Describe[Any] = lambda commits: None) -> Any:
        """Check that every id is there once, clean up, and write `_SUCCESS`.

        Args:
            describe: writes down what the rows that count are like, before that; its result is returned.

        Raises:
            OutputError: rows are missing, doubled or foreign.
            LeaseLost: another run has taken over.
        """
        wanted = self._wanted if self.ids is not None else _distinct(self.epoch.output)
        expected = Expected(ids=wanted, epoch=self.epoch.number, fingerprint=Fingerprint(dict(self.job)))
        return finalise(self.epoch.output, expected, self._lease.confirm, describe)


def answered(output: str, job: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Digests:
    """Of the ids that have a row there now; takes nothing and changes nothing.

    Raises:
        OutputError: the output cannot be read, or holds answers of another job.
    """
    return ids_of(_look(Location.of(output, options), Fingerprint(dict(job))).commits)


def _distinct(place: Location) -> Digests:
    with failing_as(OutputError, "finish the output", place):
        ids = ids_of(read_snapshot(place).commits)
    return ids[~is_repeated(ids)]


def _look(place: Location, fingerprint: Fingerprint) -> Snapshot:
    with failing_as(OutputError, "read the output", place):
        seen = read_checked(place)
        check_nothing_foreign(place)
    check_fingerprint(place, seen.fingerprint, fingerprint)
    return seen
