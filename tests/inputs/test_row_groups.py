"""Rows are read a few MiB at a time, and what is wrong with one is said of that row."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.commit.readable import to_python
from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.parquet import RowGroup
from star_batch.inputs.rows import read_rows
from star_batch.pipeline.read import memory_per_task
from star_batch.storage.parquet import open_parquet, read_batches
from tests.pipeline.samples import input_config, rows, write
from tests.test_house import ROOT

MIB = 2**20


def images(sizes: list[int]) -> pa.Array:
    return pa.array([{"bytes": bytes([n % 256]) * size, "path": str(n)} for n, size in enumerate(sizes)])


def write_images(path: Path, sizes: list[int], **more: Any) -> Path:
    pq.write_table(pa.table({"image": images(sizes), "question": ["what?"] * len(sizes)}), path, **more)
    return path


def batches(path: Path, **more: Any) -> list[pa.RecordBatch]:
    file = open_parquet(path.open("rb"))
    wanted: dict[str, Any] = {"num_rows": file.metadata.num_rows, "most_rows": 1024, "num_bytes": MIB} | more
    return list(read_batches(file, 0, ["image"], **wanted))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 10, 5_000, 90_000]), min_size=1, max_size=60),
    limits=st.tuples(st.integers(1, 60), st.integers(1, 70), st.integers(1, 300_000)),
)
def test_batches_are_the_first_rows_in_order_and_within_their_limits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limits: tuple[int, int, int]
) -> None:
    path = write_images(tmp_path_factory.mktemp("in") / "a.parquet", sizes)
    num_rows, most_rows, num_bytes = min(limits[0], len(sizes)), limits[1], limits[2]
    found = batches(path, num_rows=num_rows, most_rows=most_rows, num_bytes=num_bytes)
    read = [image for batch in found for image in batch["image"].to_pylist()]
    assert read == images(sizes).to_pylist()[:num_rows]
    assert all(1 <= batch.num_rows <= most_rows for batch in found)


def test_rows_that_repeat_are_larger_than_the_footer_says(tmp_path: Path) -> None:
    """One image behind 2,000 rows is stored once: by the footer a row has 100 bytes, and really 200,000."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([b"x" * 200_000] * 2000)}), path)
    found = batches(path, num_bytes=8 * MIB)
    assert sum(batch.num_rows for batch in found) == 2000
    assert max(batch.nbytes for batch in found) < 16 * MIB


def test_a_batch_that_arrow_cannot_hold_is_read_again_in_smaller_ones(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.parquet", [10] * 300)

    class Narrow:
        """A file whose rows from 100 on are more than Arrow takes, if more than 5 are read at once."""

        def __init__(self) -> None:
            self._file = open_parquet(path.open("rb"))
            self.metadata, self.reader = self._file.metadata, self._file.reader

        def iter_batches(self, **more: Any) -> Any:
            seen = 0
            for batch in self._file.iter_batches(**more):
                seen += batch.num_rows
                if seen > 100 and batch.num_rows > 5:
                    raise pa.ArrowNotImplementedError("nested data conversions")
                yield batch

    narrow: Any = Narrow()
    found = list(read_batches(narrow, 0, ["image"], num_rows=300, most_rows=64, num_bytes=MIB))
    assert [image["path"] for batch in found for image in batch["image"].to_pylist()] == [str(n) for n in range(300)]


def test_of_a_group_that_is_half_done_nothing_is_read_behind_the_last_wanted_row(tmp_path: Path) -> None:
    plan = plan_input(input_config(write(tmp_path / "a.parquet", rows(40), row_group_size=40)))
    todo = plan.only(np.arange(40) == 5)
    [group] = todo.pieces
    tables = list(read_rows(todo, group))
    assert [table["star_batch:id"].to_pylist() for table in tables] == [["a.parquet#5"]]


def test_a_value_that_does_not_fit_names_its_row(tmp_path: Path) -> None:
    for name, type, last in [("a", pa.int64(), 3), ("b", pa.uint64(), 2**63 + 1)]:
        schema = pa.schema([("image", pa.binary()), ("question", pa.string()), ("x", type)])
        records = [{"image": b"", "question": "", "x": x} for x in [*range(40), last, 7]]
        write(tmp_path / f"{name}.parquet", records, schema, row_group_size=30)
    plan = plan_input(input_config(tmp_path, keep_columns=["x"]))
    with pytest.raises(InputError) as caught:
        [list(read_rows(plan, group)) for group in plan.pieces]
    assert str(caught.value).startswith(f"{tmp_path}/b.parquet: row 40, column 'x': cannot be read as int64: ")
    assert "9223372036854775809" in str(caught.value)


def bad_text() -> pa.StringArray:
    offsets, text = pa.py_buffer(np.array([0, 4, 5], np.int32)), pa.py_buffer(b"caf\xe9x")
    return pa.StringArray.from_buffers(2, offsets, text)


def test_text_that_is_not_utf8_ends_no_job(tmp_path: Path) -> None:
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad_text())
    table = pa.table({"image": [b"a", b"b"], "question": bad_text(), "words": nested})
    pq.write_table(table, tmp_path / "a.parquet")
    plan = plan_input(input_config(tmp_path))
    [found] = read_rows(plan, plan.pieces[0])
    assert found["question"].to_pylist() == ["caf\\xe9", "x"]
    plan = plan_input(input_config(tmp_path, choices_column="words"))
    with pytest.raises(InputError, match=r"row 0, column 'words': .*UTF8"):
        list(read_rows(plan, plan.pieces[0]))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(1))
    table = pq.read_table(tmp_path / "a.parquet")
    for name in ("id", "question"):
        pq.write_table(table.append_column(name, pa.array([1])), tmp_path / "a.parquet")
        twice = {"id": "id_column", "question": "prompt_column"}[name]
        with pytest.raises(InputError, match=rf"a\.parquet: 2 columns are called '{name}', which {twice} needs"):
            plan_input(input_config(tmp_path, id_column="id"))
    pq.write_table(table.append_column("id", pa.array([1])), tmp_path / "a.parquet")
    assert plan_input(input_config(tmp_path)).num_rows == 1


