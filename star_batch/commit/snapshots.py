"""Which parts count. The one place that decides it, by nothing but files that are created once.

A run that is about to write opens an epoch: it looks at what counts, and creates the next number's record,
which names every part that counts from there on. Two cannot create one record, and whoever creates number
n + 1 has seen number n, so all agree on one history. What counts is the newest record's parts and the parts
whose markers bear that epoch's name. A process of an older epoch may write for as long as it likes: its
markers are read by nobody any more.

Knows neither Ray nor rows; who may open an epoch without disturbing another run is the lease's business.
"""

import io
import json
import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.commit.digests import Digests, is_in, joined
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.layout import ANSWERS, COMMITS, EPOCHS, SUCCESS, check_nothing_foreign, is_finite
from star_batch.commit.markers import Commit, load_marker
from star_batch.errors import LeaseLost, OutputError
from star_batch.storage.crashes import crash_at
from star_batch.storage.location import Location
from star_batch.storage.parquet import ExtensionRefused, read_parquet

PART_FORM = 2
"""Raised when the columns of the parts change their types. What is older is read, and written anew at the end."""

_THREADS = 16
_NUM_DIFFERENCES = 6
_INFO = b"star_batch"
_RECORD = re.compile(r"([0-9]{8})\.parquet")

_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("attempt", pa.string()),
        ("fingerprint", pa.string()),
        ("rows", pa.int64()),
        ("answered", pa.int64()),
        ("failed", pa.int64()),
        ("ids", pa.large_binary()),
        ("seconds", pa.float64()),
        ("at", pa.float64()),
        ("size", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The right to make parts count until a later epoch is opened. Small: it travels to every task.

    `holder` tells apart runs that an operator made collide by deleting records. `form`: the oldest among the parts.
    """

    output: Location
    number: int
    holder: str
    fingerprint: str
    form: int = PART_FORM

    @property
    def name(self) -> str:
        return f"{self.number:08d}-{self.holder}"

    def new_part(self, ids: str, attempt: str) -> str:
        return f"{ANSWERS}/{self.name}-{ids}-{attempt}.parquet"

    def marker(self, ids: str) -> Location:
        return self.output.at(COMMITS, f"{self.name}-{ids}.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What counts at this moment. Number 0: nothing was ever begun. `form`: the oldest that a part may have.

    `lost`: what would count if its part were there and whole; empty unless somebody has looked for the parts.
    """

    number: int = 0
    holder: str = ""
    fingerprint: Fingerprint | None = None
    opened: float = 0.0
    commits: tuple[Commit, ...] = ()
    num_before: int = 0
    is_complete: bool = False
    lost: tuple[Commit, ...] = ()
    form: int = PART_FORM

    @property
    def rows(self) -> int:
        return sum(commit.rows for commit in self.commits)

    @property
    def answered(self) -> int:
        return sum(commit.answered for commit in self.commits)

    @property
    def failed(self) -> int:
        return sum(commit.failed for commit in self.commits)

    @property
    def recent(self) -> tuple[Commit, ...]:
        """What was committed since the epoch was opened."""
        return self.commits[self.num_before :]


def ids_of(commits: Sequence[Commit]) -> Digests:
    return joined(commit.ids for commit in commits)


def with_vanished(ids: Digests, commits: Sequence[Commit]) -> Digests:
    """The ids of an input, then those that have an answer and are not in the input any more."""
    there = ids_of(commits)
    return np.concatenate([ids, there[~is_in(there, ids)]])


def read_snapshot(output: Location) -> Snapshot:
    """What counts.

    Raises:
        OutputError: a record or a marker is damaged, or there are answers that no run has accounted for.
    """
    number = newest(output)
    try:
        return _read_snapshot(output, number)
    except (FileNotFoundError, OutputError):
        # A run that opens the next epoch meanwhile also tidies up after this one.
        if newest(output) == number:
            raise
    return read_snapshot(output)


def _read_snapshot(output: Location, number: int) -> Snapshot:
    if not number:
        _check_unused(output)
        return Snapshot()
    record = output.at(EPOCHS, f"{number:08d}.parquet")
    holder, fingerprint, opened, form, before = _read_record(record)
    name = f"{number:08d}-{holder}"
    fresh = _load_markers(output, name)
    return Snapshot(
        number=number,
        holder=holder,
        fingerprint=fingerprint,
        opened=opened,
        commits=(*before, *fresh),
        num_before=len(before),
        is_complete=completed(output) == name,
        form=form,
    )


def next_epoch(output: Location, after: Snapshot, fingerprint: Fingerprint) -> Epoch:
    """What may be opened; parts can be written for it beforehand, and nobody sees them."""
    return Epoch(
        output=output,
        number=after.number + 1,
        holder=uuid.uuid4().hex[:12],
        fingerprint=fingerprint.digest,
        form=after.form if after.commits else PART_FORM,
    )


def open_epoch(epoch: Epoch, kept: Sequence[Commit], fingerprint: Fingerprint) -> None:
    """From here on `kept` counts, and what is committed in this epoch; nothing else.

    Raises:
        LeaseLost: another run was faster.
    """
    crash_at("before epoch")
    record = epoch.output.at(EPOCHS, f"{epoch.number:08d}.parquet")
    try:
        record.create(_to_parquet(epoch, kept, fingerprint))
    except FileExistsError:
        # Another's, or our own: a first try may have succeeded and its reply been lost.
        if not _is_ours(record, epoch):
            raise LeaseLost(f"{epoch.output.shown}: another run has taken over") from None
    crash_at("after epoch")


def _is_ours(record: Location, epoch: Epoch) -> bool:
    try:
        return _read_record(record)[0] == epoch.holder
    except FileNotFoundError:
        # A run that came later still has tidied it up.
        return False


def check_fingerprint(output: Location, there: Fingerprint | None, here: Fingerprint) -> None:
    """Answers of different jobs never meet.

    Raises:
        OutputError: the output holds answers of another fingerprint; with what differs.
    """
    if there is None or there.digest == here.digest:
        return
    differences = there.differences(here)
    shown = "; ".join(differences[:_NUM_DIFFERENCES])
    more = len(differences) - _NUM_DIFFERENCES
    raise OutputError(
        f"{output.shown} holds answers of another job ({shown}{f'; and {more} more' if more > 0 else ''}): "
        "choose another output, or say overwrite"
    )


def newest(output: Location) -> int:
    """The number of the last epoch that was opened, or 0."""
    return max(_numbers(output), default=0)


def old_records(output: Location, before: int) -> list[Location]:
    """Records that a newer one has replaced."""
    return [output.at(EPOCHS, f"{number:08d}.parquet") for number in _numbers(output) if number < before]


def _numbers(output: Location) -> list[int]:
    found = map(_RECORD.fullmatch, output.at(EPOCHS).files())
    return [int(match[1]) for match in found if match is not None]


def completed(output: Location) -> str | None:
    """The name of the epoch that is complete, if one is."""
    try:
        return output.at(SUCCESS).read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None


def _check_unused(output: Location) -> None:
    check_nothing_foreign(output)
    if output.at(ANSWERS).files() or output.at(COMMITS).files():
        raise OutputError(f"{output.shown} holds answers but no {EPOCHS}: choose another output, or say overwrite")


def _to_parquet(epoch: Epoch, commits: Sequence[Commit], fingerprint: Fingerprint) -> bytes:
    parts = dict(fingerprint.parts)
    info = {"holder": epoch.holder, "opened": time.time(), "form": epoch.form, "fingerprint": parts}
    table = pa.Table.from_pylist([asdict(commit) for commit in commits], schema=_SCHEMA)
    buffer = io.BytesIO()
    # Digests repeat nowhere and cannot be compressed.
    pq.write_table(table.replace_schema_metadata({_INFO: json.dumps(info)}), buffer, use_dictionary=False)
    return buffer.getvalue()


def _read_record(record: Location) -> tuple[str, Fingerprint, float, int, tuple[Commit, ...]]:
    try:
        table = read_parquet(record.read_bytes())
        info = json.loads(table.schema.metadata[_INFO])
        opened = info["opened"]
        if not (isinstance(info["fingerprint"], dict) and isinstance(info["holder"], str) and is_finite(opened)):
            raise ValueError("no record")
        # Column by column: a list of dicts would hold everything twice.
        names = [field.name for field in fields(Commit) if field.name != "size" or "size" in table.column_names]
        columns = [table[name].to_pylist() for name in names]
        commits = tuple(Commit(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
        # Records had no form before there was a second one.
        form = int(dict(info).get("form", 1))
        return info["holder"], Fingerprint(info["fingerprint"]), float(opened), form, commits
    except ExtensionRefused as error:
        raise OutputError(f"{record.shown}: {error}") from None
    except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise OutputError(f"{record.shown} is damaged") from None


def _load_markers(output: Location, epoch: str) -> tuple[Commit, ...]:
    folder = output.at(COMMITS)
    names = [name for name in folder.files() if name.startswith(f"{epoch}-") and name.endswith(".json")]
    with ThreadPoolExecutor(_THREADS) as threads:
        return tuple(threads.map(load_marker, map(folder.at, names)))
