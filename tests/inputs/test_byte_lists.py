"""Images whose bytes are lists of small numbers: in every shape that Arrow has for them, sliced and with nulls."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.byte_lists import as_images, image_type
from star_batch.inputs.rows import read_rows
from tests.pipeline.samples import input_config, png

BYTES = pa.uint8()
VARIABLE, LARGE, FIXED = pa.list_(BYTES), pa.large_list(BYTES), pa.list_(BYTES, 3)
ROWS = [b"abc", None, b"def", b"ghi"]


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, bytes) else value


@pytest.mark.parametrize("type", [VARIABLE, LARGE, FIXED])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_lists_become_bytes(type: pa.DataType, start: int) -> None:
    values = pa.array([listed(row) for row in ROWS], type)
    assert image_type(type) == pa.large_binary()
    found = as_images(pa.chunked_array([values.slice(start)]), image_type(type))
    found.validate(full=True)
    assert found.to_pylist() == ROWS[start:]


@pytest.mark.parametrize("type", [VARIABLE, LARGE, FIXED])
@pytest.mark.parametrize("several", [pa.list_, pa.large_list, lambda type: pa.list_(type, 2)])
def test_lists_of_them_become_lists_of_bytes(type: pa.DataType, several: Any) -> None:
    rows = [[b"abc", b"def"], None, [b"ghi", None]]
    given = [None if row is None else [listed(each) for each in row] for row in rows]
    values = pa.array(given, several(type)).slice(1)
    found = as_images(pa.chunked_array([values]), image_type(values.type))
    found.validate(full=True)
    assert found.to_pylist() == rows[1:]


@pytest.mark.parametrize("type", [VARIABLE, LARGE, FIXED])
def test_structs_of_them_become_structs_of_bytes(type: pa.DataType) -> None:
    rows = [{"bytes": b"abc", "path": "a"}, None, {"bytes": None, "path": "b"}]
    given = [None if row is None else {"bytes": listed(row["bytes"]), "path": row["path"]} for row in rows]
    values = pa.array(given, pa.struct([("bytes", type), ("path", pa.string())])).slice(1)
    found = as_images(pa.chunked_array([values]), image_type(values.type))
    assert found.to_pylist() == rows[1:]


@pytest.mark.parametrize("type", [VARIABLE, FIXED])
def test_a_list_with_a_null_in_it_is_no_image(type: pa.DataType) -> None:
    values = pa.array([[1, 2, 3], [1, None, 3], None, [4, 5, 6]], type)
    found = as_images(pa.chunked_array([values]), image_type(type))
    assert found.to_pylist() == [b"\1\2\3", None, None, b"\4\5\6"]


@pytest.mark.parametrize("type", [pa.binary(), pa.string(), pa.list_(pa.binary()), pa.list_(pa.int64()), pa.uint8()])
def test_other_types_stay(type: pa.DataType) -> None:
    assert image_type(type) == type
    values = pa.chunked_array([pa.array([None], type)])
    assert as_images(values, type) is values


IMAGES: dict[str, tuple[pa.DataType, Any]] = {
    "fixed": (pa.list_(BYTES, len(png(0))), lambda data: list(data)),
    "variable": (VARIABLE, lambda data: list(data)),
    "bytes alone": (pa.struct([("bytes", pa.binary())]), lambda data: {"bytes": data}),
    "bytes alone, listed": (pa.struct([("bytes", VARIABLE)]), lambda data: {"bytes": list(data)}),
    "several fixed": (pa.list_(pa.list_(BYTES, len(png(0)))), lambda data: [list(data)] * 2),
    "two": (pa.list_(pa.binary(), 2), lambda data: [data] * 2),
    "several, bytes alone": (pa.list_(pa.struct([("bytes", pa.binary())])), lambda data: [{"bytes": data}] * 2),
}


def first_bytes(image: Any) -> Any:
    image = image[0] if isinstance(image, list) else image
    return image["bytes"] if isinstance(image, dict) else image


@pytest.mark.parametrize("name", IMAGES)
def test_parquet_files_of_them_are_read(name: str, tmp_path: Path) -> None:
    type, made = IMAGES[name]
    table = pa.table({"image": pa.array([made(png(0)), None, made(png(0))], type), "question": ["what?"] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    plan = plan_input(input_config(tmp_path))
    rows = [image for piece in plan.pieces for table in read_rows(plan, piece) for image in table["image"].to_pylist()]
    assert [first_bytes(image) for image in rows] == [png(0), None, png(0)]


def test_structs_with_and_without_a_path_go_together(tmp_path: Path) -> None:
    for name, fields in {"a": {"bytes": png(1)}, "b": {"bytes": None, "path": "x.png"}}.items():
        table = pa.table({"image": [fields], "question": ["what?"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    plan = plan_input(input_config(tmp_path))
    rows = [image for piece in plan.pieces for table in read_rows(plan, piece) for image in table["image"].to_pylist()]
    assert rows == [{"bytes": png(1), "path": None}, {"bytes": None, "path": "x.png"}]


@pytest.mark.parametrize(
    "type", [pa.list_(pa.int64()), pa.list_(pa.list_(VARIABLE)), pa.struct([("path", pa.string())])]
)
def test_what_holds_no_image_is_refused(type: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([None], type), "question": ["what?"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'image' for image_column holds"):
        plan_input(input_config(tmp_path))
