"""Held-out rows as Parquet files: what a job of this package reads. It knows no model."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.demo.rows import make_rows

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.large_binary()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("kind", pa.string()),
    ]
)


def write_parquet(
    path: str | Path,
    num_rows: int,
    seed: int,
    num_bad: int = 0,
    *,
    num_files: int = 4,
    questions_per_image: int = 1,
) -> list[Path]:
    """Write the rows of `make_rows` in order to `num_files` files of even length under `path`."""
    rows = list(make_rows(num_rows, seed, num_bad, questions_per_image=questions_per_image))
    Path(path).mkdir(parents=True, exist_ok=True)
    bounds = [num_rows * number // num_files for number in range(num_files + 1)]
    files = [Path(path) / f"part-{number:04d}.parquet" for number in range(num_files)]
    for file, first, last in zip(files, bounds, bounds[1:], strict=False):
        pq.write_table(pa.Table.from_pylist(rows[first:last], schema=SCHEMA), file)
    return files
