"""Datasets of anybody's, written so that each id is there once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data.extensions import ArrowPythonObjectArray, ArrowTensorArray

from star_batch.commit.audit import status
from star_batch.errors import ConfigError, InputError, OutputError
from star_batch.pipeline.dataset_sink import DatasetSink, only_left
from star_batch.storage.location import Location


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are handed on as they are."""
    monkeypatch.setattr("star_batch.pipeline.dataset_sink._shared", lambda digests: digests.tobytes())


def written(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "answers").sort_by("id").to_pylist()
    return rows


@pytest.mark.usefixtures("without_ray")
def test_blocks_become_parts_of_types_that_every_reader_knows(tmp_path: Path) -> None:
    sink = DatasetSink(str(tmp_path / "out"), id_column="key", error_column="why")
    sink.on_write_start()
    block = pa.table(
        {
            "key": [1, 2],
            "why": ["broken", None],
            "pixels": ArrowTensorArray.from_numpy(np.zeros((2, 2, 2))),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "nothing": pa.nulls(2),
        }
    )
    sink.write([block, pa.table({"key": [3]}).append_column("why", pa.nulls(1, pa.string())), pa.table({})], None)
    sink.on_write_complete(None)
    [first, second, third] = written(tmp_path / "out")
    assert (first["id"], first["key"], first["error"], first["pixels"]) == ("1", 1, "broken", [[0, 0], [0, 0]])
    assert (second["kind"], second["nothing"], second["error"], third["id"]) == ("b", None, None, "3")
    found = status(Location.of(str(tmp_path / "out")))
    assert (found.rows, found.failed) == (3, 1)
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.usefixtures("without_ray")
def test_of_rows_that_share_an_id_the_answered_one_is_kept(tmp_path: Path) -> None:
    sink = DatasetSink(str(tmp_path / "out"))
    sink.on_write_start()
    sink.write([pa.table({"id": ["a", "a"], "error": [None, "bad"], "n": [1, 2]})], None)
    sink.write([pa.table({"id": ["b"], "error": ["bad"], "n": [3]})], None)
    sink.write([pa.table({"id": ["b", "c"], "error": pa.array([None, None], pa.string()), "n": [4, 5]})], None)
    sink.on_write_complete(None)
    assert [(row["id"], row["n"]) for row in written(tmp_path / "out")] == [("a", 1), ("b", 4), ("c", 5)]


@pytest.mark.usefixtures("without_ray")
def test_another_run_goes_on_and_a_write_that_was_broken_off_holds_nobody_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = DatasetSink(str(out))
    broken.on_write_start()
    broken.write([pa.table({"id": ["a"], "n": [1]})], None)
    again = DatasetSink(str(out))
    again.on_write_start()  # as after Ctrl-C, of which no sink is told
    again.write([pa.table({"id": ["a", "b"], "n": [7, 8]})], None)
    again.on_write_complete(None)
    assert [(row["id"], row["n"]) for row in written(out)] == [("a", 1), ("b", 8)]


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"id": ["a", None]}, {}, "'id' for id_column: 1 rows have no id"),
        ({"id": [1.5]}, {}, "'id' for id_column holds double; expected text or whole numbers"),
        ({"key": ["a"]}, {}, "no column 'id' for id_column; columns: key"),
        ({"id": ["a"]}, {"error_column": "why"}, "no column 'why' for error_column"),
        ({"id": ["a"], "key": ["b"]}, {"id_column": "key"}, "have a column 'id', which is written from 'key'"),
        ({"id": ["a"], "num_kept": ["x"]}, {}, "has the name of one of the answers', and another type"),
        (
            {"id": ["a"], "o": ArrowPythonObjectArray.from_objects([object()])},
            {},
            r"'o' holds Python objects \(object\)",
        ),
        ({"id": ["z"]}, {"ids": ["a"]}, "1 rows are not among the ids given, such as 'z'"),
    ],
)
def test_rows_that_cannot_be_written_are_refused(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    sink = DatasetSink(str(tmp_path / "out"), **options)
    sink.on_write_start()
    with pytest.raises(InputError, match=words):
        sink.write([pa.table(columns)], None)
    sink.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": "abc"}, "ids: expected a list of texts"),
        ({"ids": [1]}, "ids: expected a list of texts"),
        ({"rows_per_file": 0}, "rows_per_file: expected 1 or more"),
        ({"seconds": 0}, "seconds: expected 1 to 3600"),
        ({"output": "s3://key:secret@bucket/out"}, "credentials do not belong into a URL"),
    ],
)
def test_options_are_checked_at_once(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        DatasetSink(**({"output": str(tmp_path / "out")} | options))
    assert "secret" not in str(caught.value)


def test_what_is_left_of_a_block(tmp_path: Path) -> None:
    assert only_left(pa.table({}), b"", "id").num_rows == 0
    assert only_left(pa.table({"id": ["a"]}), b"", "id").num_rows == 1


@pytest.fixture
def data() -> Iterator[Any]:
    import ray.data

    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    yield ray.data
    context.enable_progress_bars = before


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_a_second_run_adds_what_is_missing_and_no_more(data: Any, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", tmp_path / "asked"
    asked.mkdir()

    def look(row: dict[str, Any]) -> dict[str, Any]:
        (asked / f"{row['key']}-{row['run']}").touch()
        return row

    def write(run: int, count: int, ids: list[str] | None = None, model: str = "mine") -> None:
        sink = DatasetSink(str(out), id_column="key", ids=ids, job={"model": model}, rows_per_file=4)
        rows = [{"key": f"row-{n}", "run": run} for n in range(count)]
        sink.left(data.from_items(rows, override_num_blocks=3)).map(look).write_datasink(sink)

    write(1, 10)
    write(2, 15)
    assert {row["id"]: row["run"] for row in written(out)} == {f"row-{n}": 1 if n < 10 else 2 for n in range(15)}
    assert len(list(asked.iterdir())) == 15
    write(3, 15)  # nothing is left
    assert (out / "_SUCCESS").exists()
    with pytest.raises(OutputError, match='model: "mine" there, "other" here'):
        write(4, 15, model="other")
    with pytest.raises(OutputError, match="1 rows are missing"):
        write(5, 15, ids=[f"row-{n}" for n in range(16)])
    assert not (out / "_SUCCESS").exists()
    write(6, 16, ids=[f"row-{n}" for n in range(16)])
    assert (out / "_SUCCESS").exists()
    assert len(written(out)) == 16
