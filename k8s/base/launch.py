"""Creates one night's RayJob and waits for its end: what the CronJob's pod runs. The standard library is enough for it.

The RayJob is a copy of a suspended one, the template, under a name that follows from the Job that runs this pod. A
second pod of the same Job finds it there and waits on; a pod that is stopped leaves it running. Knows no star-batch.

Exit codes:
    0  the RayJob succeeded
    1  it failed, was stopped or was deleted
    2  the API server refuses: a right, the template or a setting is missing
    3  nothing is known within the time given: it still runs, or the API server does not answer
  143  SIGTERM; the RayJob goes on
"""

import argparse
import http.client
import json
import os
import re
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

POD_CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LARGEST_CLOCK_ERROR = timedelta(days=31)

Object = Mapping[str, Any]
T = TypeVar("T")


class Refused(Exception):
    """The API server has answered no, and would again."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class NotYet(Exception):
    """Worth asking again: the API server did not answer, or asks for patience."""


class Failed(Exception):
    """The RayJob has come to an end that is no success."""


class TimeIsUp(Exception):
    """The time given is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobs:
    """The RayJobs of one namespace, at the API server."""

    url: str
    credentials: Path
    request_seconds: float

    def get(self, name: str) -> Object:
        return self._request("GET", f"{self.url}/{name}")

    def find(self, name: str) -> Object | None:
        """None where there is no such job."""
        try:
            return self.get(name)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def create(self, job: Object) -> Object:
        return self._request("POST", self.url, json.dumps(job).encode())

    def _request(self, method: str, url: str, body: bytes | None = None) -> Object:
        # The token is read each time, as it is renewed while a night's job runs; and no proxy is to see it.
        token = (self.credentials / "token").read_text(encoding="ascii").strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        try:
            with self._opener().open(request, timeout=self.request_seconds) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
            raise NotYet(str(error) or type(error).__name__) from None

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.url.startswith("https:"):
            context = ssl.create_default_context(cafile=str(self.credentials / "ca.crt"))
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)


