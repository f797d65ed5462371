"""Jobs on an S3 server over HTTP, and what must never be read anywhere: their credentials."""

import io
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.digests import digest_ids
from star_batch.commit.layout import begin
from star_batch.commit.snapshots import ids_of, read_snapshot
from star_batch.commit.unit import commit_rows
from star_batch.errors import InputError, OutputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.rows import read_rows
from star_batch.pipeline.job import run
from star_batch.report.gallery import MAX_CARDS
from star_batch.report.redraw import redraw
from star_batch.storage.location import Location
from tests.commit.samples import answers, opened
from tests.conftest import BUCKET, S3_KEY, S3_SECRET
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import input_config, job, png, rows
from tests.pipeline.unreliable import unreliable_s3

GIVEN_KEY = "GIVENKEYBBBBBBBBBBBB"
GIVEN_SECRET = "given-secret-fedcba9876543210"
SECRETS = (GIVEN_KEY, GIVEN_SECRET, S3_KEY, S3_SECRET)


def options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "key": GIVEN_KEY, "secret": GIVEN_SECRET}


def put_rows(endpoint: str, records: list[dict[str, Any]], image_type: pa.DataType) -> None:
    schema = pa.schema([("id", pa.string()), ("image", image_type), ("question", pa.string())])
    for number in range(2):
        buffer = io.BytesIO()
        half = records[number * len(records) // 2 : (number + 1) * len(records) // 2]
        pq.write_table(pa.Table.from_pylist(half, schema=schema), buffer)
        place = Location.of(f"s3://{BUCKET}/in/{number}.parquet", options(endpoint))
        place.write_bytes(buffer.getvalue())


def all_bytes(place: Location) -> bytes:
    return b"".join(place.at(name).read_bytes() for name in place.files())


def test_create_is_conditional(s3_endpoint: str) -> None:
    file = Location.of(f"s3://{BUCKET}/marker", options(s3_endpoint))
    file.create(b"first")
    with pytest.raises(FileExistsError):
        file.create(b"second")
    assert file.read_bytes() == b"first"


def test_commits(s3_endpoint: str) -> None:
    output = Location.of(f"s3://{BUCKET}/out", options(s3_endpoint))
    assert output.files() == []
    epoch = opened(output)
    assert read_snapshot(output).commits == ()
    assert commit_rows(epoch, answers("a", "b"))
    assert not commit_rows(epoch, answers("a", "b"))
    assert [commit.ids for commit in read_snapshot(output).commits] == [digest_ids(["a", "b"])]


def test_what_is_there_and_what_is_not(s3_endpoint: str) -> None:
    put_rows(s3_endpoint, rows(10), pa.binary())
    more: dict[str, Any] = {"storage_options": options(s3_endpoint)}
    for path in ("in", "in/", "in/*.parquet"):
        plan = plan_input(input_config(f"s3://{BUCKET}/{path}", **more))
        assert plan.ids().to_pylist()[-1] == "1.parquet#4"
    for path in (f"s3://{BUCKET}/nowhere", f"s3://{BUCKET}/in/7.parquet", "s3://nobucket/in"):
        with pytest.raises(InputError, match=f"{path}: cannot read the input: not found"):
            plan_input(input_config(path, **more))


def test_inputs_in_two_buckets_are_named_with_them(s3_endpoint: str) -> None:
    import boto3

    boto3.resource("s3", endpoint_url=s3_endpoint).Bucket("other").create()
    put_rows(s3_endpoint, rows(2), pa.binary())
    data = Location.of(f"s3://{BUCKET}/in/0.parquet", options(s3_endpoint)).read_bytes()
    Location.of("s3://other/0.parquet", options(s3_endpoint)).write_bytes(data)
    paths = [f"s3://{BUCKET}/in/0.parquet", "s3://other"]
    plan = plan_input(input_config(paths, storage_options=options(s3_endpoint)))
    assert plan.ids().to_pylist() == [f"{BUCKET}/in/0.parquet#0", "other/0.parquet#0"]
    assert sum(table.num_rows for group in plan.pieces for table in read_rows(plan, group)) == 2


def test_a_bucket_that_is_not_there_cannot_be_written_to(s3_endpoint: str) -> None:
    with pytest.raises(OutputError, match="s3://nobucket/out: cannot write the output: not found"):
        begin(Location.of("s3://nobucket/out", options(s3_endpoint)), {})


@pytest.mark.parametrize("user", ["", "me:pass99word@"])
def test_a_server_that_is_not_there(user: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_input(
            input_config("s3://bucket/in", storage_options=options(f"http://{user}127.0.0.1:9"), retry_seconds=0)
        )
    assert "s3://bucket/in: cannot read the input: " in str(caught.value)
    assert "pass99word" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
@pytest.mark.parametrize("source", [pytest.param("configuration", marks=pytest.mark.faults), "environment"])
def test_a_job_from_s3_to_s3(
    s3_endpoint: str,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import ray

    caplog.set_level(logging.INFO)
    given = options(s3_endpoint)
    if source == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        given = {}
    for number in range(30):
        Location.of(f"s3://{BUCKET}/in/{number}.png", options(s3_endpoint)).write_bytes(png(number))
    paths = [f"s3://{BUCKET}/in/{n}.png" if n % 2 else f"{n}.png" for n in range(30)]
    paths[3] = f"s3://{BUCKET}/in/gone.png"
    records = [{**row, "image": path} for row, path in zip(rows(30), paths, strict=True)]
    put_rows(s3_endpoint, records, pa.string())
    config = job(
        f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", input={"storage_options": given}, output={"storage_options": given}
    )
    summary = run(config, backend=FAKE)
    assert (summary.rows, summary.answered) == (30, 29)
    assert summary.failed_by_type == {"image_fetch_failed": 1}
    output = Location.of(f"s3://{BUCKET}/out", options(s3_endpoint))
    table = pa.concat_tables(
        pq.read_table(io.BytesIO(output.at(commit.file).read_bytes())) for commit in read_snapshot(output).commits
    ).sort_by("id")
    assert table["answer"].to_pylist()[:2] == ["question 0 0", "question 1 1"]
    [error] = [error for error in table["error"].to_pylist() if error is not None]
    assert error == f"s3://{BUCKET}/in/gone.png: not found"
    assert json.loads(output.at("_run.json").read_bytes())["config"]["output"]["path"] == f"s3://{BUCKET}/out"

    page = output.at("report.html").read_bytes()
    assert b"29 of 30 rows answered, 1 failed" in page
    assert page.count(b"64 \xe2\x86\x92 16 \xe2\x86\x92 8 tokens") == MAX_CARDS
    assert redraw(output) == page

    with pytest.raises(OutputError, match="another job") as caught:
        run(config.model_copy(update={"decoding": job("a", "b", decoding={"seed": 1}).decoding}), backend=FAKE)
    logs = Path(os.path.realpath(ray._private.worker._global_node.get_logs_dir_path()))
    texts = {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    texts |= {"output": all_bytes(output), "printed": "".join(capfd.readouterr()).encode()}
    texts |= {"error": str(caught.value).encode(), "logged": caplog.text.encode()}
    leaks = [(place, secret) for place, text in texts.items() for secret in SECRETS if secret.encode() in text]
    assert leaks == []


@pytest.mark.faults
@pytest.mark.usefixtures("aws_environment", "quiet_servers")
def test_every_row_is_committed_once_on_a_server_that_loses_requests_and_replies() -> None:
    with unreliable_s3("unreliable", seed=5) as (endpoint, app):
        output = Location.of("s3://unreliable/out", options(endpoint))
        epoch = opened(output)
        with ThreadPoolExecutor(8) as threads:
            tables = [answers(f"{n}-a", f"{n}-b") for n in range(40)]
            won = list(threads.map(lambda table: commit_rows(epoch, table), tables * 2))
        commits = read_snapshot(output).commits
        assert app.num_lost > 0
    assert sum(won) == len(commits) == 40
    assert len(set(ids_of(commits).tolist())) == 80
