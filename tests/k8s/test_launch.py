"""What the CronJob's pod does, against an API server that is real enough: once per night, whatever happens."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from k8s.base import launch
from tests.k8s.api_server import NO_FAULT, PATH, ApiServer, Reply, serving, status
from tests.k8s.built import launcher_options, one
from tests.k8s.kuberay import rule_errors, schema_errors
from tests.k8s.pods import Manifest

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
MINUTES = int(NOW.timestamp()) // 60
JOB = f"nightly-captions-{MINUTES}"
NIGHT = f"{JOB}-ray"
YESTERDAY = (NOW - timedelta(days=1)).date().isoformat()

RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 2"}
LIFE: list[Manifest] = [{}, {"jobDeploymentStatus": "Initializing"}, RUNNING, RUNNING, SUCCEEDED]


@dataclass(slots=True)
class Pod:
    """A pod of the CronJob, without a container."""

    server: ApiServer
    credentials: Path

    def arguments(self, job: str = JOB, *, seconds: float = 60.0, request_seconds: float = 10.0) -> list[str]:
        given = launcher_options() | {
            "job": job,
            "job-uid": "1234",
            "timeout-seconds": str(seconds),
            "poll-seconds": "0.01",
            "request-seconds": str(request_seconds),
            "api": self.server.url,
            "credentials": str(self.credentials),
        }
        return [f"--{key}={value}" for key, value in given.items()]

    def run(self, job: str = JOB, *, seconds: float = 60.0, request_seconds: float = 10.0) -> int:
        return launch.main(self.arguments(job, seconds=seconds, request_seconds=request_seconds))


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first-token\n", encoding="ascii")
    (tmp_path / "namespace").write_text("star-batch", encoding="ascii")
    return tmp_path


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving(ApiServer(jobs={"star-batch": one("base", "RayJob")}, life=list(LIFE))) as running:
        yield running


@pytest.fixture
def pod(server: ApiServer, credentials: Path) -> Iterator[Pod]:
    before = signal.getsignal(signal.SIGTERM)
    yield Pod(server, credentials)
    signal.signal(signal.SIGTERM, before)


# A night


def test_a_night_is_created_once_and_waited_for(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    assert pod.run() == 0
    assert [job["metadata"]["name"] for job in pod.server.created] == [NIGHT]
    assert pod.server.requests[:2] == [("GET", f"{PATH}/star-batch"), ("POST", PATH)]
    told = capsys.readouterr().out
    assert "Running, RUNNING" in told
    assert told.count("Running, RUNNING") == 1
    assert told.strip().endswith("succeeded")


def test_what_is_created_is_a_valid_job_that_runs(pod: Pod) -> None:
    pod.run()
    [job] = pod.server.created
    job = {key: value for key, value in job.items() if key != "status"}
    assert "suspend" not in job["spec"]
    assert rule_errors(job) == []
    assert f"--input s3://YOUR-BUCKET/photos/{YESTERDAY}/" in job["spec"]["entrypoint"]
    assert f"--output s3://YOUR-BUCKET/captions/{YESTERDAY}/" in job["spec"]["entrypoint"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": "1234"}
    assert job["metadata"] == {"name": NIGHT, "ownerReferences": [owner]}
    assert schema_errors(job) == []


def test_the_job_has_another_name_than_the_one_that_creates_it(pod: Pod) -> None:
    """KubeRay submits from a Job of the RayJob's name. It would take the CronJob's for it, and wait for ever."""
    pod.run()
    [job] = pod.server.created
    assert job["metadata"]["name"] != JOB


def test_all_but_the_day_is_the_template(pod: Pod) -> None:
    template = one("base", "RayJob")["spec"]
    pod.run()
    [job] = pod.server.created
    same = {key: value for key, value in template.items() if key not in ("suspend", "entrypoint")}
    assert {key: value for key, value in job["spec"].items() if key != "entrypoint"} == same


def test_labels_are_taken_along_and_annotations_are_not(pod: Pod) -> None:
    pod.server.jobs["star-batch"]["metadata"] |= {"labels": {"team": "photos"}, "annotations": {"applied": "{}"}}
    pod.run()
    [job] = pod.server.created
    assert job["metadata"]["labels"] == {"team": "photos"}
    assert "annotations" not in job["metadata"]


def test_a_second_pod_goes_on_with_the_first_ones_job(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    assert pod.run() == 0
    pod.server.life = list(LIFE)
    assert pod.run() == 0
    assert len(pod.server.created) == 1
    assert "exists already" in capsys.readouterr().out


def test_what_a_deleted_job_has_left_is_not_taken_for_this_one(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    """`kubectl delete job`, then the same name again: the old RayJob is there until it is collected."""
    old = one("base", "RayJob")
    old["metadata"] = {"name": NIGHT, "ownerReferences": [{"uid": "another"}]}
    pod.server.jobs[NIGHT] = old | {"status": FAILED}

    def collect(name: str) -> None:
        if name == NIGHT and len(pod.server.requests) > 5:
            pod.server.jobs.pop(NIGHT, None)
            pod.server.on_get = lambda name: None

    pod.server.on_get = collect
    assert pod.run() == 0
    assert len(pod.server.created) == 1
    assert "is still there" in capsys.readouterr().out


def test_a_second_night_is_another_job(pod: Pod) -> None:
    pod.run()
    pod.server.life = list(LIFE)
    pod.run(f"nightly-captions-{MINUTES + 24 * 60}")
    assert len({job["metadata"]["name"] for job in pod.server.created}) == 2


@pytest.mark.parametrize(
    "end",
    [
        FAILED,
        {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"},
        {"jobDeploymentStatus": "Failed", "jobStatus": "SUCCEEDED"},
        {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
    ],
    ids=lambda end: " ".join(end.values()),
)
def test_any_other_end_is_a_failure(pod: Pod, end: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    pod.server.life = [RUNNING, end]
    assert pod.run() == 1
    assert "failed: " in capsys.readouterr().out


def test_a_retry_is_no_end(pod: Pod) -> None:
    retrying = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}
    suspended = {"jobDeploymentStatus": "Suspended", "jobStatus": ""}
    pod.server.life = [RUNNING, retrying, suspended, {"jobDeploymentStatus": "", "jobStatus": ""}, RUNNING, SUCCEEDED]
    assert pod.run() == 0


def test_a_job_that_somebody_deletes_has_failed(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    def delete(name: str) -> None:
        if len(pod.server.requests) > 3:
            del pod.server.jobs[name]

    pod.server.on_get = delete
    pod.server.life = [RUNNING]
    assert pod.run() == 1
    assert f"{NIGHT} was deleted" in capsys.readouterr().out


# An API server in trouble


def test_it_may_be_away_for_a_while_at_any_point(pod: Pod) -> None:
    away = [status(503, "ServiceUnavailable"), status(429, "TooManyRequests"), Reply(500, {}), Reply(401, {})]
    pod.server.faults = [*away, "none", *away, "none", *away, "none", *away]
    assert pod.run() == 0
    assert len(pod.server.created) == 1


def test_a_lost_answer_does_not_create_a_second_job(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    pod.server.faults = ["lost", "none", "lost", "none", "none", "lost"]
    assert pod.run() == 0
    assert pod.server.requests.count(("POST", PATH)) == 2
    assert len(pod.server.created) == 1
    assert "exists already" in capsys.readouterr().out


def test_an_answer_that_does_not_come_is_asked_for_again(pod: Pod) -> None:
    slow = iter([3.0])
    pod.server.on_get = lambda name: time.sleep(next(slow, 0.0))
    before = time.monotonic()
    assert pod.run(request_seconds=0.5) == 0
    assert time.monotonic() - before < 3.0
    assert len(pod.server.created) == 1


def test_one_that_never_answers_is_given_up(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    pod.server.faults = [Reply(503, {})] * 1000
    assert pod.run(seconds=0.2) == 3
    assert "nothing is known" in capsys.readouterr().out
    assert pod.server.created == []


def test_one_that_is_not_there_is_given_up(pod: Pod) -> None:
    pod.server.url = "http://127.0.0.1:9"
    assert pod.run(seconds=0.2) == 3


def test_a_job_that_takes_too_long_goes_on_without_its_pod(pod: Pod) -> None:
    pod.server.life = [RUNNING]
    assert pod.run(seconds=0.2) == 3
    assert NIGHT in pod.server.jobs


@pytest.mark.parametrize(
    ("requests_before", "refusal"),
    [
        (0, status(403, "Forbidden", "no right to get")),
        (0, status(404, "NotFound", "no template")),
        (1, status(403, "Forbidden", "no right to create")),
        (1, status(422, "Invalid", "spec.rayClusterSpec is wrong")),
        (1, status(409, "Conflict", "the namespace goes away")),
        (2, status(403, "Forbidden", "no right any more")),
    ],
    ids=lambda value: value.body["message"] if isinstance(value, Reply) else str(value),
)
def test_a_refusal_is_said_and_not_repeated(
    pod: Pod, requests_before: int, refusal: Reply, capsys: pytest.CaptureFixture[str]
) -> None:
    pod.server.faults = [*([NO_FAULT] * requests_before), refusal]
    assert pod.run() == 2
    assert len(pod.server.requests) == requests_before + 1
    assert refusal.body["message"] in capsys.readouterr().out


def test_a_token_that_is_renewed_is_used(pod: Pod) -> None:
    def renew(name: str) -> None:
        (pod.credentials / "token").write_text("second-token", encoding="ascii")

    pod.server.on_get = renew
    assert pod.run() == 0
    assert pod.server.tokens[0] == "Bearer first-token"
    assert set(pod.server.tokens[1:]) == {"Bearer second-token"}


def test_no_proxy_sees_the_token(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert pod.run() == 0


def test_without_an_account_nothing_is_asked(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    (pod.credentials / "namespace").unlink()
    assert pod.run() == 2
    assert pod.server.requests == []
    assert "namespace" in capsys.readouterr().out


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself; key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / f"{signed.serial_number}.pem"
    file.write_bytes(private + signed.public_bytes(Encoding.PEM))
    return file


@pytest.mark.parametrize(("is_known", "code"), [(True, 0), (False, 3)])
def test_the_token_goes_to_nobody_but_the_api_server(
    credentials: Path, tmp_path: Path, is_known: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = certificate(tmp_path), certificate(tmp_path)
    (credentials / "ca.crt").write_bytes((own if is_known else other).read_bytes())
    api = ApiServer(jobs={"star-batch": one("base", "RayJob")}, life=list(LIFE))
    with serving(api, certificate=own) as server:
        assert Pod(server, credentials).run(seconds=60.0 if is_known else 0.1) == code
    assert bool(api.tokens) == is_known
    assert ("certificate verify failed" in capsys.readouterr().out) != is_known


# SIGTERM


def test_a_pod_that_is_stopped_leaves_the_job_running(pod: Pod) -> None:
    pod.server.life = [RUNNING]
    # The script itself, as in the pod: alone in its folder, with no package around it.
    script = pod.credentials / "launch.py"
    script.write_bytes(Path(launch.__file__).read_bytes())
    command = [sys.executable, "-I", "-u", str(script), *pod.arguments()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=pod.credentials, env={**os.environ})
    assert process.stdout is not None
    for line in process.stdout:
        if "RUNNING" in line:
            process.terminate()
            break
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the RayJob goes on" in rest
    pod.server.life = [SUCCEEDED]
    assert pod.run() == 0
    assert len(pod.server.created) == 1


# Names and days


def day_of(job: str) -> str:
    return launch.scheduled_day(job, "nightly-captions", datetime(2026, 11, 21, 1, 31, tzinfo=UTC)).date().isoformat()


def test_the_day_is_that_of_the_scheduled_time() -> None:
    midnight = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()) // 60
    assert day_of(f"nightly-captions-{midnight}") == "2026-11-21"
    assert day_of(f"nightly-captions-{midnight - 1}") == "2026-11-20"


def test_a_job_started_by_hand_may_name_its_day() -> None:
    assert day_of("again-2026-10-31") == "2026-10-31"
    assert day_of("first-captions") == "2026-11-21"
    assert day_of("first-29389080") == "2026-11-21"


@pytest.mark.parametrize("name", ["nightly-captions-20261120", "nightly-captions-1", "again-2026-13-01"])
def test_a_day_that_cannot_be_meant_is_refused(pod: Pod, name: str) -> None:
    assert pod.run(name) == 2
    assert pod.server.requests == []


def test_both_placeholders_are_filled_in() -> None:
    template = one("base", "RayJob")
    template["spec"]["entrypoint"] = "{date} {yesterday}"
    job = launch.render(template, name="n", day=datetime(2026, 3, 1, 1, 30, tzinfo=UTC), owner={})
    assert job["spec"]["entrypoint"] == "2026-03-01 2026-02-28"


def test_the_address_comes_from_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT", raising=False)
    assert launch._api() == "https://kubernetes.default.svc:443"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert launch._api() == "https://[fd00::1]:6443"


def test_the_standard_library_is_enough() -> None:
    lines = Path(launch.__file__).read_text(encoding="utf-8").splitlines()
    modules = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert modules <= set(sys.stdlib_module_names)
