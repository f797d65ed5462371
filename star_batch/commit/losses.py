"""Parts that count by the records, and that somebody has deleted or cut: their rows are work again.

One listing tells it for all parts. Exactly once stays as it is: the next epoch's record leaves the lost parts'
markers out, and from there on nobody counts them, whatever comes back. Knows no row.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from star_batch.commit.layout import ANSWERS
from star_batch.commit.markers import Commit
from star_batch.commit.snapshots import Snapshot, newest, read_snapshot
from star_batch.storage.location import Location

_THREADS = 16
_NUM_NAMED = 3
_MAGIC = b"PAR1"
"""How a Parquet file ends."""


def read_checked(output: Location) -> Snapshot:
    """What counts and is there; the rest is `lost`, and with that the job is not complete.

    Raises:
        OutputError: as `look` does.
    """
    # In this order: a part is there before its marker is.
    seen, sizes = read_snapshot(output), output.at(ANSWERS).sizes()
    with ThreadPoolExecutor(_THREADS) as threads:
        is_whole = list(threads.map(partial(_is_whole, output, sizes), seen.commits))
    if all(is_whole):
        return seen
    if newest(output) != seen.number:
        # A run that opened the next epoch meanwhile also tidied up.
        return read_checked(output)
    return replace(
        seen,
        commits=tuple(commit for commit, yes in zip(seen.commits, is_whole, strict=True) if yes),
        num_before=sum(is_whole[: seen.num_before]),
        is_complete=False,
        lost=tuple(commit for commit, yes in zip(seen.commits, is_whole, strict=True) if not yes),
    )


def _is_whole(output: Location, sizes: Mapping[str, int], commit: Commit) -> bool:
    size = sizes.get(commit.file.removeprefix(f"{ANSWERS}/"))
    if size is None or size < len(_MAGIC):
        return False
    # Of another size, but whole: whoever reads it compares its rows with the marker's.
    return size == commit.size or _has_end(output.at(commit.file), size)


def _has_end(part: Location, size: int) -> bool:
    try:
        return part.read_bytes(start=size - len(_MAGIC)) == _MAGIC
    except FileNotFoundError:
        return False


def loss_words(seen: Snapshot) -> str:
    """In one line, which parts are lost and how many rows with them."""
    names = ", ".join(commit.file for commit in seen.lost[:_NUM_NAMED])
    more = f", and {len(seen.lost) - _NUM_NAMED} more" if len(seen.lost) > _NUM_NAMED else ""
    rows, parts = sum(commit.rows for commit in seen.lost), len(seen.lost)
    return f"{parts} {'part' if parts == 1 else 'parts'} with {rows:,} rows gone or cut ({names}{more})"
