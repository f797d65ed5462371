"""A stage in pipelines of Ray Data, on a local Ray: with an engine that needs no model, and once with a real one."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from star_batch.errors import ClusterError, ConfigError, InputError, ModelError, TooManyFailed
from star_batch.pipeline.stage import Answers
from tests.pipeline.fakes import DEADLY_SIZE, FAKE, POISON
from tests.pipeline.samples import png, rows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("fake_ray")]


@pytest.fixture
def data() -> Iterator[Any]:
    import ray.data

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars = False
    yield ray.data
    context.enable_progress_bars, context.execution_options.preserve_order = before


def stage(model: str = "fake", **options: Any) -> Answers:
    asked = {} if {"prompt", "prompt_column"} & options.keys() else {"prompt_column": "question"}
    small = {"device": "cpu", "rows_per_window": 4, "windows": 2}
    return Answers(model, backend=FAKE, **{**small, **asked, **options})


def test_a_stage_stands_between_others_and_every_column_stays(data: Any) -> None:
    data.DataContext.get_current().execution_options.preserve_order = True
    records = [row | {"note": [n], "half": n / 2} for n, row in enumerate(rows(30))]
    records[7]["image"] = b"no image"
    dataset = data.from_items(records, override_num_blocks=4).map(lambda row: row | {"more": row["id"] + "!"})
    answered = (
        stage()(dataset).filter(lambda row: row["error"] is None).map(lambda row: row | {"loud": row["answer"] * 2})
    )
    found = answered.take_all()
    assert [row["id"] for row in found] == [record["id"] for n, record in enumerate(records) if n != 7]
    for n, row in zip([n for n in range(30) if n != 7], found, strict=True):
        assert {name: row[name] for name in records[n]} == records[n]
        assert row["more"] == f"row-{n:04d}!"
        assert row["loud"] == f"question {n} {n}" * 2
        assert (row["model"], row["finish_reason"], list(row["num_kept"])) == ("fake", "stop", [16, 8])


def test_laziness_limits_schema_and_two_runs(data: Any) -> None:
    answered = stage(prefix="my_")(data.from_items(rows(200)))
    assert len(answered.take(3)) == 3
    assert len(answered.limit(5).take_all()) == 5
    names = answered.schema().names
    assert names[:3] == ["id", "image", "question"]
    assert names[3:6] == ["my_answer", "my_error", "my_error_type"]
    whole = answered.materialize()
    assert whole.count() == 200
    assert {row["my_answer"] for row in whole.take_all()} == {f"question {n} {n}" for n in range(200)}


def test_two_stages_with_models_of_their_own(data: Any) -> None:
    first = stage("one", prefix="one_")(data.from_items(rows(9)))
    second = stage("two", prefix="two_", prompt="again: {one_answer}")(first)
    for row in second.take_all():
        assert (row["one_model"], row["two_model"]) == ("one", "two")
        assert row["two_answer"] == f"again: {row['one_answer']} {row['one_answer'].split()[-1]}"


_BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image_missing"),
    ({"image": b""}, "image_missing"),
    ({"image": png(1)[:50]}, "image_unreadable"),
    ({"image": b"%PDF-1.4"}, "image_format_refused"),
    ({"image": "/etc/passwd"}, "image_fetch_refused"),
    ({"image": "https://example.org/a.png"}, "image_fetch_refused"),
    ({"image": "cat.png"}, "image_fetch_failed"),
    ({"image": np.zeros((2, 2), np.float64)}, "value_invalid"),
    ({"image": 7}, "value_invalid"),
    ({"question": None}, "prompt_missing"),
    ({"question": " "}, "prompt_missing"),
    ({"question": "long " * 300}, "prompt_too_long"),
    ({"question": 7}, "value_invalid"),
]


def _random_block(draw: random.Random, first: int) -> tuple[pa.Table, list[str | None]]:
    """Rows of one kind of schema, some of them bad; and the error that each is to have."""
    count, own = draw.choice([0, 1, 2, 5, 9]), rows(9, first)
    kinds: list[str | None] = [None] * count
    records = own[:count]
    if count and draw.random() < 0.5:
        change, kind = draw.choice(_BAD)
        place = draw.randrange(count)
        records[place] |= change
        kinds[place] = kind
    odd: dict[str, Any] = draw.choice([{}, {"x": 1}, {"x": "text"}, {"x": {"a": 1}}, {"x": None}, {"y": [1, 2]}])
    records = [record | odd for record in records]
    if draw.random() < 0.15:
        for record in records:
            del record["question"]
        kinds = ["value_invalid"] * count
    return _block(records), kinds


def _block(records: list[dict[str, Any]]) -> pa.Table:
    """As Ray makes a block of rows: what goes into no one type becomes objects."""
    from ray.data.extensions import ArrowPythonObjectArray

    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            if {str, bytes} <= set(map(type, values)):
                raise ValueError("text would become bytes")
            columns[name] = pa.array(values)
        except (pa.ArrowException, ValueError, TypeError):
            columns[name] = ArrowPythonObjectArray.from_objects(values)
    return pa.table(columns) if columns else pa.table({"id": pa.array([], pa.string())})


@pytest.mark.parametrize("seed", range(4))
def test_one_row_in_is_one_row_out_whatever_the_blocks_are(data: Any, seed: int) -> None:
    draw = random.Random(seed)
    blocks, expected, values = [], {}, {}
    for number in range(12):
        block, kinds = _random_block(draw, 20 * number)
        blocks.append(block)
        for n, kind in enumerate(kinds):
            expected[block["id"][n].as_py()] = kind
            values[block["id"][n].as_py()] = {
                name: block[name][n].as_py() for name in ("x", "y") if name in block.column_names
            }
    found = stage()(data.from_arrow(blocks)).take_all()
    assert sorted(row["id"] for row in found) == sorted(expected)
    for row in found:
        assert row["error_type"] == expected[row["id"]], row["error"]
        assert (row["answer"] is None) == (row["error"] is not None)
        assert {name: row.get(name) for name in values[row["id"]]} == values[row["id"]]


def test_no_rows_are_no_rows(data: Any) -> None:
    dataset = data.from_items(rows(5)).filter(lambda row: False)
    assert stage()(dataset).take_all() == []
    assert (
        stage()(
            data.from_arrow(pa.table({"image": pa.array([], pa.binary()), "question": pa.array([], pa.string())}))
        ).count()
        == 0
    )


def test_images_as_ray_reads_them(data: Any, tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (6 + n, 5), (n, n, n)).save(tmp_path / f"{n}.png")
    dataset = data.read_images(str(tmp_path), include_paths=True)
    for row in stage(prompt="what is it?")(dataset).take_all():
        n = int(Path(row["path"]).stem)
        assert row["image"].shape == (5, 6 + n, 3)
        assert row["answer"] == f"what is it? {n}"


def test_pandas_blocks_choices_and_references(data: Any) -> None:
    import pandas as pd

    frame = pd.DataFrame([row | {"options": ["yes", "no"], "truth": "YES"} for row in rows(6)])
    found = stage(choices_column="options", reference_column="truth")(data.from_pandas(frame)).take_all()
    assert [(row["label"], row["is_correct"], row["truth"]) for row in found] == [("yes", True, "YES")] * 6


def test_files_that_rows_may_name(data: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(5))
    (tmp_path / "b.png").write_bytes(png(6))
    records = [
        {"image": name, "question": "q"} for name in ("a.png", str(tmp_path / "in" / "a.png"), str(tmp_path / "b.png"))
    ]
    found = {
        row["image"]: row for row in stage(image_roots=[str(tmp_path / "in")])(data.from_items(records)).take_all()
    }
    assert [found[record["image"]]["answer"] for record in records] == ["q 5", "q 5", None]
    assert found[str(tmp_path / "b.png")]["error_type"] == "image_fetch_refused"


def test_rows_that_kill_their_process_are_quarantined(data: Any, tmp_path: Path) -> None:
    records = rows(20)
    records[3]["question"] = f"{POISON}exit {tmp_path / 'deaths'}"
    buffer = io.BytesIO()
    Image.new("RGB", DEADLY_SIZE).save(buffer, "PNG")
    records[11]["image"] = buffer.getvalue()
    found = {row["id"]: row for row in stage()(data.from_items(records, override_num_blocks=2)).take_all()}
    assert len(found) == 20
    failed = {id: row for id, row in found.items() if row["error"] is not None}
    assert {id: row["error_type"] for id, row in failed.items()} == {
        "row-0003": "quarantined",
        "row-0011": "quarantined",
    }
    assert "crashed its worker 2 times" in failed["row-0003"]["error"]


@pytest.mark.parametrize(
    ("kind", "words", "options"),
    [
        (TooManyFailed, "rows failed and 0 may", {"max_failed": 0}),
        (ModelError, "no weights in it", {"model": "broken"}),
    ],
)
def test_what_stops_a_job_stops_the_pipeline(
    data: Any, kind: type[Exception], words: str, options: dict[str, Any]
) -> None:
    records = [row | {"image": b"no image"} for row in rows(40)]
    with pytest.raises(kind, match=words):
        stage(**options)(data.from_items(records)).take_all()
    assert not data.DataContext.get_current().raise_original_map_exception


def test_what_is_known_to_be_wrong_is_said_at_once(data: Any, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows(2)), tmp_path / "in.parquet")
    dataset = data.read_parquet(str(tmp_path / "in.parquet"))
    with pytest.raises(
        InputError, match=r"the dataset: no column 'questoin' for prompt_column \(did you mean 'question'"
    ):
        stage(prompt_column="questoin")(dataset)
    with pytest.raises(ConfigError, match="the rows have a column 'answer' already"):
        stage()(dataset.rename_columns({"id": "answer"}).materialize())
    with pytest.raises(ConfigError, match=r"takes a ray.data.Dataset, not list"):
        stage()([])
    with pytest.raises(ConfigError, match="prompt: only plain column names"):
        stage(prompt="{a.b}")
    with pytest.raises(ClusterError, match=r"no 1 GPUs|grows to"):
        stage(device="cuda", gpu_wait_seconds=0.1)(dataset)


def test_a_column_that_is_found_to_be_taken_stops_the_pipeline(data: Any) -> None:
    dataset = data.from_items(rows(3)).map(lambda row: row | {"error": "mine"})
    with pytest.raises(ConfigError, match="the rows have a column 'error' already"):
        stage()(dataset).take_all()


def test_with_the_demo_model(data: Any) -> None:
    import star_batch.ray as sb

    answers = sb.Answers(
        "demo",
        prompt_column="question",
        pruning=sb.Pruning(method="star", keep=16),
        decoding=sb.Decoding(max_new_tokens=4),
        device="cpu",
    )
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (220, 30, 30)).save(buffer, "PNG")
    records = [{"image": buffer.getvalue(), "question": "what colour is it?", "n": n} for n in range(3)]
    found = answers(data.from_items([*records, {"image": None, "question": "?", "n": 3}])).take_all()
    by_n = {row["n"]: row for row in found}
    assert by_n[3]["error_type"] == "image_missing"
    assert len({by_n[n]["answer"] for n in range(3)}) == 1
    assert by_n[0]["answer"]
    assert sum(by_n[0]["num_kept"]) < 2 * by_n[0]["num_visual"]
    assert by_n[0]["fingerprint"] == answers.fingerprint.digest
