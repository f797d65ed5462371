from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.commit.digests import digest_ids, is_in, joined
from star_batch.errors import ConfigError, InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.columns import with_kept_columns
from star_batch.inputs.parquet import RowGroup
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.prepared import kept_names
from star_batch.inputs.rows import InputPlan, distinct, read_rows
from tests.pipeline.samples import SCHEMA, input_config, rows, write


def read(plan: InputPlan, rows_per_table: int = 1024) -> pa.Table:
    return pa.concat_tables(
        table for group in plan.pieces for table in read_rows(plan, group, rows_per_table=rows_per_table)
    )


def names(plan: InputPlan) -> list[str]:
    return sorted({group.name for group in plan.pieces if isinstance(group, RowGroup)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "a.parquet", rows(25), row_group_size=10)
    write(tmp_path / "in" / "day=2" / "a.parquet", rows(7, first=25))
    write(tmp_path / "in" / "_temporary" / "b.parquet", rows(3))
    (tmp_path / "in" / "README.md").write_text("not data")
    return tmp_path / "in"


def test_derived_ids_name_the_file_and_the_row(folder: Path) -> None:
    plan = plan_input(input_config(folder))
    ids = read(plan)[ID_COLUMN].to_pylist()
    assert ids == [f"a.parquet#{n}" for n in range(25)] + [f"day=2/a.parquet#{n}" for n in range(7)]
    assert plan.num_rows == 32
    assert plan.ids().to_pylist() == ids


@settings(max_examples=20, deadline=None)
@given(rows_per_table=st.integers(1, 40), row_group_size=st.integers(1, 40))
def test_ids_do_not_depend_on_how_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows_per_table: int, row_group_size: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    write(folder / "a.parquet", rows(30), row_group_size=row_group_size)
    table = read(plan_input(input_config(folder, keep_columns=["question"])), rows_per_table)
    assert table[ID_COLUMN].to_pylist() == [f"a.parquet#{n}" for n in range(30)]
    assert table["question"].to_pylist() == [f"question {n}" for n in range(30)]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("in/a.parquet", ["a.parquet"]),
        ("in", ["a.parquet", "day=2/a.parquet"]),
        ("in/*.parquet", ["a.parquet"]),
        ("in/**/*.parquet", ["a.parquet", "day=2/a.parquet"]),
        ("in/day=*/a.parquet", ["day=2/a.parquet"]),
    ],
)
def test_names_are_relative_to_what_was_given(folder: Path, path: str, found: list[str]) -> None:
    assert names(plan_input(input_config(folder.parent / path))) == found


def test_names_of_a_list_are_relative_to_the_common_folder(folder: Path) -> None:
    plan = plan_input(input_config([folder / "day=2", folder / "a.parquet"]))
    assert names(plan) == ["a.parquet", "day=2/a.parquet"]


def test_a_file_given_twice_is_read_once(folder: Path) -> None:
    assert plan_input(input_config([folder / "a.parquet", folder / "a.parquet"])).num_rows == 25


@pytest.mark.parametrize("limit", [1, 10, 12, 30, 1000])
def test_limit_takes_the_first_rows(folder: Path, limit: int) -> None:
    plan = plan_input(input_config(folder, limit=limit))
    everything = plan_input(input_config(folder)).ids().to_pylist()
    assert plan.num_rows == min(limit, 32)
    assert read(plan, rows_per_table=3)[ID_COLUMN].to_pylist() == everything[:limit]


def test_done_rows_are_left_out(folder: Path) -> None:
    plan = plan_input(input_config(folder))
    ids = plan.ids().to_pylist()
    done = ids[:10] + ids[11:13] + ids[25:]
    todo = plan.only(~is_in(plan.digests(), joined([digest_ids(done)])))
    assert read(todo, rows_per_table=4)[ID_COLUMN].to_pylist() == [id for id in ids if id not in done]
    assert todo.num_rows == 32 - len(done)
    assert todo.ids().to_pylist() == [id for id in ids if id not in done]
    assert {group.index for group in todo.pieces if isinstance(group, RowGroup)} == {1, 2}
    again = todo.only(~is_in(todo.digests(), joined([digest_ids([ids[10], ids[14]])])))
    assert read(again)[ID_COLUMN].to_pylist() == [ids[13], *ids[15:25]]


def test_given_ids_become_text_and_a_null_gets_a_derived_one(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("image", pa.binary()), ("question", pa.string())])
    records = [{**row, "id": n if n != 1 else None} for n, row in enumerate(rows(3))]
    plan = plan_input(input_config(write(tmp_path / "a.parquet", records, schema), id_column="id"))
    assert read(plan)[ID_COLUMN].to_pylist() == ["0", "a.parquet#1", "2"]
    assert plan.ids().to_pylist() == ["0", "a.parquet#1", "2"]


def test_ids_that_stand_twice_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(5))
    write(tmp_path / "b.parquet", [*rows(5, first=3), *rows(1, first=3)])
    with pytest.raises(InputError, match="'id': 2 ids stand in several rows: 'row-0003', 'row-0004'"):
        distinct(plan_input(input_config(tmp_path, id_column="id")), "refuse")
    derived = plan_input(input_config(tmp_path))
    assert distinct(derived, "refuse")[0] == derived


def test_of_ids_that_stand_twice_the_first_may_be_taken(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(5), row_group_size=2)
    write(tmp_path / "b.parquet", [{**row, "question": "second"} for row in rows(5, first=3)])
    plan, digests = distinct(plan_input(input_config(tmp_path, id_column="id")), "first")
    table = read(plan)
    assert table[ID_COLUMN].to_pylist() == [f"row-{n:04d}" for n in range(8)]
    assert table["question"].to_pylist() == [f"question {n}" for n in range(5)] + ["second"] * 3
    assert digests.tobytes() == digest_ids(table[ID_COLUMN].to_pylist())