def _refusal(error: urllib.error.HTTPError) -> Refused | NotYet:
    try:
        status = dict(json.load(error))
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        status = {}
    message = status.get("message", error.reason)
    # 401 may be a token that was renewed a moment ago.
    if error.code in (401, 408, 429) or error.code >= 500:
        return NotYet(f"{error.code} {message}")
    return Refused(error.code, status.get("reason", ""), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait in all (`deadline` on the monotonic clock), and how long between two questions."""

    deadline: float
    poll_seconds: float

    def insist(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, asked again as long as that is worth it.

        Raises:
            TimeIsUp: it was so until the end.
        """
        while True:
            try:
                return ask()
            except NotYet as reason:
                say(f"asking again: {reason}")
                self.sleep()

    def sleep(self) -> None:
        if time.monotonic() + self.poll_seconds > self.deadline:
            raise TimeIsUp
        time.sleep(self.poll_seconds)


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", flush=True)


def scheduled_day(job: str, cronjob: str, now: datetime) -> datetime:
    """The day of a Job, in UTC, by its name: `<cronjob>-<minutes since 1970>` is what the CronJob controller gives.

    A Job created by hand may end with the day it is for (`again-2026-11-20`); any other name means today.

    Raises:
        ValueError: what looks like minutes is far from now.
    """
    if match := re.search(r"-(\d{4}-\d\d-\d\d)$", job):
        return datetime.strptime(match[1], "%Y-%m-%d").replace(tzinfo=UTC)
    if (match := re.fullmatch(rf"{re.escape(cronjob)}-(\d+)", job)) is None:
        return now
    day = datetime.fromtimestamp(0, UTC) + timedelta(minutes=int(match[1]))
    if abs(day - now) > LARGEST_CLOCK_ERROR:
        raise ValueError(f"{job}: {match[1]} should be the minutes from 1970 to now, not to {day.date()}")
    return day


def name_for(job: str) -> str:
    """Another name than the Job's, as KubeRay gives a RayJob's name to the Job that submits it, too."""
    return f"{job}-ray"


def render(template: Object, *, name: str, day: datetime, owner: Object) -> Object:
    """The template as a job that runs: its own name, the day filled in, and owned by the Job that asks for it."""
    metadata = {"name": name, "ownerReferences": [owner]}
    if labels := template["metadata"].get("labels"):
        metadata["labels"] = labels
    spec = {key: value for key, value in template["spec"].items() if key != "suspend"}
    for placeholder, value in (("{date}", day), ("{yesterday}", day - timedelta(days=1))):
        spec["entrypoint"] = spec["entrypoint"].replace(placeholder, value.date().isoformat())
    return {"apiVersion": template["apiVersion"], "kind": template["kind"], "metadata": metadata, "spec": spec}


def create(rayjobs: RayJobs, job: Object) -> None:
    """Create the job unless it is there: an earlier pod, or an earlier request whose answer was lost, was faster.

    Raises:
        NotYet: what is there belongs to an earlier Job of this name, and is about to go where that has gone.
    """
    name = job["metadata"]["name"]
    try:
        rayjobs.create(job)
    except Refused as error:
        if error.reason != "AlreadyExists":
            raise
        if (found := rayjobs.find(name)) is None or owners(found) != owners(job):
            raise NotYet(f"{name} of a Job that was deleted is still there") from None
        say(f"{name} exists already, going on with it")
    else:
        say(f"{name} created: {job['spec']['entrypoint']}")


def owners(job: Object) -> set[str]:
    return {reference["uid"] for reference in job["metadata"].get("ownerReferences", [])}


def wait(rayjobs: RayJobs, name: str, patience: Patience) -> None:
    """Return when the RayJob has succeeded.

    Raises:
        Failed: it has ended otherwise, or it is gone.
    """
    told = ""
    while True:
        status = patience.insist(lambda: status_of(rayjobs, name))
        if (news := describe(status)) != told:
            say(f"{name}: {news}")
            told = news
        if is_success(status):
            return
        patience.sleep()


def status_of(rayjobs: RayJobs, name: str) -> Object:
    if (job := rayjobs.find(name)) is None:
        raise Failed(f"{name} was deleted")
    return dict(job.get("status") or {})


def is_success(status: Object) -> bool:
    """False while it runs; `Retrying` and `Suspended` are no end.

    Raises:
        Failed: it has ended, and not well.
    """
    deployment, job = status.get("jobDeploymentStatus"), status.get("jobStatus")
    if deployment in ("Failed", "ValidationFailed") or (deployment == "Complete" and job != "SUCCEEDED"):
        raise Failed(describe(status))
    return deployment == "Complete"


def describe(status: Object) -> str:
    words = [status.get(key) for key in ("jobDeploymentStatus", "jobStatus", "reason", "message")]
    tries = f"{status['failed']} tries failed" if status.get("failed") else None
    return ", ".join(filter(None, [*words, tries])) or "accepted"


def launch(rayjobs: RayJobs, options: argparse.Namespace, patience: Patience) -> None:
    name, day = name_for(options.job), scheduled_day(options.job, options.cronjob, datetime.now(UTC))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": options.job, "uid": options.job_uid}
    template = patience.insist(lambda: rayjobs.get(options.template))
    job = render(template, name=name, day=day, owner=owner)
    patience.insist(lambda: create(rayjobs, job))
    wait(rayjobs, name, patience)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, help="the suspended RayJob to copy")
    parser.add_argument("--cronjob", required=True, help="the CronJob's name")
    parser.add_argument("--job", required=True, help="this Job's name, from which the RayJob's follows")
    parser.add_argument("--job-uid", required=True, help="this Job's uid, which owns the RayJob")
    parser.add_argument("--timeout-seconds", type=float, required=True, help="how long to wait in all")
    parser.add_argument("--poll-seconds", type=float, default=15.0, help="pause between two questions")
    parser.add_argument("--request-seconds", type=float, default=20.0, help="how long one request may take")
    parser.add_argument("--api", default=_api(), help="the API server's address")
    parser.add_argument("--credentials", type=Path, default=POD_CREDENTIALS, help="folder of the service account")
    return parser.parse_args(arguments)


def _api() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _terminated(signum: int, frame: object) -> NoReturn:
    say("stopped; the RayJob goes on")
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    options = _options(arguments)
    patience = Patience(deadline=time.monotonic() + options.timeout_seconds, poll_seconds=options.poll_seconds)
    try:
        namespace = (options.credentials / "namespace").read_text(encoding="utf-8").strip()
        url = f"{options.api}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        rayjobs = RayJobs(url=url, credentials=options.credentials, request_seconds=options.request_seconds)
        launch(rayjobs, options, patience)
    except Failed as error:
        say(f"failed: {error}")
        return 1
    except (Refused, ValueError, FileNotFoundError) as error:
        say(f"cannot go on: {error}")
        return 2
    except TimeIsUp:
        say(f"nothing is known after {options.timeout_seconds:.0f} seconds")
        return 3
    say(f"{name_for(options.job)}: succeeded")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
