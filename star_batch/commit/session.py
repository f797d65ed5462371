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
        ids: of all rows that there are to be, as text, each once.
        job: what the answers depend on. An output that was begun with another is refused.
        options: fsspec's for that file system.
        seconds: a run that was not heard of for so long may be succeeded by another.

    Raises:
        InputError: an id stands there twice.
        OutputError: the output cannot be written to, or holds answers of another job.
        LeaseHeld: another run is at work there.
    """

    output: str
    ids: Sequence[str]
    job: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seconds: float = 60.0
    epoch: Epoch = field(init=False)
    """The right to commit; small. Processes that are sent it call `star_batch.commit.unit.commit_rows` with it."""
    left: list[str] = field(init=False)
    """Ids that have no row yet, in order."""
    _wanted: Digests = field(init=False, repr=False)
    _lease: Lease = field(init=False, repr=False)
    _exit: ExitStack = field(init=False, repr=False)

    def __enter__(self) -> Self:
        place, ids = Location.of(self.output, self.options), joined([digest_ids(list(self.ids))])
        if is_repeated(ids).any():
            raise InputError(f"{place.shown}: an id stands twice among the {len(ids):,} ids; make them distinct")
        fingerprint = Fingerprint(dict(self.job))
        with ExitStack() as stack:
            self._lease = stack.enter_context(Lease(output=place, seconds=self.seconds))
            seen = _look(place, fingerprint)
            done = is_in(ids, ids_of(seen.commits))
            self.left = [id for id, is_done in zip(self.ids, done, strict=True) if not is_done]
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
        expected = Expected(ids=self._wanted, epoch=self.epoch.number, fingerprint=Fingerprint(dict(self.job)))
        return finalise(self.epoch.output, expected, self._lease.confirm, describe)


def _look(place: Location, fingerprint: Fingerprint) -> Snapshot:
    with failing_as(OutputError, "read the output", place):
        seen = read_checked(place)
        check_nothing_foreign(place)
    check_fingerprint(place, seen.fingerprint, fingerprint)
    return seen