def test_a_missing_column_is_named_with_what_is_there(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan_input(input_config(folder, image_column="imgae"))
    assert str(caught.value) == (
        "a.parquet: no column 'imgae' for image_column (did you mean 'image'?); columns: id, image, question"
    )


def test_a_column_of_the_template_is_checked(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'thing' for prompt; columns"):
        plan_input(input_config(folder, prompt="What is the {thing}?"))


def test_each_file_is_checked(folder: Path) -> None:
    write(folder / "z.parquet", [{"id": "x"}], pa.schema([("id", pa.string())]))
    with pytest.raises(InputError, match=r"z\.parquet: no column 'image'"):
        plan_input(input_config(folder))


@pytest.mark.parametrize(
    ("column", "type", "option"),
    [
        ("image", pa.int64(), "image_column"),
        ("question", pa.int64(), "prompt_column"),
        ("extra", pa.string(), "choices_column"),
        ("extra", pa.float64(), "max_new_tokens_column"),
        ("extra", pa.float64(), "id_column"),
        ("extra", pa.list_(pa.string()), "reference_column"),
    ],
)
def test_a_wrong_type_is_refused(tmp_path: Path, column: str, type: pa.DataType, option: str) -> None:
    types: dict[str, Any] = {"image": pa.binary(), "question": pa.string(), column: type}
    path = write(tmp_path / "a.parquet", [dict.fromkeys(types)], pa.schema(list(types.items())))
    more = {} if option in ("image_column", "prompt_column") else {option: column}
    with pytest.raises(InputError, match=f"column '{column}' for {option} holds .*; expected"):
        plan_input(input_config(path, **more))


def test_types_of_several_files_become_one(tmp_path: Path) -> None:
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()]
    for number, kind in enumerate(kinds):
        schema = pa.schema([("image", pa.binary()), ("question", pa.string()), ("extra", kind)])
        record = {"image": b"", "question": "", "extra": None if kind == pa.null() else "x"}
        write(tmp_path / f"{number}.parquet", [record], schema)
    plan = plan_input(input_config(tmp_path, keep_columns=["extra"]))
    assert plan.schema.field("extra").type == pa.large_string()
    assert read(plan)["extra"].to_pylist() == ["x", "x", "x", None]


def test_types_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for number, kind in enumerate([pa.string(), pa.int64()]):
        schema = SCHEMA.append(pa.field("extra", kind))
        write(tmp_path / f"{number}.parquet", [{**rows(1)[0], "extra": None}], schema)
    with pytest.raises(InputError, match="do not go together"):
        plan_input(input_config(tmp_path, keep_columns=["extra"]))


def test_a_kept_column_that_is_called_like_one_of_the_answers_has_a_prefix(tmp_path: Path) -> None:
    schema = pa.schema([*SCHEMA, ("label", pa.string()), ("input_label", pa.int64())])
    write(tmp_path / "a.parquet", [{**rows(1)[0], "label": "cat", "input_label": 3}], schema)
    config = input_config(tmp_path, keep_columns=["label", "question"])
    assert read(plan_input(config))["label"].to_pylist() == ["cat"]
    assert kept_names(config) == {"label": "input_label", "question": "question"}
    for prefix, names in (("input_", ["label", "input_label"]), ("is_", ["label", "is_label"])):
        with pytest.raises(ConfigError, match=f"'label' would be carried as '{prefix}label'.*another keep_prefix"):
            plan_input(input_config(tmp_path, keep_columns=names, keep_prefix=prefix))
    other = input_config(tmp_path, keep_columns=["label", "input_label"], keep_prefix="was_")
    assert list(kept_names(other).values()) == ["was_label", "input_label"]
    assert plan_input(other).num_rows == 1


def test_a_star_keeps_every_column_without_images(tmp_path: Path) -> None:
    pair = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    more = [
        ("label", pa.string()),
        ("thumb", pa.list_(pair)),
        ("raw", pa.large_binary()),
        ("boxes", pa.list_(pa.int8())),
    ]
    schema = pa.schema([*SCHEMA, *more])
    for number in range(2):
        row = {**rows(1, first=number)[0], "label": "cat", "thumb": [], "raw": b"", "boxes": [number]}
        write(tmp_path / f"{number}.parquet", [row], schema)
    config = input_config(tmp_path, keep_columns="*")
    plan = plan_input(config)
    names = with_kept_columns(config, plan.schema).keep_columns
    assert set(names) == {field.name for field in SCHEMA if field.name != "image"} | {"label", "boxes"}
    assert read(plan)["boxes"].to_pylist() == [[0], [1]]
    both = with_kept_columns(input_config(tmp_path, keep_columns=["*", "raw"]), plan.schema)
    assert set(both.keep_columns) == {*names, "raw"}
    write(tmp_path / "2.parquet", rows(1, first=2))
    with pytest.raises(InputError, match=r"2\.parquet: no column 'label' for keep_columns"):
        plan_input(config)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in [("nowhere", "not found"), ("empty", "no Parquet files"), ("*.pq", "no Parquet files")]:
        with pytest.raises(InputError, match=words):
            plan_input(input_config(tmp_path / path))


def test_no_rows(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="1 Parquet files without a single row"):
        plan_input(input_config(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" * 20])
def test_what_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: is not a readable Parquet file"):
        plan_input(input_config(tmp_path))
