"""`ray job submit` to a cluster of a head without CPUs and a worker, each with a raylet of its own, and joining it.

All of it in a shell as a user has it: a HOME of its own, and Ray's authentication as Ray sets it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_batch.commit.lease import Lease
from star_batch.demo.dataset import write_parquet
from star_batch.storage.location import Location
from tests.jobs.test_jobs import ROOT, rows
from tests.pipeline import samples
from tests.pipeline.samples import write

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's shell with a HOME of its own, and without a path to the package: it comes with the submission."""
    home = tmp_path_factory.mktemp("home")
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the entrypoint says `python`
    return kept | {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@contextmanager
def node(environment: dict[str, str], log: Path, *options: object) -> Iterator[None]:
    """A node that is up inside the block; on a busy machine Ray gives one up after 30 s, and another try is fair."""
    command = [*RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *map(str, options)]
    process = next((up for up in (started(command, environment, log) for _ in range(3)) if up is not None), None)
    assert process is not None, log.read_text()
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def started(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes] | None:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    while process.poll() is None:
        if b"Ray runtime started" in log.read_bytes():
            return process
        time.sleep(0.5)
    return None


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster's jobs API, in a shell that has run a job on a Ray of its own before."""
    folder = tmp_path_factory.mktemp("before")
    write_parquet(folder / "rows", 4, seed=7, num_bad=0)
    before = run_job(environment, folder / "rows", folder / "out")
    assert before.returncode == 0, before.stderr
    assert not Path(environment["HOME"], ".ray").exists()
    with cluster_started(environment) as (_, dashboard):
        yield dashboard


@contextmanager
def cluster_started(environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Addresses of a cluster of a head without CPUs and a worker, and of its jobs API."""
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
        yield f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"


def run_job(environment: dict[str, str], source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`star-batch run` in that shell."""
    job = ["run", "--model", "demo", "--prompt", "what?", "--input", str(source), "--output", str(target)]
    return subprocess.run(
        [sys.executable, "-c", "from star_batch.cli import main; main()", *job, *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=target.parent,
        env=environment,
    )


def wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it wants a token
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


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_joining_a_cluster_that_asks_for_a_token(environment: dict[str, str], tmp_path: Path) -> None:
    """A driver is told what to set, and then joins."""
    head = environment | {"HOME": str(tmp_path / "head"), "RAY_AUTH_MODE": "token"}
    token = subprocess.run([*RAY, "get-auth-token", "--generate"], env=head, capture_output=True, text=True, check=True)
    write_parquet(tmp_path / "rows", 4, seed=7, num_bad=0)
    with cluster_started(head) as (address, _):
        joining = environment | {"RAY_ADDRESS": address}
        refused = run_job(joining, tmp_path / "rows", tmp_path / "out")
        assert refused.returncode == 6
        assert refused.stderr.splitlines()[-1] == (
            f"star-batch: Ray on {address} (RAY_ADDRESS): the cluster asks for a token, and this process brings none "
            "or another: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's "
            "(`ray get-auth-token` on its head shows it)"
        )
        told = joining | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token.stdout.strip()}
        joined = run_job(told, tmp_path / "rows", tmp_path / "out")
        assert joined.returncode == 0, joined.stderr
        assert "no GPU in the cluster: engines run on CPU; set model.device: cuda to wait for one" in joined.stderr


WITHOUT = """
import sys

class _Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "star_batch":
            raise ModuleNotFoundError("No module named 'star_batch'", name="star_batch")

sys.meta_path.insert(0, _Nothing())
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_joining_a_cluster_without_the_package(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT)
    write_parquet(tmp_path / "rows", 4, seed=7, num_bad=0)
    with cluster_started(environment | {"PYTHONPATH": str(tmp_path / "site")}) as (address, _):
        refused = run_job(environment, tmp_path / "rows", tmp_path / "out", "--ray-address", address)
        assert refused.returncode == 6
        assert refused.stderr.splitlines() == [
            "starting Ray and loading the model",
            "no GPU in the cluster: engines run on CPU; set model.device: cuda to wait for one",
            "star-batch: the cluster's processes lack a package (No module named 'star_batch'): give the cluster an "
            "image that has star-batch, or let Ray install it (cluster.runtime_env, such as jobs/runtime_env.yaml)",
        ]
        environment_file = {"env_vars": {"PYTHONPATH": str(ROOT), "SECRET": "planted-secret"}}
        (tmp_path / "env.yaml").write_text(yaml.safe_dump(environment_file))
        (tmp_path / "job.yaml").write_text(
            yaml.safe_dump(
                {"model": "demo", "cluster": {"runtime_env": str(tmp_path / "env.yaml"), "address": address}}
            )
        )
        joined = run_job(environment, tmp_path / "rows", tmp_path / "out", "--config", str(tmp_path / "job.yaml"))
        assert joined.returncode == 0, joined.stderr
    about = (tmp_path / "out" / "_run.json").read_text()
    assert "planted-secret" not in about
    assert "PYTHONPATH" in about


ON_GPUS = """
import sys
import ray
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job

ray.cloudpickle.register_pickle_by_value(fakes)
asked = {"address": sys.argv[3], "gpus_per_actor": 0.5, "actors": 2, "gpu_wait_seconds": float(sys.argv[4])}
config = job(sys.argv[1], sys.argv[2], model={"name": "fake"}, cluster=asked)
print(run(config, backend=fakes.FAKE).rows)
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_job_that_asks_for_gpus_waits_until_a_machine_comes(environment: dict[str, str], tmp_path: Path) -> None:
    """The machine is started here as an autoscaler would start it."""
    source = str(write(tmp_path / "in.parquet", samples.rows(20)))
    with cluster_started(environment) as (address, _):
        command = [sys.executable, "-c", ON_GPUS, source, str(tmp_path / "out"), address]
        waiting = subprocess.run(
            [*command, "3"], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=environment
        )
        assert "the cluster gave no 0.5 GPUs to a first actor within 3 s (cluster.gpu_wait_seconds)" in waiting.stderr
        driver = subprocess.Popen(
            [*command, "200"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        assert driver.stderr is not None
        told = next(line for line in driver.stderr if "GPU" in line)
        assert told.startswith(
            "no GPU for an actor in the cluster: waiting up to 200 s for its autoscaler to bring 0.5"
        )
        port = f"--dashboard-agent-listen-port={free_port()}"
        gpu = (f"--address={address}", "--num-cpus=2", "--num-gpus=1", f"--object-store-memory={100 * 2**20}", port)
        with node(environment, tmp_path / "gpu.log", *gpu):
            printed, complained = driver.communicate(timeout=200)
        assert printed.split() == ["20"], complained
