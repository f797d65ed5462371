"""The output folder: what lies where, what an earlier run left, and whether this run may go on with it.

    answers/*.parquet      plain Parquet parts, each under a name of its own
    _commits/*.json        one marker per part that counts; written once, never changed
    _metrics/              summary.json, throughput.parquet, metrics.prom
    _run.json              configuration, fingerprint, versions, hardware
    _SUCCESS               last

Knows no Ray, and no way to make an answer.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import pyarrow as pa

from star_batch.errors import OutputError
from star_batch.pipeline.fingerprint import Fingerprint
from star_batch.pipeline.storage import Location, failing_as

ANSWERS = "answers"
COMMITS = "_commits"
METRICS = "_metrics"
RUN = "_run.json"
SUCCESS = "_SUCCESS"
_OWN_FILES = (RUN, SUCCESS, "report.html")
_OWN_SUFFIXES = (".json", ".parquet", ".prom")
_THREADS = 16
_NUM_DIFFERENCES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one marker says: this part counts, and these ids are in it."""

    file: str
    attempt: str
    fingerprint: str
    rows: int
    answered: int
    failed: int
    ids: tuple[str, ...]
    seconds: float

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        values = json.loads(data)
        return cls(**{**values, "ids": tuple(values["ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputState:
    """What was there when a run came."""

    commits: tuple[Commit, ...] = ()
    is_complete: bool = False

    @property
    def num_answered(self) -> int:
        return sum(commit.answered for commit in self.commits)

    @property
    def ids(self) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(commit.ids, pa.string()) for commit in self.commits], type=pa.string())


def open_output(output: Location, fingerprint: Fingerprint, *, overwrite: bool) -> OutputState:
    """What an output holds for a run of this fingerprint, after clearing it if told so.

    Raises:
        OutputError: it cannot be read, or it holds the answers of another fingerprint.
    """
    with failing_as(OutputError, "read the output", output):
        if overwrite:
            clear(output)
            return OutputState()
        _check_fingerprint(output, fingerprint)
        return OutputState(commits=load_commits(output), is_complete=output.at(SUCCESS).exists())


def _check_fingerprint(output: Location, fingerprint: Fingerprint) -> None:
    earlier = _earlier_fingerprint(output)
    if earlier is None or earlier.digest == fingerprint.digest:
        return
    differences = earlier.differences(fingerprint)
    shown = "; ".join(differences[:_NUM_DIFFERENCES])
    more = len(differences) - _NUM_DIFFERENCES
    raise OutputError(
        f"{output.shown} holds answers of another job ({shown}{f'; and {more} more' if more > 0 else ''}): "
        "choose another output, or say overwrite"
    )


def _earlier_fingerprint(output: Location) -> Fingerprint | None:
    run = output.at(RUN)
    if not run.exists():
        if output.at(COMMITS).files():
            raise OutputError(f"{output.shown} holds answers but no {RUN}: choose another output, or say overwrite")
        return None
    try:
        return Fingerprint(json.loads(run.read_bytes())["fingerprint"]["parts"])
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{run.shown} is not a record of a run of this tool: choose another output") from None


def load_commits(output: Location) -> tuple[Commit, ...]:
    """Every marker of an output, by name."""
    folder = output.at(COMMITS)
    names = [name for name in folder.files() if _is_marker(name)]
    with ThreadPoolExecutor(_THREADS) as threads:
        return tuple(threads.map(partial(_load_commit, folder), names))


def _load_commit(folder: Location, name: str) -> Commit:
    marker = folder.at(name)
    try:
        return Commit.from_json(marker.read_bytes())
    except (ValueError, TypeError, KeyError):
        raise OutputError(f"{marker.shown} is damaged") from None


def _is_marker(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def clear(output: Location) -> None:
    """Delete what this tool writes and nothing else; what says that answers count goes first."""
    for name in reversed(_OWN_FILES):
        output.at(name).delete()
    for folder in (COMMITS, METRICS, ANSWERS):
        for name in output.at(folder).files():
            if is_own(name):
                output.at(folder, name).delete()


def is_own(name: str) -> bool:
    """Whether a file in one of the folders is of a kind that this tool writes; drafts begin with a dot."""
    return name.startswith(".") or name.endswith(_OWN_SUFFIXES)


def begin(output: Location, record: Mapping[str, Any]) -> None:
    """Write down who is at work, before any work; an earlier success is no longer one.

    Raises:
        OutputError: the output cannot be written to.
    """
    with failing_as(OutputError, "write the output", output):
        output.at(RUN).write_bytes(json.dumps(record, indent=2, ensure_ascii=False).encode())
        output.at(SUCCESS).delete()


def amend(output: Location, more: Mapping[str, Any]) -> None:
    """Add to what `begin` has written.

    Raises:
        OutputError: the output cannot be written to.
    """
    run = output.at(RUN)
    with failing_as(OutputError, "write the output", output):
        record = json.loads(run.read_bytes()) | more
        run.write_bytes(json.dumps(record, indent=2, ensure_ascii=False).encode())
