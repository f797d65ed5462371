import base64
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.storage.parquet import ExtensionRefused, open_parquet, read_batches, read_parquet

PICKLED = "ray.data.arrow_pickled_object"


class Runs:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (self.trace, 0o777, True)


def extension(name: str, metadata: bytes = b"") -> dict[bytes, bytes]:
    return {b"ARROW:extension:name": name.encode(), b"ARROW:extension:metadata": metadata}


def to_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def column(field: pa.Field, values: pa.Array) -> pa.Table:
    return pa.table([values], schema=pa.schema([field]))


def nestings(evil: bytes) -> dict[str, pa.Table]:
    """The pickled type at every depth at which a column can hold it."""
    marked = pa.field("bytes", pa.large_binary(), metadata=extension(PICKLED))
    struct = pa.struct([marked])
    inner = pa.StructArray.from_arrays([pa.array([evil], pa.large_binary())], fields=[marked])
    listed = pa.list_(pa.field("item", pa.large_binary(), metadata=extension(PICKLED)))
    mapped = pa.map_(pa.string(), pa.field("value", pa.large_binary(), metadata=extension(PICKLED)))
    return {
        "image": column(pa.field("image", pa.large_binary(), metadata=extension(PICKLED)), inner.field(0)),
        "image.bytes": column(pa.field("image", struct), inner),
        "image.item": column(pa.field("image", listed), pa.array([[evil]], pa.list_(pa.large_binary())).cast(listed)),
        "image.item.bytes": column(
            pa.field("image", pa.list_(struct)), pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), inner)
        ),
        "image.entries.value": column(
            pa.field("image", mapped), pa.array([[("a", evil)]], pa.map_(pa.string(), pa.large_binary())).cast(mapped)
        ),
    }


@pytest.mark.parametrize("where", nestings(b""))
def test_pickled_objects_are_refused_and_never_unpickled(where: str, tmp_path: Path) -> None:
    import ray.data  # noqa: F401  # registers its extension types, as in every job

    trace = tmp_path / "executed"
    data = to_bytes(nestings(pickle.dumps(Runs(trace)))[where])
    with pytest.raises(ExtensionRefused, match=rf"column '{where}' has the extension type '{PICKLED}'"):
        read_parquet(data)
    assert not trace.exists()


def test_a_tensor_type_whose_metadata_is_a_pickle_is_read_as_lists_and_runs_nothing(tmp_path: Path) -> None:
    """Ray 2.49 to 2.54 pickled a tensor's shape into the schema; a variable still turns its reading on."""
    trace = tmp_path / "executed"
    marked = extension("ray.data.arrow_tensor_v2", pickle.dumps(Runs(trace)))
    lists = pa.array([[1, 2], [3, 4]], pa.large_list(pa.int8()))
    file = tmp_path / "tensor.parquet"
    file.write_bytes(to_bytes(column(pa.field("x", lists.type, metadata=marked), lists)))
    code = (
        "import sys, pathlib, ray.data; from star_batch.storage.parquet import read_parquet;"
        "print(read_parquet(pathlib.Path(sys.argv[1]).read_bytes())['x'].to_pylist())"
    )
    unsafe = {"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1", "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], env=os.environ | unsafe, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[[1, 2], [3, 4]]"
    assert not trace.exists()


@pytest.mark.parametrize("metadata", [b"", b"not json", b"{}", b"\xff"])
def test_tensors_with_broken_metadata_are_lists(metadata: bytes) -> None:
    import ray.data  # noqa: F401

    lists = pa.array([[1], [2]], pa.list_(pa.float32()))
    table = column(pa.field("x", lists.type, metadata=extension("ray.data.arrow_tensor", metadata)), lists)
    assert read_parquet(to_bytes(table))["x"].to_pylist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), pa.string()),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))), pa.binary(16)),
    ],
)
def test_arrows_own_extension_types_are_what_they_are_stored_as(array: pa.Array, stored: pa.DataType) -> None:
    assert read_parquet(to_bytes(pa.table({"x": array})))["x"].type == stored


def test_unknown_extension_types_are_refused_with_a_name_that_can_be_shown() -> None:
    name = "evil\x1b]0;title\x07" + "x" * 10_000
    values = pa.array([1])
    with pytest.raises(ExtensionRefused) as caught:
        read_parquet(to_bytes(column(pa.field("x", pa.int64(), metadata=extension(name)), values)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def with_schema(data: bytes, described: bytes) -> bytes:
    """A file whose Arrow schema is replaced by text of the same length."""
    own = pq.read_metadata(io.BytesIO(data)).metadata[b"ARROW:schema"]
    assert data.count(own) == 1
    return data.replace(own, described[: len(own)].ljust(len(own), b"="))


def test_a_schema_that_readers_may_understand_differently_is_not_resolved(tmp_path: Path) -> None:
    """Base64 that Arrow would read and Python would not."""
    import ray.data  # noqa: F401

    trace = tmp_path / "executed"
    data = to_bytes(nestings(pickle.dumps(Runs(trace)))["image"])
    own = pq.read_metadata(io.BytesIO(data)).metadata[b"ARROW:schema"]
    for described in (own[:-4] + b"!!!!", b"\xff" * len(own), b"!" + own[1:], base64.b64encode(b"nonsense")):
        table = read_parquet(with_schema(data, described))
        assert table.schema.field("image").type in (pa.binary(), pa.large_binary())
        table.to_pylist()
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"x" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_an_arrow_error(data: bytes) -> None:
    with pytest.raises(pa.ArrowException):
        open_parquet(io.BytesIO(data))


TYPES = st.sampled_from(
    [
        pa.int8(), pa.uint64(), pa.float32(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(),
        pa.timestamp("us", "Europe/Paris"), pa.duration("s"), pa.list_(pa.int32()), pa.large_list(pa.string()),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.dictionary(pa.int32(), pa.string()),
        pa.decimal128(10, 2), pa.null(),
    ]
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(types=st.lists(TYPES, min_size=1, max_size=5), pad=st.integers(0, 200_000))
def test_files_without_extension_types_are_read_as_arrow_reads_them(types: list[pa.DataType], pad: int) -> None:
    """Whatever the footer's size: it is read in one piece or in two."""
    schema = pa.schema([(f"c{n}", type) for n, type in enumerate(types)], metadata={b"pad": b"x" * pad})
    data = to_bytes(pa.table([pa.nulls(3, type) for type in types], schema=schema))
    assert read_parquet(data).equals(pq.read_table(io.BytesIO(data)), check_metadata=True)


def written(codec: str = "zstd") -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [f"row-{n}" for n in range(30)], "n": range(30)}), buffer, compression=codec)
    return buffer.getvalue()


@pytest.mark.parametrize("codec", ["zstd", "snappy", "gzip"])
def test_a_byte_that_has_changed_anywhere_is_what_arrow_raises_or_nothing(codec: str) -> None:
    whole, refused = written(codec), 0
    for at in range(0, len(whole), 3):
        data = bytearray(whole)
        data[at] ^= 0xFF
        try:
            read_parquet(bytes(data))
        except pa.ArrowException:
            refused += 1
    assert refused > 10


class Failing(io.BytesIO):
    """A file whose reads fail, in plain Python, once it is open."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() < 1000:
            raise OSError("the network is gone")
        return super().read(size)


def test_what_a_file_itself_raises_stays_as_it_is() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": range(100_000)}), buffer, use_dictionary=False)
    parquet = open_parquet(Failing(buffer.getvalue()))
    with pytest.raises(OSError, match="the network is gone"):
        list(read_batches(parquet, 0, ["n"], num_rows=100_000, most_rows=100, num_bytes=1000))
