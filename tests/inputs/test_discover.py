"""What an input's paths mean, and that nothing is left out without a word."""

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.parquet import RowGroup
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline.samples import SCHEMA, input_config, rows, write


def names(path: Path | str | list[Path], own: Path | None = None, **more: Any) -> list[str]:
    plan = plan_input(input_config(path, **more), None if own is None else Location.of(str(own)))
    return sorted({group.name for group in plan.pieces if isinstance(group, RowGroup)})


def read(plan: InputPlan) -> list[str]:
    return [id for group in plan.pieces for table in read_rows(plan, group) for id in table[0].to_pylist()]


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            pq.write_table(pa.Table.from_pylist(rows(1), schema=SCHEMA), opened)


def test_links_are_followed_and_every_folder_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = tmp_path / "in"
    put(top / "a.parquet", top / "sub" / "b.parquet", tmp_path / "far" / "c.parquet", tmp_path / "blobs" / "x1")
    (top / "2023").symlink_to(tmp_path / "far")
    (top / "again").symlink_to(tmp_path / "far")
    (top / "sub" / "top").symlink_to(top)
    (top / "0.parquet").symlink_to(top / "sub" / "b.parquet")
    (top / "hub.parquet").symlink_to(tmp_path / "blobs" / "x1")
    (top / "hub2.parquet").symlink_to(tmp_path / "blobs" / "x1")
    (top / "gone.parquet").symlink_to(tmp_path / "nowhere")
    (top / "loop.parquet").symlink_to(top / "loop.parquet")
    with caplog.at_level(logging.INFO, logger="star_batch"):
        assert names(top) == ["2023/c.parquet", "a.parquet", "hub.parquet", "sub/b.parquet"]
    assert "reached a second time 4" in caplog.text
    assert "links to nothing 2" in caplog.text
    assert names(top / "**" / "*.parquet") == names(top)
    assert names(top / "2023") == ["c.parquet"]
    assert names(top / "202*" / "c.parquet") == ["2023/c.parquet"]


def test_what_a_folder_holds_beside_is_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "A.PARQUET", tmp_path / "_temporary" / "b.parquet", tmp_path / ".c.parquet")
    for name in ("a.tar", "b.tar", "c.jsonl", "d.parquet.gzip", "README"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.parquet")
    with caplog.at_level(logging.INFO, logger="star_batch"):
        assert names(tmp_path) == ["A.PARQUET"]
    [said] = caplog.messages
    for kind in (
        ".tar 2",
        ".jsonl 1",
        ".parquet.gzip 1",
        "hidden 2",
        "without a suffix 1",
        "neither files nor folders",
    ):
        assert kind in said
    assert names(tmp_path / "*") == ["A.PARQUET"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.jpg", r"found instead: \.jpg 1; .*--kind images"),
        ("a.jsonl", r"\.jsonl 1; .*--kind openai"),
        ("a.jsonl.gz", r"\.jsonl\.gz 1; .*--kind openai"),
        ("a.parquet.gzip", r"\.parquet\.gzip 1; a file that is named itself is read"),
    ],
)
def test_where_nothing_is_found_it_is_said_what_is_there(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"no Parquet files there.*{hint}"):
        names(tmp_path)


def test_a_file_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet.gzip")
    assert names(tmp_path / "a.parquet.gzip") == ["a.parquet.gzip"]


@pytest.mark.parametrize("folder", ["[2024] june", "a*b", "50% #1 & ?", "new\nline", os.fsdecode(b"caf\xe9")])
def test_a_path_that_is_there_is_meant_as_it_is_written(tmp_path: Path, folder: str) -> None:
    top = tmp_path / folder
    put(top / "a.parquet", top / "b [1].parquet", tmp_path / "2" / "a.parquet")
    for path in (top, top / "*.parquet", [top / "a.parquet", top / "b [1].parquet"], top / "**" / "*.parquet"):
        assert names(path) == ["a.parquet", "b [1].parquet"]
    plan = plan_input(input_config(tmp_path))
    shown = os.fsencode(folder).decode("utf-8", "backslashreplace")
    assert sorted(read(plan)) == sorted([f"{shown}/a.parquet#0", f"{shown}/b [1].parquet#0", "2/a.parquet#0"])


def test_a_uri_is_decoded_and_a_path_is_not(tmp_path: Path) -> None:
    put(tmp_path / "a b" / "a.parquet", tmp_path / "a%20b" / "b.parquet")
    assert names(f"file://{tmp_path}/a%20b") == ["a.parquet"]
    assert names(f"FILE://localhost{tmp_path}/a%20b") == ["a.parquet"]
    assert names(f"{tmp_path}/a%20b") == ["b.parquet"]


