"""What the protocol costs beside Ray's own `write_parquet`: `python -m tests.pipeline.measure_overhead [rows]`.

The same blocks of finished answers are written both ways, by turns, on a local Ray and to a local folder.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.data

from star_batch.pipeline.sink import AnswersSink
from star_batch.records import ANSWER_SCHEMA
from star_batch.storage.location import Location
from tests.commit.samples import answers, opened

ROWS_PER_FILE = 512
ROUNDS = 9
TASK = {"num_cpus": 0.25}


def plain(blocks: Any, folder: Path) -> None:
    blocks.write_parquet(str(folder), ray_remote_args=TASK)


def committed(blocks: Any, folder: Path) -> None:
    sink = AnswersSink(opened(Location.of(str(folder))), ANSWER_SCHEMA, ROWS_PER_FILE)
    blocks.write_datasink(sink, ray_remote_args=TASK)


def seconds(write: Callable[[Any, Path], None], blocks: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write(blocks, Path(folder) / "out")
        return time.perf_counter() - started


def main(num_rows: int) -> None:
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    tables = [
        answers(*(f"row-{n:06d}" for n in range(start, min(start + ROWS_PER_FILE, num_rows))))
        for start in range(0, num_rows, ROWS_PER_FILE)
    ]
    blocks = ray.data.from_arrow(tables).materialize()
    times: dict[str, list[float]] = {"plain": [], "committed": []}
    for round in range(ROUNDS):
        for write in (plain, committed) if round % 2 else (committed, plain):
            times[write.__name__].append(seconds(write, blocks))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratio = medians["committed"] / medians["plain"] - 1
    print(f"{num_rows:,} rows in {len(tables)} files: {medians} s; overhead {100 * ratio:+.1f} %; all: {times}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
