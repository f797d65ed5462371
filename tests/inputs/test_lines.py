"""Lines of JSON and tables of text as an input: what a row is, what it is called, and what is wrong with one."""

import base64
import bz2
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.errors import InputError, ValueInvalid
from star_batch.inputs import text_rows
from star_batch.inputs.base import plan_input
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.inputs.sources import Sources
from star_batch.inputs.text_rows import JsonLines, Table, read_lines
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline import bare
from tests.pipeline.fakes import FakePreprocessor
from tests.pipeline.samples import input_config, job, png


def plan_of(path: Path | str, **more: Any) -> InputPlan:
    return plan_input(input_config(path, kind="lines", **more))


def prepared(path: Path | str, **more: Any) -> dict[str, dict[str, Any]]:
    """The rows after their preprocessing, by id."""
    config = input_config(path, kind="lines", **more)
    plan = plan_input(config)
    stage = Preprocess(input=config, schema=plan.schema, sources=Sources.of(config, plan.root), load=FakePreprocessor)
    rows = [row for piece in plan.pieces for table in read_rows(plan, piece) for row in stage(table).to_pylist()]
    assert [row["id"] for row in rows] == plan.ids().to_pylist()
    return {row["id"]: row for row in rows}


def errors(rows: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    return {id: row["error_type"] for id, row in rows.items()}


def put_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))


def to_jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_rows_of_json_name_images_beside_their_file(tmp_path: Path) -> None:
    put_images(tmp_path / "a", "1.png", "sub/2.png")
    text = base64.b64encode(png(9)).decode()
    rows = [
        {"image": "1.png", "question": "one?", "n": 3},
        {"image": ["1.png", "sub/2.png"], "question": "both?", "n": None},
        {"image": f"data:image/png;base64,{text}", "question": "written?", "n": 1.5},
        {"image": text, "question": "bare?", "n": {"deep": [1, True]}},
        {"image": "gone.png", "question": "none?"},
        {"image": "https://example.org/x.png", "question": "web?"},
        {"image": None, "question": "null?"},
        {"image": {"no": "image"}, "question": "odd?"},
        {"image": "1.png", "question": None},
    ]
    (tmp_path / "a" / "rows.jsonl").write_bytes(to_jsonl(*rows))
    found = prepared(tmp_path, keep_columns=["n"])
    assert list(errors(found).values()) == [
        *(None,) * 4,
        "image_fetch_failed",
        "image_fetch_refused",
        "image_missing",
        "value_invalid",
        "prompt_missing",
    ]
    assert list(found)[:2] == ["a/rows.jsonl#1", "a/rows.jsonl#2"]
    assert [len(row["pictures"]) for row in list(found.values())[:3]] == [1, 2, 1]
    assert [row["keep:n"] for row in list(found.values())[:5]] == ["3", None, "1.5", '{"deep": [1, true]}', None]


def test_a_broken_line_is_a_row_that_names_the_line(tmp_path: Path) -> None:
    put_images(tmp_path, "1.png")
    good = to_jsonl({"image": "1.png", "question": "?"})
    lines = [
        b"{'single': 1}",
        b"[1, 2]",
        b"null",
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b'{"image": "',
    ]
    (tmp_path / "a.jsonl").write_bytes(good + b"\n  \n" + b"\n".join(lines) + b"\r\n" + good.rstrip())
    found = prepared(tmp_path)
    kinds = {"a.jsonl#1": None, "a.jsonl#11": None} | {f"a.jsonl#{n}": "value_invalid" for n in range(4, 11)}
    assert errors(found) == kinds
    assert found["a.jsonl#4"]["error"].startswith("a.jsonl, line 4: is broken JSON: ")
    assert found["a.jsonl#6"]["error"] == "a.jsonl, line 6: is no JSON object but None"


