import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from star_batch import images
from star_batch.config import Input
from star_batch.inputs.base import plan_input
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import read_rows
from star_batch.inputs.sources import Sources
from tests.pipeline.fakes import SIDE, FakePreprocessor
from tests.pipeline.samples import input_config, png, write

TYPES = {
    "image": pa.binary(),
    "question": pa.string(),
    "thing": pa.string(),
    "tokens": pa.int64(),
    "choices": pa.list_(pa.string()),
    "truth": pa.int64(),
}


def prepare(
    path: Path, records: list[dict[str, Any]], types: dict[str, Any], load: Any = FakePreprocessor, **more: Any
) -> list[dict[str, Any]]:
    schema = pa.schema([(name, types[name]) for name in types if any(name in record for record in records)])
    config: Input = input_config(write(path / "in" / "a.parquet", records, schema), **more)
    plan = plan_input(config)
    stage = Preprocess(
        input=config,
        schema=plan.schema,
        sources=Sources.of(config, plan.root, only_names=plan.only_names),
        load=load,
    )
    tables = [stage(table) for group in plan.pieces for table in read_rows(plan, group)]
    return [row for table in tables for row in table.to_pylist()]


def colour(row: dict[str, Any]) -> int:
    """Of the first image."""
    return int(row["pictures"][0]["pixels"][0])


def test_a_good_row(tmp_path: Path) -> None:
    record = {"image": png(7), "question": "q", "tokens": 5, "choices": ["a", "b"], "truth": 3}
    more = {"max_new_tokens_column": "tokens", "choices_column": "choices", "reference_column": "truth"}
    [row] = prepare(tmp_path, [record], TYPES, keep_columns=["question", "truth"], **more)
    assert row["id"] == "a.parquet#0"
    assert row["pictures"] == [
        {"pixels": bytes([7]) * (SIDE * SIDE * 3), "shape": [1, SIDE, SIDE, 3], "size": [10, 12]}
    ]
    assert (row["prompt"], row["max_new_tokens"], row["choices"], row["reference"]) == ("q", 5, ["a", "b"], "3")
    assert (row["keep:question"], row["keep:truth"]) == ("q", 3)
    assert row["error"] is None
    assert row["error_type"] is None
    assert row["decode_seconds"] > 0


def test_large_images_are_decoded_smaller_where_the_job_wants_it(tmp_path: Path) -> None:
    given: list[tuple[tuple[int, int], object]] = []

    class Noting(FakePreprocessor):
        def shrink(self, size: tuple[int, int]) -> int:
            return 4

        def picture(self, image: Any, size: tuple[int, int] | None = None) -> Any:
            given.append((image.size, size))
            return super().picture(image, size)

    file = io.BytesIO()
    Image.new("RGB", (400, 300), (9, 9, 9)).save(file, "JPEG")
    records = [{"image": data, "question": "q"} for data in (file.getvalue(), png(7), b"broken")]
    for decode in ("exact", "fast"):
        rows = prepare(tmp_path / decode, records, TYPES, load=Noting, decode=decode)
        assert [colour(row) for row in rows[:2]] == [9, 7]
        assert [row["error_type"] for row in rows] == [None, None, "image_unreadable"]
    assert given == [((400, 300), None), ((12, 10), None), ((100, 75), (400, 300)), ((12, 10), (12, 10))]


