"""The Parquet files hold the rows in order, bad ones included."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.demo.dataset import SCHEMA, write_parquet
from star_batch.demo.rows import make_rows


def test_files_hold_all_rows_in_order(tmp_path: Path) -> None:
    files = write_parquet(tmp_path / "in", 22, 3, num_bad=2, num_files=4)
    tables = [pq.read_table(file) for file in files]
    assert [len(table) for table in tables] == [5, 6, 5, 6]
    assert all(table.schema == SCHEMA for table in tables)
    assert pa.concat_tables(tables).to_pylist() == list(make_rows(22, 3, 2))


def test_file_names_sort_in_order_and_nothing_else_is_written(tmp_path: Path) -> None:
    files = write_parquet(str(tmp_path), 5, 3, num_files=2, questions_per_image=5)
    assert files == sorted(tmp_path.iterdir())