def test_types_are_told_by_the_options_and_not_by_the_values(tmp_path: Path) -> None:
    put_images(tmp_path, "1.png")
    (tmp_path / "a.jsonl").write_bytes(
        to_jsonl(
            {
                "id": 7,
                "image": "1.png",
                "question": "?",
                "most": 5,
                "which": ["a", "b"],
                "how": {"seed": 3},
                "right": True,
            },
            {"id": "x", "image": "1.png", "question": "?", "most": "many", "which": ["a"], "how": None, "right": 2},
            {"id": "y", "image": "1.png", "question": "?", "most": 5, "which": [1], "how": None},
            {"id": "z", "image": "1.png", "question": "\ud800", "most": 2**70, "which": ["a"], "how": {"heat": 1}},
        )
    )
    columns = {"id": "id", "max_new_tokens": "most", "choices": "which", "decoding": "how", "reference": "right"}
    found = prepared(tmp_path, **{f"{name}_column": column for name, column in columns.items()})
    assert errors(found) == {"7": None, "x": "value_invalid", "y": "value_invalid", "z": "value_invalid"}
    assert (found["7"]["max_new_tokens"], found["7"]["choices"], found["7"]["seed"]) == (5, ["a", "b"], 3)
    assert found["7"]["reference"] == "true"
    assert found["x"]["error"] == "column 'most': 'many' is not a whole number"


def test_ids_are_the_same_whatever_else_is_wrong_with_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        to_jsonl({"id": "a", "image": 3, "question": "?"}, {"image": "x"}) + b"{\n" + to_jsonl({"id": "a"})
    )
    plan = plan_of(tmp_path, id_column="id", duplicates="first")
    ids = ["a", "a.jsonl#2", "a.jsonl#3", "a"]
    assert plan.ids().to_pylist() == ids
    assert [id for table in read_rows(plan, plan.pieces[0]) for id in table[0].to_pylist()] == ids


def test_tables_as_pandas_writes_them(tmp_path: Path) -> None:
    put_images(tmp_path, "1.png")
    questions = ['he said "what?"', "two\n\nlines\r\n", "comma, and\ttab", "", "plain"]
    frame = pd.DataFrame({"image": "1.png", "question": questions, "odd name": range(5)})
    for name, delimiter, encoding in [("a.csv", ",", "utf-8"), ("b.csv", ",", "utf-8-sig"), ("c.tsv", "\t", "utf-16")]:
        frame.to_csv(tmp_path / name, sep=delimiter, index=False, encoding=encoding)
    found = prepared(tmp_path, keep_columns=["odd name"])
    for name in ("a.csv", "b.csv", "c.tsv"):
        rows = [row for id, row in found.items() if id.startswith(name)]
        assert [row["prompt"] for row in rows] == [*questions[:3], None, questions[4]]
        assert [row["keep:odd name"] for row in rows] == list("01234")
        assert [row["id"] for row in rows] == [f"{name}#{line}" for line in (2, 3, 7, 8, 9)]
    assert set(errors(found).values()) == {None, "prompt_missing"}


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.lists(st.text(st.sampled_from('ab",\n\t x'), max_size=6), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    cut=st.integers(1, 9),
    delimiter=st.sampled_from(",\t"),
)
def test_rows_are_what_pythons_own_reader_finds(rows: list[list[str]], cut: int, delimiter: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    data = out.getvalue().encode()
    chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
    found = list(Table(delimiter, ("a", "b", "c")).rows(read_lines(chunks)))
    expected = list(csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter))
    assert [list(row.fields) for row in found] == expected
    for row in found:
        # Reading may begin with any row.
        rest = Table(delimiter, ("a", "b", "c")).rows(
            read_lines([data[row.line.start :]], row.line.number, row.line.start)
        )
        assert next(rest) == row


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([b'a,"b', b'c,d"', b'e,"f"', b'g,"h"i', b"j", b"k,l", b'""', b'"m\n,n"', b""]), max_size=9)
)
def test_no_line_of_a_broken_table_is_lost(lines: list[bytes]) -> None:
    """Each line that is not blank is in a row: alone, or in quotes of a row that is good."""
    data = b"\n".join(lines)
    found = list(Table(",", ("x", "y")).rows(read_lines([data])))
    numbers = [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    starts = [row.line.number for row in found]
    assert starts == sorted(set(starts))
    for number in set(numbers) - set(starts):
        first = max(start for start in starts if start < number)
        row = next(row for row in found if row.line.number == first)
        assert row.error is None
        assert any("\n" in text for text in row.fields)


def test_a_quote_without_its_partner_costs_its_own_line(tmp_path: Path) -> None:
    put_images(tmp_path, "1.png")
    (tmp_path / "a.csv").write_text(
        'image,question\n1.png,"open\n1.png,what?\n1.png,a "b"\n1.png\n1.png,x,y\n1.png,"z"\n'
    )
    found = prepared(tmp_path / "a.csv")
    assert [errors(found)[f"a.csv#{n}"] for n in range(2, 8)] == [
        "value_invalid",
        None,
        None,
        "value_invalid",
        "value_invalid",
        None,
    ]
    assert found["a.csv#2"]["error"] == "a.csv, line 2: a quote has no partner, or text behind it"
    assert found["a.csv#5"]["error"] == "a.csv, line 5: has 1 fields, and the header 2"
    (tmp_path / "a.tsv").write_text('image\tquestion\n1.png\t"Wait" she said\n1.png\twhat?\n')
    assert [row["prompt"] for row in prepared(tmp_path / "a.tsv").values()] == ['"Wait" she said', "what?"]


def test_a_line_that_is_too_long_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "MOST_BYTES", 1000)
    put_images(tmp_path, "1.png")
    good = {"image": "1.png", "question": "?"}
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(good, good | {"question": "x" * 5000}, good))
    (tmp_path / "b.csv").write_text(f'image,question\n1.png,"{"x" * 900}\n{"y" * 900}"\n1.png,?\n')
    found = prepared(tmp_path)
    assert errors(found) == {
        "a.jsonl#1": None,
        "a.jsonl#2": "value_invalid",
        "a.jsonl#3": None,
        "b.csv#2": "value_invalid",
        "b.csv#3": "value_invalid",
        "b.csv#4": None,
    }
    assert "a.jsonl, line 2: has 5,0" in found["a.jsonl#2"]["error"]
    held = max(len(line.text) for line in read_lines([b"z" * 600] * 9))
    assert held == 1001


