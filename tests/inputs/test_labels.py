"""Numbers that have names, by metadata that anybody may have written."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.commit.fingerprint import fingerprint_of
from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.labels import label_names, named
from star_batch.inputs.rows import read_rows
from tests.pipeline.samples import input_config, job, png

SCHEMA = pa.schema([("label", pa.int64()), ("other", pa.float64())])


def described(features: Any) -> bytes:
    return json.dumps({"info": {"features": features}}).encode()


def labelled(names: Any) -> bytes:
    return described({"label": {"_type": "ClassLabel", "names": names}})


def names_in(metadata: bytes) -> dict[str, list[str]]:
    found = label_names(SCHEMA.with_metadata({b"huggingface": metadata}))
    return {column: names.to_pylist() for column, names in found.items()}


def test_names_are_found() -> None:
    assert names_in(labelled(["cat", "dog"])) == {"label": ["cat", "dog"]}
    assert label_names(SCHEMA) == {}


@pytest.mark.parametrize(
    "metadata",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"info": 3}', b'{"info": {"features": []}}'),
        *(labelled(names) for names in (None, [], "ab", [1], ["a", None], {"0": "a"}, ["\ud800"], 7)),
        described({"label": {"_type": "Value", "names": ["a"]}}),
        described({"label": ["ClassLabel"]}),
        described({"label": [{"_type": "ClassLabel", "names": ["a"]}]}),
        described({name: {"_type": "ClassLabel", "names": ["a"]} for name in ("other", "gone")}),
    ],
)
def test_what_is_not_as_expected_is_no_name(metadata: bytes) -> None:
    assert names_in(metadata) == {}


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda some: st.lists(some) | st.dictionaries(st.text(), some))
)
def test_nothing_in_the_metadata_raises(anything: Any) -> None:
    for metadata in (json.dumps(anything).encode(), described(anything), described({"label": anything})):
        names_in(metadata)
    names_in(labelled(anything))


@pytest.mark.parametrize("type", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64()])
def test_numbers_without_a_name_are_null(type: pa.DataType) -> None:
    numbers = [0, 1, 2, None, 120 if pa.types.is_unsigned_integer(type) else -1]
    found = named(pa.chunked_array([pa.array(numbers, type)]), pa.array(["cat", "dog"], pa.large_string()))
    assert found.to_pylist() == ["cat", "dog", None, None, None]
    largest = pa.chunked_array([pa.array([2**64 - 1], pa.uint64())])
    assert named(largest, pa.array(["cat"], pa.large_string())).to_pylist() == [None]


def write(path: Path, values: pa.Array, names: list[str] | None) -> None:
    table = pa.table({"image": [png(0)] * len(values), "question": ["what?"] * len(values), "kind": values})
    meta = None if names is None else {"huggingface": described({"kind": {"_type": "ClassLabel", "names": names}})}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta), path)


def kinds(path: Path, **more: Any) -> list[Any]:
    plan = plan_input(input_config(path, **more))
    return [kind for group in plan.pieces for table in read_rows(plan, group) for kind in table["kind"].to_pylist()]


@pytest.mark.parametrize(
    "option", [{"reference_column": "kind"}, {"keep_columns": ["kind"]}, {"prompt": "is it a {kind}?"}]
)
def test_every_file_has_its_own_names(tmp_path: Path, option: dict[str, Any]) -> None:
    write(tmp_path / "a.parquet", pa.array([0, 1, -1], pa.int64()), ["cat", "dog"])
    write(tmp_path / "b.parquet", pa.array([0, 1], pa.int8()), ["dog", "cat"])
    write(tmp_path / "c.parquet", pa.array(["bird"]), None)
    assert kinds(tmp_path, **option) == ["cat", "dog", None, "dog", "cat", "bird"]


def test_numbers_with_names_and_numbers_without_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.array([0], pa.int64()), ["cat"])
    write(tmp_path / "b.parquet", pa.array([0], pa.int64()), None)
    with pytest.raises(
        InputError,
        match=r"'kind' has types that do not go together: large_string in a\.parquet and int64 in b\.parquet",
    ):
        plan_input(input_config(tmp_path, reference_column="kind"))


def test_an_id_stays_a_number(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.array([0, 1], pa.int64()), ["cat", "dog"])
    assert kinds(tmp_path, id_column="kind") == [0, 1]


def test_columns_that_are_read_as_names_count(tmp_path: Path) -> None:
    """An output that was begun with numbers does not go on with names; one without such columns never hears of it."""
    write(tmp_path / "a.parquet", pa.array([0], pa.int64()), ["cat"])
    kept, unused = (plan_input(input_config(tmp_path, keep_columns=columns)).labels for columns in (["kind"], []))
    assert (kept, unused) == (("kind",), ())
    before, after = (fingerprint_of(job(tmp_path, "out"), {}, labels=labels) for labels in (unused, kept))
    assert before.differences(after) == ['input.labels: nothing there, ["kind"] here']
