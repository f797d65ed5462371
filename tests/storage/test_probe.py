"""Stores that overlook the conditions of a write, as several emulators do: no run begins there."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from star_batch.commit.layout import read_run
from star_batch.errors import OutputError
from star_batch.storage.location import Location
from star_batch.storage.probe import probe
from tests.conftest import BUCKET
from tests.pipeline.test_crashes import Bench
from tests.pipeline.test_s3 import options
from tests.pipeline.unreliable import unreliable_s3


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def test_a_folder_keeps_runs_apart_by_links_and_locks(output: Location) -> None:
    assert probe(output) == {"create": "hard link", "swap": "flock"}
    assert os.listdir(output.path) == []


def test_where_there_are_no_links_there_is_a_lock(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "link")
    assert probe(output) == {"create": "lock file", "swap": "flock"}
    assert os.listdir(output.path) == []


def test_a_folder_with_neither_is_refused(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "link", "flock")
    with pytest.raises(OutputError, match="ignores locks and has no hard links, so two runs could write at once"):
        probe(output)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if "link" in names:
        monkeypatch.setattr(os, "link", refuse)
    if "flock" in names:
        monkeypatch.setattr(fcntl, "flock", refuse)


def test_what_a_killed_probe_has_left_is_removed_when_it_is_old(output: Location) -> None:
    new, old = f"{int(time.time())}-a/x", f"{int(time.time() - 7200)}-b/x"
    for name in (new, old, "strange"):
        output.at("_probe", *name.split("/")).write_bytes(b"first")
    probe(output)
    assert output.at("_probe").files() == sorted([new, "strange"])


def test_an_output_that_cannot_be_written_to_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write the output: Not a directory"):
        probe(Location.of(str(tmp_path / "file" / "out")))


def test_s3_as_it_should_be(s3_endpoint: str) -> None:
    output = Location.of(f"s3://{BUCKET}/out", options(s3_endpoint))
    assert probe(output) == {"create": "If-None-Match", "swap": "If-Match"}
    assert output.files() == []


def deaf_to(app: Any, *headers: str, says: str | None = None) -> Any:
    """The same server without these headers, or one that refuses requests with them."""

    def serve(environ: dict[str, Any], start_response: Any) -> Any:
        names = [f"HTTP_{header.upper().replace('-', '_')}" for header in headers]
        if says is not None and any(name in environ for name in names):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>{says}</Message></Error>".encode()
            start_response("501 Not Implemented", [("Content-Length", str(len(body)))])
            return [body]
        return app({name: value for name, value in environ.items() if name not in names}, start_response)

    return serve


@contextlib.contextmanager
def deaf_s3(*headers: str, says: str | None = None) -> Iterator[str]:
    with unreliable_s3("deaf", seed=1) as (endpoint, app):
        app.busy = app.lost = app.reset = app.slow = 0.0
        app.app = deaf_to(app.app, *headers, says=says)
        yield endpoint


@pytest.mark.faults
@pytest.mark.usefixtures("aws_environment", "quiet_servers")
@pytest.mark.parametrize("says", [None, "A header you provided implies functionality that is not implemented"])
@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_overlooks_a_condition_is_refused_in_one_line(
    tmp_path: Path, header: str, says: str | None
) -> None:
    """Once four of four runs entered the lease together."""
    with deaf_s3(header, says=says) as endpoint:
        bench = Bench(tmp_path, "s3://deaf/out", options(endpoint))
        started = time.monotonic()
        assert bench.run() == OutputError.exit_code == 5
        assert time.monotonic() - started < 60.0
        [line] = Path(f"{bench.log}.errors").read_text().splitlines()
        assert line.startswith(f"s3://deaf/out: the store ignores {header}, so two runs could write at once: use ")
        assert bench.output.files() == []


@pytest.mark.faults
@pytest.mark.usefixtures("aws_environment", "quiet_servers")
def test_a_server_that_loses_requests_and_replies_is_not_taken_for_one_that_overlooks() -> None:
    with unreliable_s3("unreliable-probe", seed=7) as (endpoint, app):
        app.lost = 0.2
        output = Location.of("s3://unreliable-probe/out", options(endpoint))
        threads = [threading.Thread(target=lambda: found.append(probe(output))) for _ in range(8)]
        found: list[dict[str, str]] = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert app.num_lost > 0
        assert found == [{"create": "If-None-Match", "swap": "If-Match"}] * 8
        assert output.files() == []


@pytest.mark.faults
def test_what_was_found_stands_in_the_record_of_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, str(tmp_path / "out"))
    assert bench.run() == 0
    assert (read_run(bench.output) or {})["store"] == {"create": "hard link", "swap": "flock"}
    assert not any(name.startswith("_probe") for name in os.listdir(tmp_path / "out"))