PACK = {
    "gz": gzip.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("packed", PACK)
def test_packed_files(tmp_path: Path, packed: str) -> None:
    put_images(tmp_path, "1.png")
    data = to_jsonl(*({"image": "1.png", "question": f"{n}?"} for n in range(3000)))
    (tmp_path / f"a.jsonl.{packed}").write_bytes(PACK[packed](data))
    (tmp_path / f"b.csv.{packed}").write_bytes(PACK[packed](b"image,question\n1.png,what?\n"))
    plan = plan_of(tmp_path)
    assert plan.num_rows == 3001
    assert plan.ids().to_pylist()[-2:] == [f"a.jsonl.{packed}#3000", f"b.csv.{packed}#2"]
    todo = plan.only(np.isin(np.arange(3001), [2500, 3000]))
    rows = [row for piece in todo.pieces for table in read_rows(todo, piece) for row in table.to_pylist()]
    assert [row["question"] for row in rows] == ["2500?", "what?"]
    (tmp_path / f"a.jsonl.{packed}").write_bytes(PACK[packed](data)[:-30])
    with pytest.raises(InputError, match=rf"a\.jsonl\.{packed}: is a \w+ file that is (cut|broken)"):
        plan_of(tmp_path)


def test_of_a_plain_file_only_what_is_wanted_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": f"{n}.png", "question": "x" * 1000} for n in range(5000)]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n" + to_jsonl(*rows))
    plan = plan_of(tmp_path)
    assert [len(piece) for piece in plan.pieces] == [1024] * 4 + [904]
    todo = plan.only(np.arange(5000) == 4100)
    parsed = list[bytes]()
    values = JsonLines.values

    def noting(self: JsonLines, row: Any) -> Any:
        parsed.append(row.line.text)
        return values(self, row)

    monkeypatch.setattr(JsonLines, "values", noting)
    [piece] = todo.pieces
    [table] = read_rows(todo, piece)
    assert table.select(["star_batch:id", "image"]).to_pylist() == [
        {"star_batch:id": "a.jsonl#4102", "image": ["4100.png"]}
    ]
    assert len(parsed) == 1