def test_a_struct_with_two_fields_of_one_name_is_refused(tmp_path: Path) -> None:
    twins = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["k", "k"])
    pq.write_table(pa.table({"image": [b""], "question": [""], "x": twins}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="'x' has two fields of one name"):
        plan_input(input_config(tmp_path, keep_columns=["x"]))


def test_memory_is_set_aside_only_for_large_row_groups(tmp_path: Path) -> None:
    plan = plan_input(input_config(write(tmp_path / "a.parquet", rows(2))))
    machines = [{"Alive": alive, "Resources": {"memory": memory}} for alive, memory in [(True, 8e9), (False, 1e9)]]
    [group] = plan.pieces
    assert isinstance(group, RowGroup)
    assert 0 < group.largest < 100_000
    assert memory_per_task(plan, machines) is None
    for largest, asked in [(10**9, 1e9), (10**10, 2e9)]:
        group = RowGroup(path="", name="", index=0, first_row=0, num_rows=1, fan=1, largest=largest)
        assert memory_per_task(type(plan)(root=plan.root, schema=plan.schema, pieces=(group,)), machines) == asked


MEASURE = """
import resource, sys
from star_batch.config import Input
from star_batch.inputs.base import plan_input
from star_batch.inputs.rows import read_rows
limit = int(sys.argv[2]) or None
plan = plan_input(Input(path=sys.argv[1], prompt="what?", limit=limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(table.num_rows for group in plan.pieces for table in read_rows(plan, group)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.faults
def test_a_row_group_above_2_gib_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Of `binary`, as most files are, in a struct: Arrow cannot make one array of it."""
    noise = np.random.RandomState(0).bytes(2_200_000)
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    image = pa.array([{"bytes": noise, "path": None}] * 20, schema.field("image").type)
    group = pa.chunked_array([image] * 55)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        writer.write_table(pa.table([group], schema=schema), row_group_size=1100)
    assert pq.read_metadata(path).row_group(0).total_byte_size > 2**31
    for limit, most in [(8, 300), (0, 700)]:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), str(limit)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        )
        num_rows, mebibytes = map(int, done.stdout.split())
        assert (num_rows, mebibytes < most) == (limit or 1100, True), mebibytes


@pytest.mark.parametrize("option", [{"prompt": "When? {time}"}, {"reference_column": "time", "prompt": "When?"}])
def test_times_of_an_unknown_zone_are_kept_and_not_told(tmp_path: Path, option: dict[str, str]) -> None:
    times = pa.array([1, None], pa.timestamp("ms", "Foo/Bar"))
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "time": times}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"column 'time' for \w+: values of type timestamp\[ms, tz=Foo/Bar\] cannot"):
        plan_input(input_config(str(tmp_path), **option))
    assert plan_input(input_config(str(tmp_path), prompt="When?", keep_columns=["time"])).num_rows == 2


def test_lists_of_times_that_nobody_has_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"values of type list<item: timestamp\[s\]> cannot be read"):
        to_python(pa.chunked_array([pa.array([[2**60]], pa.list_(pa.timestamp("s")))]))


def as_number(number: int) -> bytes:
    """A 64-bit number as a footer has it: Thrift's mark for one, then seven bits a byte."""
    left = (number << 1) ^ (number >> 63)
    digits = [left >> shift & 0x7F for shift in range(0, max(1, left.bit_length()), 7)]
    return bytes([0x16, *(digit | 0x80 for digit in digits[:-1]), digits[-1]])


@pytest.mark.parametrize("rows", [-7777, 0, 7776, 10**9, 2**62])
@pytest.mark.parametrize(
    "places", [{"file"}, {"column"}, {"group"}, {"file", "group"}], ids=lambda places: "-".join(sorted(places))
)
def test_a_footer_that_contradicts_itself_is_refused(tmp_path: Path, rows: int, places: set[str]) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"image": ["a.png"] * 7777}), path, compression="none")
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    head, *pieces = data[start:-8].split(as_number(7777))
    for place, piece in zip(("file", "column", "group"), pieces, strict=True):
        head += as_number(rows if place in places else 7777) + piece
    path.write_bytes(data[:start] + head + len(head).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(InputError, match=r"in\.parquet: its footer contradicts itself \("):
        plan_input(input_config(str(path), prompt="what?"))
