"""One small task that is sent ahead to a cluster: it finds its place, and the package is there. Knows no row.

Where a cluster lacks the package, Ray says so with a page for each of its processes; one that is asked says it once.
And whoever waits for a machine that is to be started hears of it.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from star_batch import __version__
from star_batch.errors import ClusterError
from star_batch.storage.redaction import redacted
from star_batch.wording import printable

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_SOON_SECONDS = 15.0
_NEEDED = ("star_batch", "torch", "transformers", "pyarrow", "PIL", "star_batch.pipeline.flow")

_asked: set[str] = set()
"""Ray's ids of the connections over which the question was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What an actor takes, and how long to wait until a cluster gives it."""

    cpus: float
    gpus: float = 0.0
    seconds: float = math.inf


def send_ahead(need: Need) -> None:
    """Return when a process with these resources has found the package; once for a connection.

    Raises:
        ClusterError: it lacks the package or another one, or none came in time.
    """
    connection = ray.get_runtime_context().get_job_id()
    if connection in _asked and math.isinf(need.seconds):
        return
    # A task, and no standing request to an autoscaler: the demand goes when this process does.
    task = ray.remote(_question()).options(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=3)
    answer = task.remote(_NEEDED)
    try:
        _await(answer, need)
        missing, version = ray.get(answer)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise ClusterError(f"cluster.runtime_env cannot be set up: {_last_line(str(error))}") from None
    _check(missing, version)
    _asked.add(connection)


def _question() -> Callable[[tuple[str, ...]], tuple[str | None, str]]:
    def missing(names: tuple[str, ...]) -> tuple[str | None, str]:
        """Sent by value, as the module that it stands in may not be there; gives what cannot be imported, and why."""
        import importlib
        import importlib.util

        try:
            for name in names:
                if importlib.util.find_spec(name) is None:
                    return f"No module named {name!r}", ""
            importlib.import_module(names[-1])
        except ImportError as error:
            return str(error), ""
        return None, str(importlib.import_module(names[0]).__version__)

    return missing


def _await(answer: Any, need: Need) -> None:
    start = time.monotonic()
    is_told = need.seconds < math.inf
    while not ray.wait([answer], timeout=_LOOK_SECONDS)[0]:  # in short steps, so that Ctrl-C is heard
        waited = time.monotonic() - start
        if waited >= need.seconds:
            ray.cancel(answer)  # and none that has been answered: on that Ray's C++ part aborts the process
            raise ClusterError(
                f"the cluster gave no {need.gpus:g} GPUs to a first actor within {need.seconds:g} s "
                "(cluster.gpu_wait_seconds): set model.device: cpu, or choose a cluster that has them"
            )
        if not is_told and waited >= _SOON_SECONDS:
            is_told = True
            logger.warning("waiting for the cluster: it has no room yet for an actor of %s", _shown(need))


def _shown(need: Need) -> str:
    return f"{need.cpus:g} CPUs" + (f" and {need.gpus:g} GPUs" if need.gpus else "")


def _check(missing: str | None, version: str) -> None:
    if missing is not None:
        raise ClusterError(
            f"the cluster's processes lack a package ({printable(missing)}): give the cluster an image that has "
            "star-batch, or let Ray install it (cluster.runtime_env, such as jobs/runtime_env.yaml)"
        )
    if version != __version__:
        raise ClusterError(f"the cluster has star-batch {printable(version)}, and this is {__version__}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in redacted(text).splitlines() if line.strip()]
    return printable(lines[-1] if lines else "no reason is given")