def test_a_file_that_changes_behind_the_plan_is_no_lost_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(*[{"image": "x", "question": "y"}] * 5))
    plan = plan_of(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(*[{"image": "x", "question": "y"}] * 4))
    with pytest.raises(InputError, match=r"a\.jsonl: has changed since it was planned: no row at line 5"):
        list(read_rows(plan, plan.pieces[0]))


def test_a_limit_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(to_jsonl(*[{"image": "x", "question": "y"}] * 5))
    (tmp_path / "b.jsonl.gz").write_bytes(b"\x1f\x8bbroken")
    plan = plan_of(tmp_path, limit=3)
    assert plan.ids().to_pylist() == ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.jsonl", b'{"picture": "x", "question": "?"}\n', "no column 'image' for image_column"),
        ("a.csv", b"Image,question\nx,?\n", r"no column 'image' .*did you mean 'Image'"),
        ("a.csv", b"image;question\nx;?\n", r"columns: image;question"),
        ("a.csv", b"image,image,question\nx,x,?\n", "2 columns are called 'image'"),
        ("a.csv", b"image,question\n", "1 files of lines without a single row"),
        ("a.csv", b'image,"question\nx,y\n', "its header, line 1: a quote has no partner"),
        ("a.jsonl", b'[{"image": "x"}]', "line 1 begins a JSON array"),
        ("a.jsonl", b"PAR1" * 9, "holds no text of rows, but a Parquet file"),
        ("a.jsonl", b"", "without a single row"),
        ("a.txt", b"x.png\n", r"no files of lines there"),
    ],
)
def test_what_cannot_be_an_input_is_refused_at_once(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=why):
        plan_of(tmp_path)


def test_a_file_that_is_named_itself_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(to_jsonl({"image": "x", "question": "y"}))
    assert plan_of(tmp_path / "rows.txt").ids().to_pylist() == ["rows.txt#1"]
    (tmp_path / "rows.txt").write_bytes(b"x,y\n")
    with pytest.raises(InputError, match="named neither"):
        plan_of(tmp_path / "rows.txt")


def test_rows_in_a_bucket(s3_endpoint: str) -> None:
    options = {"client_kwargs": {"endpoint_url": s3_endpoint}}
    folder = Location.of(f"s3://{BUCKET}/in", options)
    rows = to_jsonl(*({"image": "sub/1.png", "question": f"{n}?"} for n in range(1500)))
    folder.at("a.jsonl").write_bytes(rows)
    folder.at("b.csv.gz").write_bytes(gzip.compress(b"image,question\nsub/1.png,what?\n"))
    folder.at("sub", "1.png").write_bytes(png(1))
    found = prepared(f"s3://{BUCKET}/in", storage_options=options)
    assert (len(found), set(errors(found).values())) == (1501, {None})
    assert found["a.jsonl#1500"]["prompt"] == "1499?"


def test_a_job_goes_on_where_it_was_left(tmp_path: Path) -> None:
    put_images(tmp_path, "1.png")
    log = str(tmp_path / "log")
    rows = [{"image": "1.png", "question": "what?"}] * 40
    (tmp_path / "in.jsonl").write_bytes(to_jsonl(*rows[:20]))
    config = job(tmp_path / "in.jsonl", tmp_path / "out", input={"kind": "lines", "limit": 15})
    assert bare.finish(config, log) == 0
    (tmp_path / "in.jsonl").write_bytes(to_jsonl(*rows))
    config = job(tmp_path / "in.jsonl", tmp_path / "out", input={"kind": "lines"})
    assert bare.finish(config, log) == 0
    ids = [f"in.jsonl#{n}" for n in range(1, 41)]
    assert (tmp_path / "log").read_text().split() == ids
    assert sorted(pq.read_table(tmp_path / "out" / "answers")["id"].to_pylist()) == sorted(ids)


def test_a_value_that_no_line_has_says_so() -> None:
    [row] = JsonLines().rows(read_lines([b"nothing"]))
    with pytest.raises(ValueInvalid, match="broken JSON"):
        JsonLines().values(row)
