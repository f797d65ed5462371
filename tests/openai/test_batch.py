"""Requests staged once, and the two files that every request ends in one of."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.snapshots import read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.config import JobConfig
from star_batch.errors import InputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.rows import distinct, read_rows
from star_batch.openai import batch as openai_batch
from star_batch.openai.batch import stage, write_results
from star_batch.openai.files import find_files
from star_batch.records import Answer, to_table
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, opened
from tests.conftest import BUCKET
from tests.openai.test_request import DATA, part, request, user


def batch(source: Path | str, target: Path | str, **input: Any) -> JobConfig:
    values = {"path": str(source), "kind": "openai", **input}
    return JobConfig.model_validate({"input": values, "output": {"path": str(target)}, "model": {"name": "fake"}})


def lines(path: Path, requests: list[Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in requests))
    return path


def rows(config: JobConfig) -> list[dict[str, Any]]:
    plan = plan_input(config.input)
    return [row for group in plan.pieces for table in read_rows(plan, group) for row in table.to_pylist()]


REQUESTS = [
    request() | {"custom_id": "a"},
    "",
    request(messages=[user(part(DATA))]) | {"custom_id": "b"},
    "not JSON",
    request(n=2) | {"custom_id": "c"},
]


def test_requests_become_rows_of_the_ordinary_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_batch, "_ROWS_PER_PART", 2)
    config = stage(batch(lines(tmp_path / "in.jsonl", REQUESTS), tmp_path / "out"))
    found = rows(config)
    assert [row[ID_COLUMN] for row in found] == ["a", "b", "000001.parquet#0", "c"]
    assert [row["refused"] is None for row in found] == [True, True, False, False]
    assert config.input.image_roots == ()
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


def test_the_same_file_is_staged_once(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", REQUESTS)
    first = stage(batch(source, tmp_path / "out"))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert stage(batch(source, tmp_path / "out")) == first
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    lines(source, [*REQUESTS, request() | {"custom_id": "d"}])
    assert len(rows(stage(batch(source, tmp_path / "out")))) == 5


def test_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(json.dumps(request()).encode()))
    assert len(rows(stage(batch(tmp_path / "in.jsonl.gz", tmp_path / "out")))) == 1


def test_requests_of_several_files_share_one_set_of_ids(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in" / "a.jsonl", [request() | {"custom_id": "a"}, "not JSON"])
    array = json.dumps([request() | {"custom_id": "b"}, 7], indent=2).encode("utf-16")
    (tmp_path / "in" / "b.json.gz").write_bytes(gzip.compress(array))
    config = stage(batch(tmp_path / "in", tmp_path / "in" / "out"))
    assert [row[ID_COLUMN] for row in rows(config)] == ["a", "000000.parquet#1", "b", "000000.parquet#3"]
    lines(tmp_path / "in" / "c.jsonl", [request() | {"custom_id": "a"}])
    with pytest.raises(InputError, match="1 ids stand in several rows: 'a'"):
        distinct(plan_input(stage(batch(tmp_path / "in", tmp_path / "in" / "out")).input), "refuse")


def test_a_cut_file_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_batch, "_ROWS_PER_PART", 2)
    text = "\n".join(json.dumps(request() | {"custom_id": f"{n}", "noise": os.urandom(500).hex()}) for n in range(500))
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(text.encode())[:-200_000])
    with pytest.raises(InputError, match="is cut"):
        stage(batch(tmp_path / "in.jsonl.gz", tmp_path / "out"))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_job_goes_on_with_the_rows_that_an_earlier_version_has_made(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", REQUESTS)
    config = batch(source, tmp_path / "out")
    folder = Path(str(stage(config).input.path))
    # As it was before, when a byte order mark cost the first request.
    files = find_files(config.input)
    before = folder.rename(folder.with_name(openai_batch._digest(files, "1")))
    assert stage(config).input.path == str(before)
    again = config.model_copy(update={"output": config.output.model_copy(update={"overwrite": True})})
    assert stage(again).input.path == str(folder)


@pytest.mark.parametrize(("text", "said"), [("\n \n", "no requests"), (None, "not found")])
def test_nothing_to_answer(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        stage(batch(tmp_path / "in.jsonl", tmp_path / "out"))


def finished(output: Location) -> list[dict[str, Any]]:
    """An output with an answer and three failures, and its two files' lines."""
    answers = [
        Answer(id="a", text="é red\nthing", finish_reason="length", num_prompt=9, num_kept=(50, 10), num_output=3),
        Answer(id="b", error="gone", error_kind="image_fetch_failed"),
        Answer(id="in.parquet#3", error="not JSON", error_kind="request_refused"),
        Answer(id="c", error="died", error_kind="quarantined"),
    ]
    table = to_table(answers, model="m", fingerprint=FINGERPRINT.digest)
    commit_rows(opened(output), table.append_column("custom_id", pa.array(["a", "b", None, "c"])))
    write_results(output, read_snapshot(output).commits)
    read = [output.at(name).read_bytes().decode().splitlines() for name in ("output.jsonl", "errors.jsonl")]
    assert [len(part) for part in read] == [1, 3]
    return [json.loads(line) for part in read for line in part]


