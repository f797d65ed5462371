"""Rows of any block go through bytes and come back as they were; what cannot be answered is said row by row."""

import datetime
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ray.data.extensions import ArrowPythonObjectArray, ArrowTensorArray

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.inputs.columns import wanted_columns
from star_batch.pipeline.blocks import PACKED, packed, planned, unpacked, with_answers, without_extensions

WANTED = wanted_columns(Input(path="memory://dataset", prompt_column="question"))

_VALUES = {
    "int": st.none() | st.integers(-(2**63), 2**63 - 1),
    "float": st.none() | st.floats(allow_nan=False),
    "text": st.none() | st.text(max_size=5),
    "bytes": st.none() | st.binary(max_size=5),
    "list": st.none() | st.lists(st.integers(0, 9), max_size=3),
    "struct": st.none() | st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.text(max_size=2)}),
    "time": st.none() | st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)),
    "null": st.none(),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=4))
    count = draw(st.integers(0, 5))
    columns = {f"c{n}": draw(st.lists(_VALUES[kind], min_size=count, max_size=count)) for n, kind in enumerate(kinds)}
    return pa.table(columns)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(blocks=st.lists(tables(), max_size=4))
def test_rows_come_back_as_they_were_whatever_their_neighbours_are(blocks: list[pa.Table]) -> None:
    rows = pa.concat_tables([packed(block) for block in blocks]) if blocks else packed(pa.table({"a": []}))
    assert len(set(rows["star_batch:id"].to_pylist())) == rows.num_rows == sum(block.num_rows for block in blocks)
    back = unpacked(rows[PACKED])
    assert [row for table in back for row in table.to_pylist()] == [row for t in blocks for row in t.to_pylist()]
    answers = pa.table({"answer": [str(n) for n in range(rows.num_rows)]})
    answered = [row for table in with_answers(rows[PACKED], answers) for row in table.to_pylist()]
    assert [row["answer"] for row in answered] == answers["answer"].to_pylist()


def test_types_that_stay_as_they_are() -> None:
    block = pa.table(
        {
            "names": pa.array(["a", None, "a"]).dictionary_encode(),
            "small": pa.array(["a", "b", "a"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
            "tensor": ArrowTensorArray.from_numpy(np.arange(12).reshape(3, 2, 2)),
            "object": ArrowPythonObjectArray.from_objects([{1}, None, 2]),
            "decimal": pa.array([1, 2, None], pa.decimal128(30, 2)),
        }
    ).replace_schema_metadata({"mine": "yes"})
    [back] = unpacked(packed(block)[PACKED])
    assert back.schema.equals(block.schema, check_metadata=True)
    assert back["names"].to_pylist() == ["a", None, "a"]
    assert back["object"].to_pylist() == [{1}, None, 2]
    assert np.array_equal(back["tensor"].to_pylist(), block["tensor"].to_pylist())


def test_a_row_does_not_take_its_whole_dictionary_along() -> None:
    block = pa.table({"names": pa.array([str(n) for n in range(10_000)]).dictionary_encode()}).slice(0, 2)
    assert max(len(row.as_buffer()) for row in packed(block)[PACKED]) < 2000


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two columns of one name: a, a"):
        packed(pa.table([[1], [2]], names=["a", "a"]))


def test_values_that_go_into_no_one_type_travel_as_objects() -> None:
    rows = pa.concat_tables(
        [packed(pa.table({"a": [1]})), packed(pa.table({"a": ["x"]})), packed(pa.table({"b": [1]}))]
    )
    tables = list(with_answers(rows[PACKED], pa.table({"answer": ["1", "2", "3"]})))
    assert [table.schema.field("a").type.extension_name for table in tables[:2]] == [
        "ray.data.arrow_pickled_object"
    ] * 2
    assert [table["a"].to_pylist() for table in tables[:2]] == [[1], ["x"]]
    assert tables[2].to_pylist() == [{"b": 1, "answer": "3"}]


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4)])
def test_tensors_become_images(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, *shape), np.uint8)
    rows = pa.table({"image": ArrowTensorArray.from_numpy(pixels), "question": ["a", "b"]})
    table = planned(rows, ["1", "2"], WANTED)
    assert all(np.array_equal(decoded(data), own) for data, own in zip(table["image"].to_pylist(), pixels, strict=True))


def test_python_objects_become_what_they_are() -> None:
    picture = Image.new("RGB", (3, 2), (9, 8, 7))
    rows = pa.table(
        {
            "image": ArrowPythonObjectArray.from_objects([[picture, np.zeros((2, 2, 1), np.uint8)]]),
            "question": ArrowPythonObjectArray.from_objects(["what?"]),
        }
    )
    table = planned(rows, ["1"], WANTED)
    [first, second] = table["image"].to_pylist()[0]
    assert decoded(first)[0, 0].tolist() == [9, 8, 7]
    assert decoded(second).shape == (2, 2)
    assert table["question"].to_pylist() == ["what?"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 2, 3), np.float32), r"holds an array of float32 \[2, 2, 3\]; expected uint8"),
        (np.zeros((2, 2, 7), np.uint8), r"array of uint8 \[2, 2, 7\]"),
        (np.zeros((0, 2), np.uint8), r"array of uint8 \[0, 2\]"),
        (Image.new("CMYK", (2, 2)), "holds an image that cannot be written: OSError"),
        (object(), r"holds Python objects \(object\)"),
    ],
)
def test_what_is_no_image_is_said(image: Any, words: str) -> None:
    rows = pa.table({"image": ArrowPythonObjectArray.from_objects([image]), "question": ["a"]})
    with pytest.raises(InputError, match=words):
        planned(rows, ["1"], WANTED)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [b"x"]}, r"the rows: no column 'question' for prompt_column; columns: image"),
        ({"image": [b"x"], "question": [7]}, "column 'question' for prompt_column holds int64; expected text"),
        ({"image": [1.5], "question": ["a"]}, "column 'image' for image_column holds double"),
        ({"image": [b"x"], "question": pa.array([b"\xff"]).view(pa.string())}, "column 'question': "),
    ],
)
def test_columns_that_cannot_be_read_are_said(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        planned(pa.table(columns), ["1"], WANTED)


def test_tensors_and_objects_as_plain_types() -> None:
    rows = pa.table(
        {
            "tensor": ArrowTensorArray.from_numpy(np.arange(8).reshape(2, 2, 2)),
            "object": ArrowPythonObjectArray.from_objects([1, None]),
        }
    )
    assert without_extensions(rows).to_pylist()[0] == {"tensor": [[0, 1], [2, 3]], "object": 1}
    with pytest.raises(InputError, match=r"'object' holds Python objects \(int, set\)"):
        without_extensions(pa.table({"object": ArrowPythonObjectArray.from_objects([1, {2}])}))
