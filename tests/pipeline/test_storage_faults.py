"""Jobs whose object store goes away for a while, or takes their permission away."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from star_batch.errors import OutputError
from star_batch.pipeline.job import run
from star_batch.storage.location import Location
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import job, rows, write

pytestmark = [pytest.mark.ray, pytest.mark.faults]

BUCKET = "fickle"
REPLIES = {"busy": ("503 Slow Down", "SlowDown"), "denied": ("403 Forbidden", "AccessDenied")}


@dataclass
class Fickle:
    """An S3 server that has its `mood` as long as `is_moody`, once a third part has arrived."""

    app: Any
    mood: Literal["well", "busy", "denied"] = "well"
    seconds: float = 0.0
    num_parts: int = 0
    num_refused: int = 0
    started: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, mood: Literal["well", "busy", "denied"], seconds: float = 0.0) -> None:
        self.mood, self.seconds, self.started, self.num_parts, self.num_refused = mood, seconds, None, 0, 0

    def is_moody(self, environ: dict[str, Any]) -> bool:
        with self.lock:
            is_write = environ["REQUEST_METHOD"] == "PUT"
            self.num_parts += is_write and "/answers/" in environ["PATH_INFO"]
            if self.num_parts < 3 or self.mood == "well":
                return False
            self.started = self.started or time.monotonic()
            is_refused = time.monotonic() < self.started + self.seconds and (is_write or self.mood == "busy")
            self.num_refused += is_refused
            return is_refused

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if not self.is_moody(environ):
            return self.app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = REPLIES[self.mood]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="module")
def fickle(aws_environment: None) -> Iterator[tuple[Fickle, str]]:
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = Fickle(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield app, endpoint
    server.shutdown()


def parts(target: str, options: dict[str, Any]) -> int:
    return len(Location.of(f"{target}/_commits", options).files())


@pytest.mark.usefixtures("fake_ray")
def test_a_store_that_is_away_for_a_while_costs_time_and_nothing_else(
    tmp_path: Path, fickle: tuple[Fickle, str]
) -> None:
    server, endpoint = fickle
    server.set("busy", seconds=5.0)
    options = {"endpoint_url": endpoint}
    output = {"storage_options": options, "rows_per_file": 8}
    config = job(write(tmp_path / "in.parquet", rows(80)), f"s3://{BUCKET}/busy", output=output)
    summary = run(config, backend=FAKE)
    print(f"{server.num_refused} requests were refused")
    assert (summary.rows, summary.answered) == (80, 80)
    assert server.num_refused > 5


@pytest.mark.usefixtures("fake_ray")
def test_a_permission_that_is_taken_away_ends_the_run_at_once_and_loses_nothing(
    tmp_path: Path, fickle: tuple[Fickle, str]
) -> None:
    server, endpoint = fickle
    target, options = f"s3://{BUCKET}/denied", {"endpoint_url": endpoint}
    output = {"storage_options": options, "rows_per_file": 8}
    config = job(write(tmp_path / "in.parquet", rows(80)), target, output=output, cluster={"windows": 1})
    server.set("denied", seconds=3600.0)
    with pytest.raises(OutputError, match=rf"^{target}: cannot write the output: access denied$"):
        run(config, backend=FAKE)
    assert server.num_refused < 50
    done = parts(target, options)
    assert 0 < done < 10
    server.set("well")
    assert run(config, backend=FAKE).rows == 80