def test_folders_named_like_files_and_globs_of_folders(tmp_path: Path) -> None:
    put(tmp_path / "x.parquet" / "part-0.parquet", tmp_path / "day=1" / "a.parquet", tmp_path / "day=2" / "b" / "a.pq")
    assert names(tmp_path / "x.parquet") == ["part-0.parquet"]
    assert names(tmp_path / "*.parquet") == ["x.parquet/part-0.parquet"]
    assert names(tmp_path / "day=*") == ["day=1/a.parquet", "day=2/b/a.pq"]
    assert len(names(tmp_path)) == 3


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "gone.parquet").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.parquet", "gone.parquet"):
        with pytest.raises(InputError):
            names(tmp_path / name)


@pytest.mark.parametrize("mark", ["_run.json", "_commits/x.json", "_epochs/x.parquet"])
def test_a_jobs_answers_below_the_input_are_no_input(tmp_path: Path, mark: str) -> None:
    out = tmp_path / "in" / "sub" / "out"
    put(tmp_path / "in" / "a.parquet", out / "answers" / "b.parquet", out / "mine.parquet")
    put(tmp_path / "in" / "answers" / "c.parquet")
    (out / mark).parent.mkdir(exist_ok=True)
    (out / mark).write_bytes(b"{}")
    found = ["a.parquet", "answers/c.parquet", "sub/out/mine.parquet"]
    assert names(tmp_path / "in") == names(tmp_path / "in" / "**" / "*.parquet") == found
    assert names(out / "answers") == names(out / "answers" / "*.parquet") == ["b.parquet"]
    assert names(out) == ["answers/b.parquet", "mine.parquet"]


def test_the_jobs_own_answers_are_no_input_even_before_they_have_a_mark(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", tmp_path / "out" / "answers" / "b.parquet", tmp_path / "answers" / "c.parquet")
    assert names(tmp_path, own=tmp_path / "out") == ["a.parquet", "answers/c.parquet"]
    assert names(tmp_path, own=tmp_path) == ["a.parquet", "out/answers/b.parquet"]
    assert names(tmp_path / "out" / "answers", own=tmp_path) == ["b.parquet"]


def test_two_paths_that_lead_to_the_same(tmp_path: Path) -> None:
    put(tmp_path / "a" / "a.parquet", tmp_path / "b" / "b.parquet")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert names([tmp_path / "b", tmp_path / "a"]) == ["b/a/a.parquet", "b/b.parquet"]
    assert names([tmp_path, tmp_path / "a"]) == ["a/a.parquet", "b/b.parquet"]
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="no Parquet files"):
        names([tmp_path / "a", tmp_path / "c"])


def test_files_without_rows_take_no_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.parquet")
    pq.write_table(pa.table({}), tmp_path / "b.parquet")
    doubles = {name: pa.array([], pa.float64()) for name in SCHEMA.names}
    pq.write_table(pa.table(doubles), tmp_path / "c.parquet")
    with caplog.at_level(logging.INFO, logger="star_batch"):
        assert names(tmp_path) == ["a.parquet"]
    assert "left out, as files without rows: 2" in caplog.text


def test_a_bucket(s3_endpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"endpoint_url": s3_endpoint}
    data = write(tmp_path / "a.parquet", rows(1)).read_bytes()
    top = Location.of(f"s3://{BUCKET}/in", options)
    files = [
        "a.parquet",
        "[1]/b.PARQUET",
        "x.parquet/part-0.parquet",
        "out/answers/c.parquet",
        "out2/answers/d.parquet",
    ]
    for name in [*files, "notes.tar", "_temporary/e.parquet"]:
        top.at(name).write_bytes(data)
    for name in ("empty.parquet/", "x.parquet/", "out2/_run.json"):
        top.fs.call_s3("put_object", Bucket=BUCKET, Key=f"in/{name}", Body=b"")
    config = input_config(top.url, storage_options=options)
    with caplog.at_level(logging.INFO, logger="star_batch"):
        plan = plan_input(config, top.at("out"))
    assert [id.removesuffix("#0") for id in read(plan)] == ["[1]/b.PARQUET", "a.parquet", "x.parquet/part-0.parquet"]
    assert all(kind in caplog.text for kind in (".tar 1", "hidden 2", "answers of a job 2"))
    for path, found in [("[1]", "b.PARQUET"), ("[1]/*", "b.PARQUET"), ("out2/answers", "d.parquet")]:
        assert names(f"{top.url}/{path}", storage_options=options) == [found]
