"""Arrow files as an input: what `save_to_disk` writes, Feather, and what is refused."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.commit.digests import digest_ids, is_in, joined
from star_batch.errors import InputError
from star_batch.inputs.arrow import Batches
from star_batch.inputs.base import plan_input
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.rows import InputPlan, read_rows
from tests.pipeline.samples import input_config, png
from tests.storage.test_arrow import written
from tests.test_house import ROOT


def read(plan: InputPlan, column: str, rows_per_table: int = 1024) -> dict[str, Any]:
    tables = [t for piece in plan.pieces for t in read_rows(plan, piece, rows_per_table=rows_per_table)]
    return {
        id: value for t in tables for id, value in zip(t[ID_COLUMN].to_pylist(), t[column].to_pylist(), strict=True)
    }


def planned(path: Any, **more: Any) -> InputPlan:
    return plan_input(input_config(path, kind="arrow", **more))


def rows(count: int) -> pa.Table:
    return pa.table({"image": [png(n) for n in range(count)], "question": [f"question {n}" for n in range(count)]})


def data_set(count: int = 7) -> Any:
    datasets = importlib.import_module("datasets")

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "images": datasets.Sequence(datasets.Image()),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "question": datasets.Value("string"),
            "boxes": datasets.Array2D((2, 2), "uint8"),
        }
    )
    pictures = [{"bytes": png(n), "path": None} for n in range(count)]
    values = {
        "image": pictures,
        "images": [[picture] * 2 for picture in pictures],
        "label": [n % 2 for n in range(count)],
        "question": [f"question {n}" for n in range(count)],
        "boxes": [[[n, 2], [3, 4]] for n in range(count)],
    }
    return datasets.Dataset.from_dict(values, features=features)


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    saved = data_set()
    saved.save_to_disk(tmp_path / "set", num_shards=2)
    plan = planned(tmp_path / "set", reference_column="label", keep_columns=["boxes"])
    ids = [f"data-0000{file}-of-00002.arrow#{row}" for file, count in ((0, 4), (1, 3)) for row in range(count)]
    assert plan.ids().to_pylist() == ids
    assert plan.labels == ("label",)
    assert read(plan, "question") == dict(zip(ids, saved["question"], strict=True))
    assert list(read(plan, "label").values()) == [["cat", "dog"][n] for n in saved["label"]]
    assert list(read(plan, "boxes").values()) == saved["boxes"][:]
    pictures = [None if image is None else image["bytes"] for image in read(plan, "image").values()]
    assert pictures == [png(n) for n in range(7)]


def test_a_dictionary_of_data_sets_is_read_with_the_splits_in_the_ids(tmp_path: Path) -> None:
    datasets = importlib.import_module("datasets")

    datasets.DatasetDict(train=data_set(3), test=data_set(2)).save_to_disk(tmp_path)
    found = read(planned(tmp_path, image_column="images"), "images")
    assert list(found) == [
        *(f"test/data-00000-of-00001.arrow#{row}" for row in range(2)),
        *(f"train/data-00000-of-00001.arrow#{row}" for row in range(3)),
    ]
    assert [[each["bytes"] for each in images] for images in found.values()][:2] == [[png(0)] * 2, [png(1)] * 2]


def test_feather_and_streams_are_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(rows(3), str(tmp_path / "a.feather"))
    (tmp_path / "b.arrow").write_bytes(written(rows(2)))
    ids = [*(f"a.feather#{row}" for row in range(3)), *(f"b.arrow#{row}" for row in range(2))]
    assert read(planned(tmp_path), "question") == dict(
        zip(ids, [f"question {n}" for n in (0, 1, 2, 0, 1)], strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(rows_per_batch=st.integers(1, 40), rows_per_table=st.integers(1, 40), has_dictionaries=st.booleans())
def test_ids_do_not_depend_on_how_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows_per_batch: int, rows_per_table: int, has_dictionaries: bool
) -> None:
    table = pa.table({"image": [b"x"] * 3000, "question": [f"question {n % 7}" for n in range(3000)]})
    if has_dictionaries:
        table = table.set_column(1, "question", table["question"].combine_chunks().dictionary_encode())
    path = tmp_path_factory.mktemp("in") / "a.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    plan = planned(path)
    assert len(plan.pieces) == (1 if has_dictionaries else 3)
    assert read(plan, "question", rows_per_table) == {f"a.arrow#{n}": f"question {n % 7}" for n in range(3000)}


def test_done_rows_and_rows_beyond_the_limit_are_left_out(tmp_path: Path) -> None:
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), rows(1).schema) as writer:
        writer.write_table(
            pa.table({"image": [b"x"] * 2500, "question": [f"{n}" for n in range(2500)]}), max_chunksize=100
        )
    plan = planned(tmp_path, limit=2400)
    ids = plan.ids().to_pylist()
    assert ids == [f"a.arrow#{n}" for n in range(2400)]
    todo = plan.only(~is_in(plan.digests(), joined([digest_ids(ids[:1500] + ids[1502:])])))
    assert read(todo, "question") == {"a.arrow#1500": "1500", "a.arrow#1501": "1501"}
    assert [piece.first_row for piece in todo.pieces if isinstance(piece, Batches)] == [1100]


def test_several_questions_are_asked_of_each_row(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(written(rows(2)))
    plan = planned(tmp_path, questions={"what": "what?", "why": "why?"})
    assert plan.ids().to_pylist() == [f"a.arrow#{row}#{name}" for row in range(2) for name in ("what", "why")]


def test_a_batch_costs_what_its_body_says(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(written(pa.table({"image": [b"x" * 10**6] * 5, "question": ["?"] * 5})))
    (piece,) = planned(tmp_path).pieces
    assert 5 * 10**6 < piece.largest < 5.1 * 10**6


def test_text_that_is_not_utf8_is_spelt_out(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"tea"]).buffers())
    (tmp_path / "a.arrow").write_bytes(written(pa.table({"image": [b"x"] * 2, "question": text})))
    assert list(read(planned(tmp_path), "question").values()) == ["caf\\xe9", "tea"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.arrow", b"", "is not a readable Arrow file: it is empty"),
        ("a.arrow", b"no Arrow" * 99, "is not a readable Arrow file"),
        ("a.arrow", written(rows(2))[:-9], "is not a readable Arrow file: .* still being written"),
        ("a.arrow", written(rows(2).slice(0, 0)), "1 Arrow files without a single row"),
        ("a.arrow", written(rows(1).rename_columns(["image", "words"])), r"a\.arrow: no column 'question'"),
        ("a.parquet", b"PAR1", "no Arrow files there .*found instead: .parquet 1; Parquet is read with kind: parquet"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words):
        planned(tmp_path)


def test_arrow_files_among_parquet_are_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(written(rows(1)))
    with pytest.raises(InputError, match=r"no Parquet files there .*\(--kind arrow\)"):
        plan_input(input_config(tmp_path))


def test_types_that_no_output_has_are_refused(tmp_path: Path) -> None:
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["a"]))
    (tmp_path / "a.arrow").write_bytes(written(rows(1).append_column("runs", ends)))
    with pytest.raises(InputError, match=r"column 'runs' has the type .*run_end.*, which Parquet does not have"):
        planned(tmp_path, keep_columns=["runs"])
    assert len(read(planned(tmp_path), "question")) == 1


def test_a_file_that_shrinks_after_it_was_planned_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(written(rows(3)))
    plan = planned(path)
    path.write_bytes(written(rows(3).slice(0, 1)))
    with pytest.raises(InputError, match="fewer rows than when it was planned"):
        read(plan, "question")


def test_a_store_is_asked_for_headers_alone() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/arrow/a.arrow", written(rows(3), times=2))
    store.pipe("/arrow/cache-1.arrow", b"not of the set")
    store.pipe("/arrow/state.json", b'{"_data_files": [{"filename": "a.arrow"}]}')
    plan = planned("memory://arrow")
    assert list(read(plan, "question")) == [f"a.arrow#{row}" for row in range(6)]


def star_batch(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return f"{done.returncode} {done.stdout} {done.stderr}"


@pytest.mark.ray
def test_a_job_answers_a_saved_data_set_and_goes_on(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    data_set(6).save_to_disk(tmp_path / "set", num_shards=2)
    options = ["--input", str(tmp_path / "set"), "--kind", "arrow", "--output", str(tmp_path / "out")]
    options += ["--model", "demo", "--prompt-column", "question"]
    for limit in (2, 6):
        assert star_batch("run", *options, "--limit", str(limit)).startswith("0 ")
    answers = pq.read_table(tmp_path / "out" / "answers")
    assert sorted(answers["id"].to_pylist()) == [
        f"data-0000{file}-of-00002.arrow#{row}" for file in (0, 1) for row in range(3)
    ]
    assert answers["error"].null_count == 6


def test_a_plan_of_broken_rows_is_made(tmp_path: Path) -> None:
    table = rows(4).set_column(0, "image", pa.array([png(0), b"no image", None, png(1)]))
    (tmp_path / "a.arrow").write_bytes(written(table))
    said = star_batch(
        "plan",
        "--input",
        str(tmp_path),
        "--kind",
        "arrow",
        "--output",
        str(tmp_path / "out"),
        "--model",
        "demo",
        "--prompt-column",
        "question",
    )
    assert said.startswith("0 ")
    assert "image_missing" in said
