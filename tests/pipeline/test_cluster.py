"""A Ray that a job starts itself or finds at an address, and Ctrl-C."""

import _thread
import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from star_batch.config import Cluster
from star_batch.errors import ClusterError, Interrupted
from star_batch.metrics import Progress
from star_batch.pipeline import cluster
from star_batch.pipeline.cluster import address_of, connected
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job, rows, without_remarks, write

SCRIPT = """
import dataclasses
import sys
import ray
from star_batch.errors import StarBatchError
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job

ray.cloudpickle.register_pickle_by_value(fakes)
config = job(sys.argv[1], sys.argv[2], output={"rows_per_file": 8}, cluster={"windows": 1})
try:
    run(config, backend=dataclasses.replace(fakes.FAKE, engine=fakes.load_slow_engine))
except StarBatchError as error:
    print(error)
    sys.exit(error.exit_code)
"""


NOBODY = """
import sys
from star_batch.errors import ClusterError
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job

try:
    run(job(sys.argv[1], sys.argv[2], cluster={"address": "127.0.0.1:9"}), backend=fakes.FAKE)
except ClusterError as error:
    print(error.exit_code, error)
"""


def start(source: Path, target: Path, script: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(target), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def commits(target: Path) -> set[str]:
    folder = target / "_commits"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_what_is_committed_and_says_how_to_go_on(
    tmp_path: Path, fake_ray: None, signal_sent: signal.Signals
) -> None:
    source, target = write(tmp_path / "in.parquet", rows(200)), tmp_path / "out"
    process = start(source, target, SCRIPT)
    deadline = time.monotonic() + 200
    while len(commits(target)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal_sent)
    printed, complained = process.communicate(timeout=120)
    assert without_remarks(printed) == (
        "interrupted; what is committed stays: run the same command again to go on where it stopped"
    )
    assert without_remarks(complained) == ""
    assert process.returncode == 130
    done = commits(target)
    assert 2 <= len(done) < 25
    summary = run(job(source, target, output={"rows_per_file": 8}, cluster={"windows": 1}), backend=fakes.FAKE)
    assert summary.rows == 200
    assert done < commits(target)


@pytest.mark.ray
def test_a_ray_that_was_there_stays_and_stops_working_on_the_job(tmp_path: Path, fake_ray: None) -> None:
    source, target = write(tmp_path / "in.parquet", rows(400)), tmp_path / "out"

    pressed: list[bool] = []

    def interrupt(progress: Progress) -> None:
        if len(commits(target)) >= 2 and not pressed:
            pressed.append(True)
            _thread.interrupt_main()

    with pytest.raises(Interrupted, match="run the same command without overwrite again"):
        run(
            job(source, target, output={"rows_per_file": 4, "overwrite": True}, cluster={"windows": 1}),
            backend=dataclasses.replace(fakes.FAKE, engine=fakes.load_slow_engine),
            on_progress=interrupt,
        )
    assert ray.is_initialized()
    time.sleep(2.0)
    done = commits(target)
    time.sleep(2.0)
    assert commits(target) == done
    assert 0 < len(done) < 100


ELSEWHERE = """
import sys
import ray
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job

ray.cloudpickle.register_pickle_by_value(fakes)
config = job(sys.argv[1], sys.argv[2], cluster={"address": sys.argv[3]})
print(run(config, backend=fakes.FAKE).rows, ray.is_initialized())
"""


@pytest.mark.ray
def test_a_cluster_at_an_address(tmp_path: Path, fake_ray: None) -> None:
    address = ray.get_runtime_context().gcs_address
    process = start(write(tmp_path / "in.parquet", rows(20)), tmp_path / "out", ELSEWHERE, address)
    printed, complained = process.communicate(timeout=120)
    assert printed.splitlines()[-1:] == ["20 False"], complained
    assert [node["Alive"] for node in ray.nodes()] == [True]


@pytest.mark.ray
def test_an_address_where_nobody_answers(tmp_path: Path) -> None:
    process = start(write(tmp_path / "in.parquet", rows(2)), tmp_path / "out", NOBODY)
    printed, complained = process.communicate(timeout=120)
    assert printed.startswith("6 Ray on 127.0.0.1:9: ")
    assert complained == ""
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("configured", "environment", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
        (None, "http://10.0.0.1:8265", None),  # where `ray job submit` goes, and no driver can
        (None, "local", None),  # Ray's word for one of its own
        ("local", "10.0.0.1:6379", None),
    ],
)
def test_which_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, environment: str | None, address: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert address_of(Cluster(address=configured)) == address


def test_whatever_ray_raises_when_it_starts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**given: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(cluster, "own_token", contextlib.nullcontext)  # this process may have a Ray, with another
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # it is the other tests'
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(ClusterError, match=r"^Ray on this machine: it did not come up within Ray's 30 s"),
        connected(Cluster(), verbose=True),
    ):
        pass


def test_a_stale_address_of_the_environment_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # it is the other tests'
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    start = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"^Ray on 127\.0\.0\.1:9 \(RAY_ADDRESS\): .*refused"),
        connected(Cluster(), verbose=True),
    ):
        pass
    assert time.monotonic() - start < 10.0
