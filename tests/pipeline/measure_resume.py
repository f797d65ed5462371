"""Resuming a large job, with synthetic answers: `python -m tests.pipeline.measure_resume [rows] [share done]`.

Prints how long it takes to see what is done and plan the rest, and to check a finished output, each in a
process of its own with its peak memory. Ten million rows need 3 GB of disk and a few minutes to make.
"""

import multiprocessing
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.commit.digests import digest_ids, is_in
from star_batch.commit.finalise import check_rows
from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.markers import Commit
from star_batch.commit.snapshots import Epoch, ids_of, next_epoch, open_epoch, read_snapshot
from star_batch.inputs.base import plan_input
from star_batch.inputs.rows import distinct
from star_batch.storage.location import Location
from tests.pipeline.samples import input_config

FINGERPRINT = Fingerprint({"model.name": "synthetic"})
ROWS_PER_FILE = 100_000
ROWS_PER_COMMIT = 512


def write_input(folder: Path, num_rows: int) -> None:
    folder.mkdir(parents=True)
    for start in range(0, num_rows, ROWS_PER_FILE):
        numbers = range(start, min(start + ROWS_PER_FILE, num_rows))
        table = pa.table(
            {
                "id": [f"image-{number:012d}.jpg" for number in numbers],
                "image": pa.array([b""] * len(numbers), pa.binary()),
                "question": [""] * len(numbers),
            }
        )
        pq.write_table(table, folder / f"{start:012d}.parquet", row_group_size=10_000)


def write_markers(epoch: Epoch, first: int, last: int) -> None:
    """Markers alone: resuming reads no part."""

    def mark(start: int) -> None:
        rows = min(ROWS_PER_COMMIT, last - start)
        name = uuid.uuid4().hex
        commit = Commit(
            file=epoch.new_part(name, name),
            attempt=name,
            fingerprint=epoch.fingerprint,
            rows=rows,
            answered=rows,
            failed=0,
            ids=digest_ids(f"image-{number:012d}.jpg" for number in range(start, start + rows)),
            seconds=0.0,
            at=0.0,
        )
        epoch.marker(name).create(commit.to_json())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(mark, range(first, last, ROWS_PER_COMMIT)))


def resume(folder: str) -> str:
    """What a run does before its first row is read, with a new epoch at the end of it."""
    times = [time.monotonic()]
    plan, ids = distinct(plan_input(input_config(f"{folder}/in", id_column="id")), "refuse")
    times.append(time.monotonic())
    output = Location.of(f"{folder}/out")
    seen = read_snapshot(output)
    times.append(time.monotonic())
    todo = plan.only(~is_in(ids, ids_of(seen.commits)))
    times.append(time.monotonic())
    open_epoch(next_epoch(output, seen, FINGERPRINT), seen.commits, FINGERPRINT)
    times.append(time.monotonic())
    parts = dict(
        zip(("input ids", "markers", "comparison", "new epoch"), np.diff(times).round(1).tolist(), strict=True)
    )
    return f"{plan.num_rows:,} rows, {seen.rows:,} done, {todo.num_rows:,} left; seconds {parts}"


def check(folder: str) -> str:
    started = time.monotonic()
    _, ids = distinct(plan_input(input_config(f"{folder}/in", id_column="id")), "refuse")
    check_rows(read_snapshot(Location.of(f"{folder}/out")).commits, ids)
    return f"ids of {len(ids):,} rows checked in {time.monotonic() - started:.1f} s"


def peak_memory() -> float:
    """GiB, of this process alone: `getrusage` also counts what its parent had when it was started."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 2**20


def told(work: Callable[[str], str], folder: str, answer: Any) -> None:
    started = time.monotonic()
    words = work(folder)
    peak = peak_memory()
    answer.put((f"{words}; all {time.monotonic() - started:.1f} s, peak {peak:.2f} GiB", peak))


def measured(work: Callable[[str], str], folder: Path) -> float:
    """Does it in a fresh process; its peak memory in GiB."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=told, args=(work, str(folder), answer))
    process.start()
    words, peak = answer.get()
    process.join()
    print(f"{work.__name__}: {words}", flush=True)
    return float(peak)


def measure(folder: Path, num_rows: int, share_done: float) -> float:
    """Peak memory in GiB of resuming from markers, from one record, and of the last check."""
    done = int(num_rows * share_done)
    write_input(folder / "in", num_rows)
    output = Location.of(str(folder / "out"))
    epoch = next_epoch(output, read_snapshot(output), FINGERPRINT)
    open_epoch(epoch, (), FINGERPRINT)
    write_markers(epoch, 0, done)
    peaks = [measured(resume, folder), measured(resume, folder)]
    seen = read_snapshot(output)
    write_markers(replace(epoch, number=seen.number, holder=seen.holder), done, num_rows)
    return max(*peaks, measured(check, folder))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        size, share = [*sys.argv[1:], *["10000000", "0.9"][len(sys.argv) - 1 :]]
        measure(Path(place), int(size), float(share))
