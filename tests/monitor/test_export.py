"""What leaves the driver: an endpoint while the job runs, a push at its end, and never a password."""

import logging
import socket
import sys
from pathlib import Path

import pytest

from star_batch.config import Metrics
from star_batch.errors import ClusterError, ConfigError, InputError, OutputError
from star_batch.metrics import Progress, Summary
from star_batch.monitor.export import endpoint, push
from star_batch.monitor.prometheus import OUTCOME, SUMMARY
from star_batch.pipeline.job import run
from tests.monitoring.servers import answers, free_port, pushgateway, read
from tests.pipeline.fakes import FAKE
from tests.pipeline.samples import job, rows, write

HALF_WAY = Progress(rows_done=4, rows_total=10, failed=0, images_per_second=2.0, seconds_left=3.0)
SUMMARY_OF_ONE = Summary(rows=1, answered=1, failed=0)
PASSWORD = "hunter-22"
ONLY_BOB = {"basic_auth_users": {"bob": "$2b$04$1zq2fCap4/TrX6RuVJD/AuIHRqeYzboLPTPaIUgKjlOhgmwLJknn."}}


def metrics(gateway: str, user: str = "") -> Metrics:
    return Metrics(pushgateway=f"http://{user}{gateway}", job="nightly")


def test_the_endpoint_shows_what_is_on_the_board() -> None:
    port = free_port()
    with endpoint(Metrics(port=port)) as board:
        url = f"http://127.0.0.1:{port}/metrics"
        assert read(url) == ""
        board.show(HALF_WAY)
        assert "star_batch_job_rows_left 6.0\n" in read(url)
    assert not answers(url)


def test_without_a_port_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("prometheus_client.start_http_server")
    with endpoint(Metrics()) as board:
        board.show(HALF_WAY)


def test_a_port_that_is_taken_stops_the_job_before_it_begins(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", rows(2))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics.port {port} on 127.0.0.1 cannot be had.*--set metrics.port"):
            run(job(source, tmp_path / "out", metrics={"port": port}), backend=FAKE)
    assert not (tmp_path / "out").exists()


def test_after_a_failure_the_numbers_of_the_last_success_stay(tmp_path: Path) -> None:
    with pushgateway(tmp_path) as gateway:
        push(metrics(gateway), SUMMARY_OF_ONE)
        success = read(f"http://{gateway}/metrics").splitlines()
        with pytest.raises(InputError):
            run(job(tmp_path / "absent", tmp_path / "out", metrics=metrics(gateway).model_dump()), backend=FAKE)
        failure = read(f"http://{gateway}/metrics").splitlines()
    ours = {line for line in success if line.startswith("star_batch")}
    assert {line.partition("{")[0] for line in ours} <= {m.name for m in SUMMARY} | {m.name for m in OUTCOME}
    assert 'star_batch_output_rows{instance="",job="nightly",outcome="answered"} 1' in ours
    assert ours - set(failure) == {'star_batch_last_run_success{instance="",job="nightly"} 1'}
    assert 'star_batch_last_run_success{instance="",job="nightly"} 0' in failure


def test_a_gateway_with_a_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The right one is taken; the wrong one is a warning that shows neither name nor password."""
    with pushgateway(tmp_path, ONLY_BOB) as gateway:
        push(metrics(gateway, f"bob:{PASSWORD}@"), SUMMARY_OF_ONE)
        assert caplog.messages == []
        push(metrics(gateway, "bob:planted-password@"), SUMMARY_OF_ONE)
    [warning] = caplog.messages
    assert "401" in warning
    assert not {"planted-password", "bob"} & set(warning.replace(":", " ").split())


def test_a_gateway_that_is_not_there_fails_no_job(caplog: pytest.LogCaptureFixture) -> None:
    gateway = f"127.0.0.1:{free_port()}"
    with caplog.at_level(logging.WARNING):
        push(metrics(gateway, "bob:planted-password@"), SUMMARY_OF_ONE)
    [warning] = caplog.messages
    assert warning.startswith(f"metrics.pushgateway http://***@{gateway}: nothing was pushed: ")
    assert "refused" in warning


def test_progress_is_told_before_ray_is_started_and_after_all_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits learns what for; whoever is refused was not told that anything starts."""
    told: list[Progress] = []
    source, out = write(tmp_path / "in.parquet", rows(2)), tmp_path / "out"

    def connected(*_: object, **__: object) -> None:
        assert [(progress.rows_done, progress.rows_total, progress.images_per_second) for progress in told] == [
            (0, 2, 0.0)
        ]
        raise ClusterError("no Ray today")

    monkeypatch.setattr(sys.modules["star_batch.pipeline.job"], "connected", connected)
    write(out / "answers" / "foreign.parquet", rows(1))
    with pytest.raises(OutputError):
        run(job(source, out), backend=FAKE, on_progress=told.append)
    assert told == []
    with pytest.raises(ClusterError, match="no Ray today"):
        run(job(source, tmp_path / "new"), backend=FAKE, on_progress=told.append)
