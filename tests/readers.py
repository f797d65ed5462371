"""What people read answers with: each gives the rows of a folder of Parquet files as plain Python."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]


def _datasets(folder: Path, scratch: Path, **where: Any) -> Rows:
    with pytest.MonkeyPatch.context() as patch:
        # Looked at when the package is imported first, and it is to reach nothing.
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(scratch))
        datasets = import_module("datasets")
        name = where.pop("name", "parquet")
        found: Rows = datasets.load_dataset(name, **where, cache_dir=str(scratch / os.urandom(4).hex()))[
            "train"
        ].to_list()
    return found


def _pandas(folder: Path, scratch: Path) -> Rows:
    found: Rows = import_module("pandas").read_parquet(folder).to_dict("records")
    return found


def _duckdb(folder: Path, scratch: Path) -> Rows:
    found = import_module("duckdb").sql(f"select * from '{folder}/*.parquet'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def _polars(folder: Path, scratch: Path) -> Rows:
    found: Rows = import_module("polars").read_parquet(folder / "*.parquet").to_dicts()
    return found


READERS: dict[str, Callable[[Path, Path], Rows]] = {
    "datasets by file": lambda folder, scratch: _datasets(folder, scratch, data_files=f"{folder}/*.parquet"),
    "datasets by folder": lambda folder, scratch: _datasets(folder, scratch, name=str(folder)),
    "pandas": _pandas,
    "duckdb": _duckdb,
    "polars": _polars,
}
