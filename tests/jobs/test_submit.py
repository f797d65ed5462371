"""`ray job submit` to a cluster of a head without CPUs and a worker, each with a raylet of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_batch.demo.dataset import write_parquet
from star_batch.pipeline.lease import Lease
from star_batch.pipeline.storage import Location
from tests.jobs.test_jobs import ROOT, rows

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Without a path to the package: it comes with the submission."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@contextmanager
def node(environment: dict[str, str], log: Path, *options: object) -> Iterator[None]:
    command = [*RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *map(str, options)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address of a cluster's jobs API."""
    gcs, dashboard = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="sb"))  # short: sockets lie in it
    store = f"--object-store-memory={100 * 2**20}"
    head = ("--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=0")
    ports = [f"--dashboard-agent-listen-port={free_port()}" for _ in range(2)]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        client = f"--ray-client-server-port={free_port()}"
        stack.enter_context(node(environment, folder / "head.log", *head, client, store, ports[0]))
        wait_for(f"http://127.0.0.1:{dashboard}/api/version")
        worker = (f"--address=127.0.0.1:{gcs}", "--num-cpus=4", store, ports[1])
        stack.enter_context(node(environment, folder / "worker.log", *worker))
        yield f"http://127.0.0.1:{dashboard}"


def wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.5)


@pytest.fixture
def submit(cluster: str, environment: dict[str, str], tmp_path: Path) -> Any:
    """Submits the label job as the README does."""
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump(
            {
                "input": {
                    "path": str(tmp_path / "rows"),
                    "prompt": "is there a {colour} thing?",
                    "choices": ["yes", "no"],
                },
                "output": str(tmp_path / "labels"),
                "model": "demo",
            }
        )
    )

    def submitted(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        job = ["--", "python", "jobs/label.py", "--config", str(tmp_path / "job.yaml"), *options]
        command = [*RAY, "job", "submit", "--address", cluster, "--submission-id", name, "--working-dir", ".", *job]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT, env=environment
        )

    return submitted


def exit_code_of_the_driver(cluster: str, name: str) -> int | None:
    from ray.job_submission import JobSubmissionClient

    code: int | None = JobSubmissionClient(cluster).get_job_info(name).driver_exit_code
    return code


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_submitted_job(cluster: str, submit: Any, tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows", 16, seed=7, num_bad=1)
    asked = ("--prompt", "is it red?")

    done = submit("labels-of-a-day", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(tmp_path / "labels")
    assert {row["label"] for row in found if row["error"] is None} <= {"yes", "no"}
    assert len(found) == 16
    assert "16" in done.stdout  # the summary

    again = submit("labels-of-a-day", *asked)
    assert again.returncode == 1
    assert "labels-of-a-day already exists" in again.stdout + again.stderr

    assert submit("another-name", *asked).returncode == 0
    assert rows(tmp_path / "labels") == found

    with Lease(output=Location.of(str(tmp_path / "held")), seconds=600.0):
        assert submit("second", *asked, "--output", str(tmp_path / "held")).returncode == 1
    assert exit_code_of_the_driver(cluster, "second") == 7

    assert submit("wrong", *asked, "--keep", "0").returncode == 1
    assert exit_code_of_the_driver(cluster, "wrong") == 2
