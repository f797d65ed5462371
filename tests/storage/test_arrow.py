"""Arrow's own files: read in bounded memory, and nothing that such a file says is taken on trust."""

import importlib
import io
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.storage.arrow import cut, messages, read_batches, read_schema
from star_batch.storage.untrusted import ExtensionRefused
from tests.storage.test_parquet import PICKLED, Runs, nestings

TABLE = pa.table(
    {
        "number": [1, None, 3],
        "word": ["one", None, "three"],
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "image": [{"bytes": b"abc", "path": "a"}, None, {"bytes": None, "path": None}],
        "images": [[b"a", b"b"], None, []],
        "view": pa.array(["short", None, "long " * 10], pa.string_view()),
    }
)


def written(
    table: pa.Table, *, to: Callable[..., Any] = pa.ipc.new_stream, times: int = 1, packed: Any = None
) -> bytes:
    target = io.BytesIO()
    with to(target, table.schema, options=pa.ipc.IpcWriteOptions(compression=packed)) as writer:
        for _ in range(times):
            writer.write_table(table)
    return target.getvalue()


def batches(data: bytes, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    file = io.BytesIO(data)
    schema, message = read_schema(file)
    planned = sum(each.num_rows for each in messages(file, message.end))
    read = 0
    for batch in read_batches(file, message, message.end, schema.names if columns is None else columns):
        read += batch.num_rows
        yield batch
    assert read == planned


@pytest.mark.parametrize("to", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("packed", [None, "lz4", "zstd"])
def test_streams_and_files_are_read(to: Callable[..., Any], packed: str | None) -> None:
    data = written(TABLE, to=to, times=3, packed=packed)
    assert pa.Table.from_batches(batches(data)).to_pylist() == TABLE.to_pylist() * 3
    assert [batch.to_pydict() for batch in batches(data, ["word"])] == [TABLE.select(["word"]).to_pydict()] * 3


def test_headers_of_earlier_days_are_read() -> None:
    target = io.BytesIO()
    with pa.ipc.new_stream(target, TABLE.schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=True)) as writer:
        writer.write_table(TABLE)
    assert pa.Table.from_batches(batches(target.getvalue())).to_pylist() == TABLE.to_pylist()


def test_a_plan_reads_no_body() -> None:
    class Counted(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.num_bytes += len(found)
            return found

    file = Counted(written(pa.table({"x": [b"x" * 1_000_000]}), times=5))
    _, message = read_schema(file)
    assert [each.num_rows for each in messages(file, message.end)] == [1] * 5
    assert file.num_bytes < 50_000


@pytest.mark.parametrize("where", nestings(b""))
def test_pickled_objects_are_refused_and_never_unpickled(where: str, tmp_path: Path) -> None:
    import ray.data  # noqa: F401  # registers its extension types, as in every job

    data = written(nestings(pickle.dumps(Runs(tmp_path / "executed")))[where])
    with pytest.raises(ExtensionRefused, match=rf"column '{where}' has the extension type '{PICKLED}'"):
        read_schema(io.BytesIO(data))
    assert not (tmp_path / "executed").exists()


def test_plain_extension_types_are_what_they_are_stored_as() -> None:
    datasets = importlib.import_module("datasets")

    type = datasets.features.features.Array2DExtensionType((1, 2), "uint8")
    values = pa.ExtensionArray.from_storage(type, pa.array([[[1, 2]]], type.storage_type))
    (batch,) = batches(written(pa.table({"x": values})))
    assert batch.schema.field("x").type == type.storage_type
    assert batch["x"].to_pylist() == [[[1, 2]]]


def test_text_need_not_be_utf8() -> None:
    raw = pa.array([b"caf\xe9", None, b"x"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    (batch,) = batches(written(pa.table({"x": text}).slice(0, 3)))
    assert batch["x"].cast(pa.large_binary()).to_pylist() == [b"caf\xe9", None, b"x"]


def broken(data: bytes) -> str:
    with pytest.raises(pa.ArrowException) as caught:
        list(batches(data))
    return str(caught.value)


@pytest.mark.parametrize("data", [b"x", b"ARROW1", b"ARROW1\0\0", b"\xff" * 64, b"\0" * 64, b"PAR1" * 20, b"{}" * 99])
def test_what_is_no_arrow(data: bytes) -> None:
    assert broken(data)
    assert broken(b"") == "it is empty"


def test_a_file_that_is_cut_off_is_refused_wherever_that_is() -> None:
    """Also between two batches, where a stream may end but a file that was written whole does not."""
    whole = written(TABLE, times=2)
    file = io.BytesIO(whole)
    parts = list(messages(file, read_schema(file)[1].end))
    for end in (parts[0].end, parts[-1].end, parts[-1].body + 8, parts[-1].start + 9):
        assert "cut off" in broken(whole[:end]) or "header" in broken(whole[:end])


def lying(data: bytes, was: int, now: int) -> bytes:
    """The number, wherever a header has it."""
    assert struct.pack("<q", was) in data
    return data.replace(struct.pack("<q", was), struct.pack("<q", now))


@pytest.mark.parametrize("now", [2**62, -1, 1_000_003])
def test_numbers_of_rows_that_cannot_be_are_refused(now: int) -> None:
    assert broken(lying(written(pa.table({"x": ["abc"] * 7777})), 7777, now))


def test_bodies_that_cannot_be_are_refused_before_memory_is_taken() -> None:
    data = written(pa.table({"x": [b"x" * 99_992]}))
    file = io.BytesIO(data)
    (part,) = messages(file, read_schema(file)[1].end)
    assert "cut off" in broken(lying(data, part.end - part.body, 2**50))


def test_what_unpacks_to_too_much_is_refused() -> None:
    data = written(pa.table({"x": [b"x" * 123_456]}), packed="zstd")
    assert "unpacks to" in broken(lying(data, 123_456, 2**45))


def test_offsets_that_lead_out_are_refused() -> None:
    values = pa.Array.from_buffers(
        pa.binary(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 2, 3)), pa.py_buffer(b"abc")]
    )
    data = written(pa.table({"x": values}))
    evil = data.replace(struct.pack("<3i", 0, 2, 3), struct.pack("<3i", 0, 2**30, 2**30 + 1))
    assert evil != data
    assert broken(evil)
    assert [batch.num_rows for batch in batches(data)] == [2]


GOOD = [
    written(TABLE, to=to, times=2, packed=packed)
    for to in (pa.ipc.new_stream, pa.ipc.new_file)
    for packed in (None, "lz4")
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(GOOD),
    place=st.integers(0, 10_000),
    value=st.binary(min_size=1, max_size=8),
    length=st.integers(0, 9),
)
def test_whatever_is_broken_is_said_or_read(data: bytes, place: int, value: bytes, length: int) -> None:
    place %= len(data)
    changed = data[:place] + value + data[place + length :]
    try:
        for batch in batches(changed):
            batch.drop_columns([n for n in batch.schema.names if pa.types.is_string(batch[n].type)]).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, AssertionError):
        pass


@given(sizes=st.lists(st.integers(0, 500), max_size=30), most_rows=st.integers(1, 10), num_bytes=st.integers(1, 2000))
def test_large_batches_are_cut(sizes: list[int], most_rows: int, num_bytes: int) -> None:
    batch = pa.record_batch({"x": pa.array([b"x" * size for size in sizes], pa.binary())})
    parts = list(cut(batch, most_rows=most_rows, num_bytes=num_bytes))
    assert [len(x) for part in parts for x in part["x"].to_pylist()] == sizes
    assert all(part.num_rows <= most_rows and (part.num_rows <= 1 or part.nbytes <= num_bytes) for part in parts)
