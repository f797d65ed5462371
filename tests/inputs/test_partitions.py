"""Folders that name columns: what is read of them, and when a column of the file counts."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.partitions import partitions
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.rows import read_rows
from tests.pipeline.samples import input_config, rows, write


def read(path: Path, column: str, **more: Any) -> list[tuple[str, Any]]:
    plan = plan_input(input_config(path, **more))
    tables = [table for piece in plan.pieces for table in read_rows(plan, piece)]
    return [pair for table in tables for pair in zip(*(table[n].to_pylist() for n in (ID_COLUMN, column)), strict=True)]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/split=train/lang=de/x.parquet", {"split": "train", "lang": "de"}),
        ("/a/day=1/day=2/x", {"day": "2"}),
        ("/a/b=c=d/x", {"b": "c=d"}),
        ("/a/b=/x", {"b": ""}),
        ("/a/=b/c/x=y", {}),
        ("/a/b%20c=d%2Fe/x", {"b c": "d/e"}),
        ("/a/b=%ff/x", {"b": "%ff"}),
        ("/a/b=__HIVE_DEFAULT_PARTITION__/x", {"b": None}),
        ("/a/b=\udcff/x", {"b": "\\xff"}),
    ],
)
def test_folders_name_columns(path: str, found: dict[str, Any]) -> None:
    assert partitions(path) == found


def test_they_serve_as_columns(tmp_path: Path) -> None:
    for lang in ("de", "fr"):
        write(tmp_path / "split=train" / f"lang={lang}" / "x.parquet", rows(2), row_group_size=1)
    ids = [f"split=train/lang={lang}/x.parquet#{row}" for lang in ("de", "fr") for row in range(2)]
    expected = list(zip(ids, ["de", "de", "fr", "fr"], strict=True))
    assert read(tmp_path, "lang", keep_columns=["lang"]) == expected
    assert read(tmp_path, "lang", prompt="in {lang}, {split}?") == expected


def test_they_are_found_above_what_was_named(tmp_path: Path) -> None:
    path = write(tmp_path / "lang=de" / "x.parquet", rows(1))
    assert read(path, "lang", keep_columns=["lang"]) == [("x.parquet#0", "de")]


def test_an_id_may_be_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"name={name}" / "x.parquet", rows(1))
    plan = plan_input(input_config(tmp_path, id_column="name"))
    assert plan.ids().to_pylist() == ["a", "b"]
    assert [id for id, _ in read(tmp_path, "question", id_column="name")] == ["a", "b"]


def test_a_column_of_the_file_counts_more(tmp_path: Path) -> None:
    write(tmp_path / "question=folder" / "x.parquet", rows(1))
    assert read(tmp_path, "question") == [("question=folder/x.parquet#0", "question 0")]


def test_a_file_outside_lacks_the_column(tmp_path: Path) -> None:
    write(tmp_path / "lang=de" / "x.parquet", rows(1))
    write(tmp_path / "x.parquet", rows(1))
    with pytest.raises(InputError, match=r"x\.parquet: no column 'lang' for keep_columns"):
        plan_input(input_config(tmp_path, keep_columns=["lang"]))


def test_what_arrow_writes_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {**{name: [row[name] for row in rows(3)] for name in ("image", "question")}, "lang": ["a b", None, "/"]}
    )
    pa.dataset.write_dataset(
        table,
        tmp_path,
        format="parquet",
        partitioning=pa.dataset.partitioning(pa.schema([("lang", pa.string())]), flavor="hive"),
    )
    assert not any("lang" in pq.read_schema(file).names for file in tmp_path.rglob("*.parquet"))
    assert sorted(str(value) for _, value in read(tmp_path, "lang", keep_columns=["lang"])) == ["/", "None", "a b"]
