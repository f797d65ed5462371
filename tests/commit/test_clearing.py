"""What `overwrite` takes away: all of the old job, and nothing of anybody else."""

import json
import os
from pathlib import Path

import pytest

from star_batch.commit.clearing import clear
from star_batch.commit.snapshots import next_epoch, open_epoch, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import OutputError
from star_batch.openai.batch import stage
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.pipeline.samples import job
from tests.pipeline.test_crashes import Bench

DRAFT = "0123456789abcdef" * 2
OLD, NEW = "_requests/aaaaaaaaaaaaaaaa", "_requests/bbbbbbbbbbbbbbbb"
REQUESTS = [f"{OLD}/000000.parquet", f"{OLD}/000001.parquet", f"{OLD}/_STAGED"]


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def put(output: Location, *names: str) -> None:
    for name in names:
        output.at(*name.split("/")).write_bytes(b"x")


def test_own_files_of_earlier_epochs_go_and_no_others(output: Location) -> None:
    commit_rows(opened(output), answers("a"))
    [part] = output.at("answers").files()
    later = next_epoch(output, read_snapshot(output), FINGERPRINT)
    open_epoch(later, (), FINGERPRINT)
    before = set(output.files())
    commit_rows(later, answers("b"))
    kept = set(output.files()) - before | {"_epochs/00000002.parquet"}
    put(output, "_SUCCESS", "_run.json", "report.html", f".report.html.{DRAFT}", f"._run.json.{DRAFT}")
    put(output, "_metrics/summary.json", "_metrics/sample-1.parquet", f"answers/.{part}.{DRAFT}")
    foreign = ["notes.txt", "answers/notes.txt", "answers/mine.parquet", "mine/x.parquet", "_lease.json"]
    foreign += ["output.jsonl", "errors.jsonl", f".notes.txt.{DRAFT}", "_requests/mine/x.parquet"]
    put(output, *foreign)
    clear(output, before=later.number)
    assert set(output.files()) == kept | set(foreign)
    assert read_snapshot(output).rows == 1


@pytest.mark.parametrize("is_batch_again", [False, True])
def test_a_batch_goes_with_its_requests_and_its_results(output: Location, is_batch_again: bool) -> None:
    put(output, *REQUESTS, f"{OLD}/.000000.parquet.{DRAFT}", "output.jsonl", "errors.jsonl", f".output.jsonl.{DRAFT}")
    kept = [f"{NEW}/000000.parquet", f"{NEW}/_STAGED"] if is_batch_again else []
    put(output, *kept, "requests.jsonl")
    clear(output, before=2, keep=[NEW] if is_batch_again else [])
    assert output.files() == sorted([*kept, "requests.jsonl"])
    assert os.path.exists(output.at("_requests").path) == is_batch_again
    assert not os.path.exists(output.at(OLD).path)


def test_clearing_nothing_is_fine(output: Location) -> None:
    clear(output, before=1)
    assert not os.path.exists(output.path)


@pytest.mark.faults
def test_a_job_that_overwrites_a_batch_leaves_nothing_of_it(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    body = {"model": "fake", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]}
    request = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request))
    bench = Bench(tmp_path, str(tmp_path / "out"))
    batch = job(
        tmp_path / "requests.jsonl", tmp_path / "out", input={"kind": "openai", "prompt_column": None}, output={}
    )
    stage(batch)
    put(bench.output, "output.jsonl", "errors.jsonl")
    assert {"output.jsonl", "errors.jsonl", "_requests"} <= set(os.listdir(tmp_path / "out"))
    anew = bench.config.model_copy(update={"output": bench.config.output.model_copy(update={"overwrite": True})})
    assert bench.run(config=anew) == 0
    bench.check()
    assert not {"output.jsonl", "errors.jsonl", "_requests"} & set(os.listdir(tmp_path / "out"))


@pytest.mark.faults
def test_a_stranger_among_the_answers_is_named_before_anything_is_cleared(tmp_path: Path) -> None:
    bench = Bench(tmp_path, str(tmp_path / "out"))
    assert bench.run() == 0
    put(bench.output, "answers/mine.parquet")
    before = bench.output.at("answers").files()
    anew = bench.config.model_copy(update={"output": bench.config.output.model_copy(update={"overwrite": True})})
    assert bench.run(config=anew) == OutputError.exit_code
    assert "answers/mine.parquet is not a file of this tool" in Path(f"{bench.log}.errors").read_text()
    assert bench.output.at("answers").files() == before
    assert read_snapshot(bench.output).is_complete
