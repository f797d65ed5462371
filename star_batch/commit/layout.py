"""The output folder: what lies where, and what a run writes down about itself.

    answers/*.parquet      plain Parquet parts, each under a name of its own
    _commits/*.json        one marker per part; written once, never changed
    _epochs/*.parquet      which parts counted when a run began or ended: see `epochs`
    _lease.json            who is at work: see `lease`
    _runs/*.parquet        what each run did: see `history`
    _metrics/              summary.json, throughput.parquet, metrics.prom, sample-*.parquet
    _run.json              configuration, fingerprint, versions, hardware
    report.html            see `star_batch.report`
    answers.jsonl, answers.csv, webdataset/, dataset/   see `star_batch.export`
    _requests/, output.jsonl, errors.jsonl   see `star_batch.openai`
    _SUCCESS               last; names the epoch that is complete

Knows no Ray, and no way to make an answer.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from star_batch.errors import OutputError
from star_batch.storage.location import Location, failing_as

ANSWERS = "answers"
COMMITS = "_commits"
EPOCHS = "_epochs"
METRICS = "_metrics"
RUNS = "_runs"
RUN = "_run.json"
SUCCESS = "_SUCCESS"
REPORT = "report.html"
REQUESTS = "_requests"
OUTPUT_FILE = "output.jsonl"
ERROR_FILE = "errors.jsonl"
EXPORTS = {"jsonl": "answers.jsonl", "csv": "answers.csv", "webdataset": "webdataset", "dataset": "dataset"}
"""Where the answers are in other forms, by format; derived from what counts, and never read again."""
_THREADS = 16
# <epoch>-<holder>-<hash of the ids>-<attempt>; a local draft begins with a dot and ends with more.
_PART = re.compile(r"\.?([0-9]{8})-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}\.parquet(\.[0-9a-f]{32})?")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can be."""
    with contextlib.suppress(OverflowError):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return False


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