def check_lines(output: Location) -> None:
    good, *bad = finished(output)
    assert (good["custom_id"], good["error"]) == ("a", None)
    assert good["response"]["status_code"] == 200
    body = good["response"]["body"]
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "é red\nthing", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 59, "completion_tokens": 3, "total_tokens": 62}
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    said = [(line["custom_id"], line["response"]["status_code"], line["response"]["body"]["error"]) for line in bad]
    assert [(name, status, error["code"]) for name, status, error in said] == [
        ("b", 400, "image_fetch_failed"),
        (None, 400, "request_refused"),
        ("c", 500, "quarantined"),
    ]
    assert said[0][2] == {"message": "gone", "type": "invalid_request_error", "param": None, "code": said[0][2]["code"]}
    assert len({line["id"] for line in (good, *bad)}) == 4


def test_the_two_files(tmp_path: Path) -> None:
    check_lines(Location.of(str(tmp_path / "out")))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl*")) == ["errors.jsonl", "output.jsonl"]


def test_every_line_is_one_line_of_json_whatever_an_answer_holds(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path))
    hostile = '\0\x1b\x85\u2028\u2029\ufeff"\\ NaN \r\n \U0001f600'
    answers = [
        Answer(id="a", text=hostile, label_probability=float("nan"), num_kept=()),
        Answer(id=hostile, error=hostile, error_kind=hostile),
    ]
    table = to_table(answers, model=hostile, fingerprint=FINGERPRINT.digest)
    commit_rows(opened(output), table.append_column("custom_id", pa.array([hostile, hostile])))
    write_results(output, read_snapshot(output).commits)
    for name in ("output.jsonl", "errors.jsonl"):
        [line] = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        found = json.loads(line, parse_constant=pytest.fail)
        assert found["custom_id"] == hostile


def test_the_two_files_in_a_bucket(s3_endpoint: str) -> None:
    check_lines(Location.of(f"s3://{BUCKET}/out", {"endpoint_url": s3_endpoint}))


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path, s3_endpoint: str) -> None:
    for place in (Location.of(str(tmp_path / "a")), Location.of(f"s3://{BUCKET}/a", {"endpoint_url": s3_endpoint})):
        place.write_bytes(b"before")
        with pytest.raises(TypeError), place.writing() as file:
            file.writelines([b"x" * 10_000_000, None])  # type: ignore[list-item]
        assert place.read_bytes() == b"before"
        with place.writing() as file:
            file.write(b"after")
        assert place.read_bytes() == b"after"


def test_the_staged_parquet_is_plain(tmp_path: Path) -> None:
    config = stage(batch(lines(tmp_path / "in.jsonl", REQUESTS), tmp_path / "out"))
    assert pq.read_table(str(config.input.path))["custom_id"].to_pylist() == ["a", "b", None, "c"]


@pytest.mark.faults
def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """Windows' and a person's files together are answered; a cut one is one line and exit 4, before anything starts."""
    asked = [request(messages=[user(part(DATA))], max_tokens=2, tools=None) | {"custom_id": f"r{n}"} for n in range(4)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(map(json.dumps, asked[:2])), encoding="utf-8-sig")
    (tmp_path / "in" / "b.json").write_text(json.dumps(asked[2:], indent=1), encoding="utf-16")
    done = command(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    answered = (tmp_path / "out" / "output.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in answered) == ["r0", "r1", "r2", "r3"]
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress((tmp_path / "in" / "a.jsonl").read_bytes())[:-20])
    done = command(tmp_path / "cut.jsonl.gz", tmp_path / "cut")
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1)
    assert "is a gzip file that is cut" in done.stderr


def command(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    call = [
        sys.executable,
        "-c",
        "from star_batch.cli import main; main()",
        "run",
        "--kind",
        "openai",
        "--model",
        "demo",
    ]
    call += ["--quiet", "--input", str(source), "--output", str(target)]
    return subprocess.run(call, capture_output=True, text=True, timeout=280, check=False)
