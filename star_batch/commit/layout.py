"""The output folder: what lies where, and what a run writes down about itself.

    answers/*.parquet      plain Parquet parts, each under a name of its own
    _commits/*.json        one marker per part; written once, never changed
    _epochs/*.parquet      which parts counted when a run began or ended: see `epochs`
    _lease.json            who is at work: see `lease`
    _runs/*.parquet        what each run did: see `history`
    _metrics/              summary.json, throughput.parquet, metrics.prom, sample-*.parquet
    _run.json              configuration, fingerprint, versions, hardware
    _SUCCESS               last; names the epoch that is complete

Knows no Ray, and no way to make an answer.
"""

import contextlib
import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

from star_batch.commit.digests import DIGEST_BYTES
from star_batch.errors import OutputError
from star_batch.storage.location import Location, failing_as

ANSWERS = "answers"
COMMITS = "_commits"
EPOCHS = "_epochs"
METRICS = "_metrics"
RUNS = "_runs"
RUN = "_run.json"
SUCCESS = "_SUCCESS"
_THREADS = 16
# <epoch>-<holder>-<hash of the ids>-<attempt>; a local draft begins with a dot and ends with more.
_PART = re.compile(r"\.?([0-9]{8})-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}\.parquet(\.[0-9a-f]{32})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one marker says: this part counts, and these ids are in it.

    `ids` are digests in the order of the part's rows; `at` is when, in seconds since 1970. `size` is the part's in
    bytes; None in markers of before it was written down. One that cannot be true is a `ValueError` at birth: most of
    them are read from files.
    """

    file: str
    attempt: str
    fingerprint: str
    rows: int
    answered: int
    failed: int
    ids: bytes
    seconds: float
    at: float
    size: int | None = None

    def __post_init__(self) -> None:
        if not (self._is_typed() and is_part(self.file)):
            raise ValueError("no commit")
        if not self.rows == self.answered + self.failed == len(self.ids) / DIGEST_BYTES:
            raise ValueError("counts that do not match")

    def _is_typed(self) -> bool:
        texts = (self.file, self.attempt, self.fingerprint)
        counts = (self.rows, self.answered, self.failed, self.size or 0)
        return (
            all(isinstance(text, str) for text in texts)
            and isinstance(self.ids, bytes)
            and all(is_count(count) for count in counts)
            and is_finite(self.seconds)
            and is_finite(self.at)
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"ids": b64encode(self.ids).decode()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        values = json.loads(data)
        return cls(**{**values, "ids": b64decode(values["ids"], validate=True)})


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can be."""
    with contextlib.suppress(OverflowError):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return False


def is_part(file: str) -> bool:
    """Whether this is where a part lies, below the output."""
    folder, _, name = file.partition("/")
    return folder == ANSWERS and name.endswith(".parquet") and not name.startswith(".") and part_epoch(name) is not None


def part_epoch(name: str) -> int | None:
    """The epoch in which a file in the answers' folder was written; None if it is none of this tool's."""
    match = _PART.fullmatch(name)
    return int(match[1]) if match is not None else None


def check_nothing_foreign(output: Location) -> None:
    """Whatever reads the answers reads every Parquet file in their folder, so all of them must be ours.

    Raises:
        OutputError: there is another.
    """
    foreign = [name for name in output.at(ANSWERS).files() if name.endswith(".parquet") and part_epoch(name) is None]
    if foreign:
        raise OutputError(f"{output.at(ANSWERS, foreign[0]).shown} is not a file of this tool: choose another output")


def strays(output: Location, commits: Iterable[Commit]) -> list[str]:
    """Parquet files among the answers that do not count: what a reader that lists the folder must not find."""
    named = {commit.file for commit in commits}
    names = output.at(ANSWERS).files()
    return [name for name in names if name.endswith(".parquet") and f"{ANSWERS}/{name}" not in named]


def delete(files: Iterable[Location]) -> None:
    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(Location.delete, files):
            pass


def begin(output: Location, record: Mapping[str, Any]) -> None:
    """Write down who is at work, before any work.

    Raises:
        OutputError: the output cannot be written to.
    """
    with failing_as(OutputError, "write the output", output):
        output.at(RUN).write_bytes(json.dumps(record, indent=2, ensure_ascii=False).encode())


def amend(output: Location, more: Mapping[str, Any]) -> None:
    """Add to what `begin` has written.

    Raises:
        OutputError: the output cannot be written to.
    """
    run = output.at(RUN)
    with failing_as(OutputError, "write the output", output):
        record = json.loads(run.read_bytes()) | more
        run.write_bytes(json.dumps(record, indent=2, ensure_ascii=False).encode())


def read_run(output: Location) -> dict[str, Any] | None:
    """What `begin` and `amend` have written; None if there is nothing that can be read."""
    with failing_as(OutputError, "read the output", output):
        try:
            values = json.loads(output.at(RUN).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
    if not isinstance(values, dict):
        return None
    # The one number in it that anybody counts with.
    total = values.get("num_input_rows")
    return values if total is None or is_count(total) else values | {"num_input_rows": None}
