"""Parts: tables of answers, each written whole under a name of its own. Whether one counts is not decided here."""

import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_batch.commit.digests import Digests, Mask, digest_ids, is_in, is_repeated, joined
from star_batch.commit.markers import Commit
from star_batch.commit.readable import readable
from star_batch.commit.snapshots import PART_FORM, Epoch, ids_of
from star_batch.errors import OutputError
from star_batch.storage.location import Location
from star_batch.storage.parquet import ExtensionRefused, read_parquet

_THREADS = 16
_NEEDED = ("id", "error")
_AGAIN = "run the same command again, and its rows are answered again"


def prepare_part(epoch: Epoch, table: pa.Table) -> Commit:
    """The name of a part with these rows, and what its marker would say. Writes nothing."""
    ids = table["id"].to_pylist()
    failed = table.num_rows - table["error"].null_count
    attempt = uuid.uuid4().hex
    return Commit(
        file=epoch.new_part(hash_ids(ids), attempt),
        attempt=attempt,
        fingerprint=epoch.fingerprint,
        rows=len(ids),
        answered=len(ids) - failed,
        failed=failed,
        ids=digest_ids(ids),
        seconds=0.0,
        at=time.time(),
    )


def hash_ids(ids: Sequence[str]) -> str:
    """One word for a set of ids: what two attempts at the same rows have in common."""
    # As JSON, so that no id can run into the next.
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:32]


def to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_part(output: Location, commit: Commit, columns: Sequence[str] | None = None) -> pa.Table:
    """A part that counts, compared with what its marker says; in today's types, whichever version wrote it.

    Raises:
        OutputError: it is not there, damaged, or has other rows.
    """
    return _read(output, commit, columns)[0]


def _read(output: Location, commit: Commit, columns: Sequence[str] | None = None) -> tuple[pa.Table, bool]:
    """A part in today's types, and whether it was written so."""
    part = output.at(commit.file)
    try:
        written = read_parquet(part.read_bytes(), columns)
        table = _whole(written, columns or _NEEDED)
    except FileNotFoundError:
        raise OutputError(f"{part.shown} counts, and is not there: {_AGAIN}") from None
    except ExtensionRefused as error:
        raise OutputError(f"{part.shown}: {error}") from None
    except pa.ArrowException:
        raise OutputError(f"{part.shown} is damaged: delete it, then {_AGAIN}") from None
    if digest_ids(table["id"].to_pylist()) != commit.ids:
        raise OutputError(f"{part.shown} holds other rows than its marker says: delete it, then {_AGAIN}")
    return table, table is written


def _whole(written: pa.Table, needed: Sequence[str]) -> pa.Table:
    """The same in today's types.

    Raises:
        pa.ArrowException: columns are missing or there twice, or what they hold is none of the answers'.
    """
    names = written.column_names
    if len(set(names)) < len(names) or not set(needed) <= set(names):
        raise pa.ArrowInvalid("columns are missing, or there twice")
    table = readable(written)
    table.validate(full=True)  # text that is no text
    if table["id"].null_count:
        raise pa.ArrowInvalid("rows without an id")
    return table


def read_parts(output: Location, commits: Sequence[Commit], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Parts in order, some of them read ahead."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(commits), _THREADS):
            # Few at a time: nobody knows how large they are.
            yield from threads.map(lambda commit: read_part(output, commit, columns), commits[start : start + _THREADS])


def without_failed(epoch: Epoch, commits: Sequence[Commit], among: Digests) -> list[Commit]:
    """The same answers without the rows `among` these that failed: parts that hold some are written again."""

    def answered(commit: Commit) -> Commit | None:
        if not commit.failed:
            return commit
        table = read_part(epoch.output, commit)
        is_kept = table["error"].is_null().to_numpy() | ~is_in(joined([commit.ids]), among)
        return commit if is_kept.all() else _rewrite(epoch, commit, table.filter(pa.array(is_kept)))

    with ThreadPoolExecutor(_THREADS) as threads:
        return [commit for commit in threads.map(answered, commits) if commit is not None]


def without_repeats(epoch: Epoch, commits: Sequence[Commit]) -> list[Commit]:
    """Every id once, preferably answered: parts with rows too many are written again for `epoch`.

    Usually there are none. Ray promises to cut work again as it was cut before, and this is where nobody has
    to rely on it.
    """
    ids = ids_of(commits)
    repeated = ids[is_repeated(ids)]
    if not len(repeated):
        return list(commits)
    is_touched = [bool(is_in(joined([commit.ids]), repeated).any()) for commit in commits]
    touched = [commit for commit, yes in zip(commits, is_touched, strict=True) if yes]
    kept = [commit for commit, yes in zip(commits, is_touched, strict=True) if not yes]
    tables = [read_part(epoch.output, commit) for commit in touched]
    is_first = _first_of_each(ids_of(touched), tables)
    for commit, table in zip(touched, tables, strict=True):
        mask, is_first = is_first[: commit.rows], is_first[commit.rows :]
        rewritten = commit if mask.all() else _rewrite(epoch, commit, table.filter(pa.array(mask)))
        kept.extend([rewritten] if rewritten is not None else [])
    return kept


def in_one_form(epoch: Epoch, commits: Sequence[Commit]) -> list[Commit]:
    """The same rows in today's types: parts of an earlier version are written again for `epoch`, if there may be some.

    So whoever reads the folder of a finished output finds one type for each column.
    """

    def converted(commit: Commit) -> Commit | None:
        table, is_current = _read(epoch.output, commit)
        return commit if is_current else _rewrite(epoch, commit, table)

    if epoch.form == PART_FORM:
        return list(commits)
    with ThreadPoolExecutor(_THREADS) as threads:
        return [commit for commit in threads.map(converted, commits) if commit is not None]


def _first_of_each(ids: Digests, tables: Sequence[pa.Table]) -> Mask:
    failed = np.concatenate([pc.is_valid(table["error"]).to_numpy() for table in tables])
    order = np.argsort(failed, kind="stable")
    is_first = np.empty(len(ids), np.bool_)
    is_first[order] = ~is_repeated(ids[order])
    return is_first


def _rewrite(epoch: Epoch, commit: Commit, table: pa.Table) -> Commit | None:
    if not table.num_rows:
        return None
    part, data = prepare_part(epoch, table), to_parquet(table)
    epoch.output.at(part.file).write_bytes(data)
    return replace(part, at=commit.at, seconds=commit.seconds, size=len(data))