def test_dates_that_python_has_not_are_carried_along_and_written_as_arrow_does(tmp_path: Path) -> None:
    far = pa.array([2**40, None], pa.timestamp("s"))
    table = pa.table({"image": [png(7)] * 2, "until": far, "again": far, "name": ["a", "b"]})
    pq.write_table(table, tmp_path / "in.parquet")
    config = input_config(
        tmp_path / "in.parquet", prompt="{name} until {until}", prompt_column=None, keep_columns=["again"]
    )
    plan = plan_input(config)
    stage = Preprocess(
        input=config,
        schema=plan.schema,
        sources=Sources.of(config, plan.root, only_names=plan.only_names),
        load=FakePreprocessor,
    )
    [done] = [stage(table) for group in plan.pieces for table in read_rows(plan, group)]
    assert done["keep:again"].combine_chunks().equals(far.cast(pa.timestamp("ms")))
    assert done["prompt"][0].as_py().startswith("a until ")
    assert done["error_type"].to_pylist() == [None, "prompt_missing"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"image": None}, "image_missing"),
        ({"image": b""}, "image_missing"),
        ({"image": b"no image at all"}, "image_unreadable"),
        ({"image": png(1)[:40]}, "image_unreadable"),
        ({"image": b"%PDF-1.4 ..."}, "image_format_refused"),
        ({"question": None}, "prompt_missing"),
        ({"question": " \n"}, "prompt_missing"),
        ({"tokens": None}, "value_invalid"),
        ({"tokens": 0}, "value_invalid"),
        ({"tokens": -3}, "value_invalid"),
        ({"tokens": 2**40}, "value_invalid"),
        ({"choices": None}, "value_invalid"),
        ({"choices": []}, "value_invalid"),
        ({"choices": ["a", None]}, "value_invalid"),
    ],
)
def test_a_bad_row_becomes_an_error_row_between_good_ones(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    good = {"image": png(7), "question": "q", "tokens": 5, "choices": ["a", "b"]}
    more = {"max_new_tokens_column": "tokens", "choices_column": "choices"}
    before, bad, after = prepare(tmp_path, [good, good | change, good], TYPES, **more)
    assert bad["error_type"] == kind
    assert bad["error"]
    assert bad["pictures"] is None
    assert bad["id"] == "a.parquet#1"
    assert before["error"] is None
    assert after["error"] is None


def test_a_decompression_bomb_is_not_decoded(tmp_path: Path) -> None:
    [row] = prepare(tmp_path, [{"image": png(1), "question": "q"}], TYPES, max_image_pixels=119)
    assert row["error_type"] == "image_too_large"


def test_a_null_in_the_template(tmp_path: Path) -> None:
    records = [{"image": png(1), "thing": thing} for thing in ("car", None)]
    good, bad = prepare(tmp_path, records, TYPES, prompt="Where is the {thing}?")
    assert good["prompt"] == "Where is the car?"
    assert (bad["error_type"], bad["error"]) == ("prompt_missing", "column 'thing' is null")


def test_a_null_id(tmp_path: Path) -> None:
    records = [{"image": png(1), "question": "q", "thing": None}]
    [row] = prepare(tmp_path, records, TYPES, id_column="thing")
    assert (row["id"], row["error_type"]) == ("a.parquet#0", "value_invalid")


def test_choices_for_all_rows(tmp_path: Path) -> None:
    [row] = prepare(tmp_path, [{"image": png(1), "question": "q"}], TYPES, choices=["yes", "no"])
    assert row["choices"] == ["yes", "no"]


def test_images_by_path(tmp_path: Path) -> None:
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    (tmp_path / "in" / "pictures" / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    paths = ["pictures/a.png", str(tmp_path / "b.png"), f"file://{tmp_path}/b.png", "empty.png", "none.png", "", None]
    records = [{"image": path, "question": "q"} for path in paths]
    found = prepare(tmp_path, records, TYPES | {"image": pa.string()})
    assert [colour(row) if row["pictures"] else row["error_type"] for row in found] == [
        1,
        2,
        2,
        "image_missing",
        "image_fetch_failed",
        "image_missing",
        "image_missing",
    ]
    assert found[4]["error"] == f"{tmp_path}/in/none.png: not found"
    assert all(row["fetch_seconds"] > 0 for row in found[:5])


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/a.png", "https://h/a.png?sig=hunter2", "ftp://h/a", "s3://u:hunter2@b/k"]
)
def test_images_from_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    [row] = prepare(tmp_path, [{"image": path, "question": "q"}], TYPES | {"image": pa.string()})
    assert row["error_type"] == "image_fetch_refused"
    assert "hunter2" not in row["error"]


def test_the_pair_of_bytes_and_path_that_datasets_write(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(2))
    pairs = [{"bytes": png(1), "path": "x.png"}, {"bytes": None, "path": str(tmp_path / "b.png")}, None]
    pair = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = prepare(tmp_path, [{"image": p, "question": "q"} for p in pairs], TYPES | {"image": pair})
    assert [colour(row) if row["pictures"] else row["error_type"] for row in found] == [1, 2, "image_missing"]


def test_several_images_of_one_row(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(2))
    pair = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[pa.DataType, list[Any]] = {
        pa.list_(pa.binary()): [[png(1), png(2)], [png(3)], [], None, [png(1), None], [png(1), b"?"]],
        pa.large_list(pair): [[{"bytes": png(1), "path": None}, {"bytes": None, "path": str(tmp_path / "b.png")}]],
    }
    for number, (type, values) in enumerate(columns.items()):
        records = [{"image": value, "question": "q"} for value in values]
        found = prepare(tmp_path / str(number), records, TYPES | {"image": type})
        assert [picture["pixels"][0] for picture in found[0]["pictures"]] == [1, 2]
        kinds = [row["error_type"] for row in found[1:]]
        assert kinds == [None, "image_missing", "image_missing", "image_missing", "image_unreadable"][: len(kinds)]


def test_a_failure_that_is_no_rows_fault_rises(tmp_path: Path) -> None:
    class Broken(FakePreprocessor):
        def picture(self, image: Any, size: Any = None) -> Any:
            raise RuntimeError("wrong processor")

    config = input_config(
        write(
            tmp_path / "a.parquet",
            [{"image": png(1), "question": "q"}],
            pa.schema([("image", pa.binary()), ("question", pa.string())]),
        )
    )
    plan = plan_input(config)
    stage = Preprocess(
        input=config, schema=plan.schema, sources=Sources.of(config, plan.root, only_names=plan.only_names), load=Broken
    )
    with pytest.raises(RuntimeError, match="wrong processor"):
        stage(next(read_rows(plan, plan.pieces[0])))


def test_several_questions_about_an_image_decode_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    real = images.decode

    def counted(data: bytes, **more: Any) -> Any:
        decoded.append(data)
        return real(data, **more)

    monkeypatch.setattr("star_batch.images.decode", counted)
    records: list[dict[str, Any]] = [
        {"image": png(1), "thing": "car", "truth": 3},
        {"image": png(2), "thing": None, "truth": None},
        {"image": b"broken", "thing": "cat", "truth": 1},
    ]
    questions = {
        "where": "Where is the {thing}?",
        "many": {"prompt": "many?", "choices": ["1", "3"], "reference_column": "truth"},
    }
    found = prepare(tmp_path, records, TYPES, prompt_column=None, questions=questions)
    assert [row["id"] for row in found] == [f"a.parquet#{n}#{name}" for n in range(3) for name in ("where", "many")]
    assert [row["question_name"] for row in found] == ["where", "many"] * 3
    assert [row["prompt"] for row in found][:2] == ["Where is the car?", "many?"]
    assert [row["choices"] for row in found][:2] == [None, ["1", "3"]]
    assert [row["reference"] for row in found] == [None, "3", None, None, None, "1"]
    assert [row["error_type"] for row in found] == [None, None, "prompt_missing", None, *["image_unreadable"] * 2]
    assert sorted(decoded) == sorted([png(1), png(2), b"broken"])


def test_a_row_that_is_not_to_be_answered_says_why(tmp_path: Path) -> None:
    records = [{"image": png(1), "question": "q", "thing": thing} for thing in (None, "no image in it")]
    good, bad = prepare(tmp_path, records, TYPES, refused_column="thing")
    assert good["error"] is None
    assert (bad["error_type"], bad["error"]) == ("request_refused", "no image in it")


DECODING = pa.struct([("max_new_tokens", pa.int64()), ("temperature", pa.int64()), ("stop", pa.list_(pa.string()))])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, None),
        ({"max_new_tokens": 7, "temperature": 1, "stop": ["."]}, None),
        ({"max_new_tokens": 0}, "value_invalid"),
        ({"max_new_tokens": 2**40}, "value_invalid"),
        ({"temperature": -1}, "value_invalid"),
        ({"stop": [""]}, "value_invalid"),
        ({"stop": [None]}, "value_invalid"),
    ],
)
def test_a_rows_own_decoding(tmp_path: Path, given: dict[str, Any] | None, kind: str | None) -> None:
    records = [{"image": png(1), "question": "q", "decoding": given}]
    [row] = prepare(tmp_path, records, TYPES | {"decoding": DECODING}, decoding_column="decoding")
    assert row["error_type"] == kind
    chosen = given or {} if kind is None else {}
    for name in ("max_new_tokens", "temperature", "top_p", "seed", "stop"):
        assert row[name] == chosen.get(name)
