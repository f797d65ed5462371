"""The real Prometheus and Pushgateway on ports of this machine's loopback, as long as a test lasts."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

_PATIENCE_SECONDS = 120.0


def binary(name: str) -> str:
    """Where a program of Debian's packages is; without it, the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not there: apt-get install prometheus prometheus-pushgateway")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, is_there: Callable[[], object]) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_there():
        assert time.monotonic() < deadline, f"{what}: not within {_PATIENCE_SECONDS:g} seconds"
        time.sleep(0.2)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def answers(url: str) -> bool:
    try:
        read(url)
    except urllib.error.HTTPError:
        return True  # it is there, and wants a password
    except OSError:
        return False
    return True


@contextlib.contextmanager
def server(command: Sequence[str], ready: str) -> Iterator[None]:
    """The program runs, and answers at `ready`; it does not outlive the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(ready, lambda: process.poll() is not None or answers(ready))
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        yield
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def pushgateway(folder: Path, config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Its address."""
    address = f"127.0.0.1:{free_port()}"
    command = [binary("prometheus-pushgateway"), f"--web.listen-address={address}", "--persistence.file="]
    if config is not None:
        (folder / "web.yml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        command.append(f"--web.config.file={folder / 'web.yml'}")
    with server(command, f"http://{address}/-/healthy"):
        yield address


class Prometheus:
    """What a Prometheus knows, by its HTTP API."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        """What the API answers.

        Raises:
            AssertionError: it refuses.
        """
        url = f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(read(url))["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each result."""
        moment = {} if at is None else {"time": str(at)}
        results = self.get("query", query=expression, **moment)["result"]
        return [(result["metric"], float(result["value"][1])) for result in results]

    def value(self, expression: str, at: float | None = None) -> float | None:
        """The one value, if there is one."""
        results = self.query(expression, at)
        assert len(results) <= 1, results
        return results[0][1] if results else None

    def names(self) -> set[str]:
        return set(self.get("label/__name__/values"))


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, str], rules: Path) -> Iterator[Prometheus]:
    """One that asks `targets` (job to address) every second."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "honor_labels": True, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        binary("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with server(command, f"http://{address}/-/ready"):
        yield Prometheus(address)
