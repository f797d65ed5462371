"""Connects to Ray, keeps its noise away, and says in one line why a Ray job failed. Knows no job.

A local Ray is started unless an address is given, here or by `RAY_ADDRESS`, and stopped again if it was started here.
"""

import contextlib
import gc
import logging
import math
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import ray
import ray.data
import ray.data.exceptions
import ray.exceptions

from star_batch.config import Cluster
from star_batch.errors import ClusterError, StarBatchError
from star_batch.interruption import held
from star_batch.pipeline.joining import origin, why_not_joined
from star_batch.pipeline.tokens import own_token
from star_batch.storage.redaction import redacted

_CPUS_BESIDE_ACTORS = 3
_PATIENCE_SECONDS = 10.0
_ADVICE = re.compile(r"\n?Failed to [^\n]* attempts \(total backoff .*", re.DOTALL)
_LOGGERS = ("ray", "ray.data")
_SETTINGS: Mapping[str, object] = {
    # A block that fails must never be dropped: a bad row is an error row already.
    "max_errored_blocks": 0,
    # So that our own errors arrive as themselves.
    "raise_original_map_exception": True,
    # A process that dies while it loads a model may find more memory, or a machine that stays, at the next try;
    # any that comes up starts the count anew. The job goes on meanwhile, as it does before all are there.
    "max_consecutive_actor_init_deaths": 10,
    "wait_for_min_actors_s": -1,
}
_QUIET_SETTINGS: Mapping[str, object] = {"enable_progress_bars": False, "print_on_execution_start": False}
# Ray's C++ part warns about every actor of Ray Data on stderr; its own log files keep what is worse.
_QUIET_ENVIRONMENT = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextlib.contextmanager
def connected(cluster: Cluster, *, verbose: bool) -> Iterator[bool]:
    """Ray is there inside the block; whether it was started here, on this machine and for this job alone.

    Raises:
        ClusterError: no Ray answers at the address.
    """
    if ray.is_initialized():
        with _quiet(verbose), _actors_released():
            yield False
        return
    is_own = starts_own(cluster)
    with _quiet(verbose), own_token() if is_own else contextlib.nullcontext():
        try:
            # What is begun in there would be left behind; and Ray puts a handler of its own in SIGTERM's place.
            unheard = _replaced(ray._private.utils, "set_sigterm_handler", lambda _: None)
            with held(), unheard, contextlib.nullcontext() if verbose else _stderr_closed():
                _start(cluster, verbose)
            yield is_own
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _actors_released() -> Iterator[None]:
    """What a job started on a Ray that stays goes with the job, though the caller may keep its error for long.

    Ray Data ends actors by letting go of them, and the frames of an error's traceback hold on: GPUs would stay taken.
    """
    try:
        yield
    except BaseException as error:
        for frame in _frames(error):
            with contextlib.suppress(RuntimeError):  # of one that is still at work
                frame.clear()
        gc.collect()  # a plan and its thread refer to each other
        raise


def _frames(error: BaseException) -> set[FrameType]:
    """Of an error, of all that it was raised from or beside, and their callers': Ray Data cuts tracebacks short."""
    errors: list[BaseException] = []  # by identity: an error may be equal to another, or have no hash
    frames: set[FrameType] = set()
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or any(one is other for other in errors):
            continue
        errors.append(one)
        todo += [one.__cause__, one.__context__, getattr(one, "cause", None)]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            frames.update(caller for caller, _ in traceback.walk_stack(frame))
    return frames


def starts_own(cluster: Cluster) -> bool:
    """Whether a job starts a Ray of its own, on this machine."""
    return not ray.is_initialized() and address_of(cluster) is None


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """A part of Ray that no setting turns off; another version of Ray may not have it."""
    before = getattr(module, name, None)
    if before is None:
        yield
        return
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def address_of(cluster: Cluster) -> str | None:
    """The cluster to join: the configured one, or that of `RAY_ADDRESS`, which is where `ray job submit` put us."""
    there = os.environ.get("RAY_ADDRESS", "").strip()
    # Of http:// the jobs API answers, and it takes no driver.
    address = cluster.address or (None if there.startswith("http") else there)
    return None if address in (None, "", "local") else address


def _start(cluster: Cluster, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    address = address_of(cluster)
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, runtime_env=cluster.environment, log_to_driver=verbose, logging_level=level)
            return
        # Logical CPUs: on a small machine, too, readers and preprocessors must get some beside the actors.
        actors = math.ceil(cluster.actor_range[1] * cluster.cpus_per_actor)
        cpus = max(os.cpu_count() or 1, actors + _CPUS_BESIDE_ACTORS)
        # Else Ray would look for one that is running here.
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
        )
    except Exception as error:  # of any kind: one that comes too late to its own start is a bare Exception of Ray's
        where = origin(address, cluster.address) if address is not None else "this machine"
        raise ClusterError(f"Ray on {where}: {why_not_joined(error)}") from None


def _knock(address: str) -> None:
    """Ray itself would try for minutes to reach an address where nobody answers."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS).close()


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Set Ray Data and Ray's loggers up for a job, and back again."""
    context = ray.data.DataContext.get_current()
    settings = {**_SETTINGS, **({} if verbose else _QUIET_SETTINGS)}
    before = {name: getattr(context, name) for name in settings}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    if not verbose:
        os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET_ENVIRONMENT.items()})
    for name in _LOGGERS if not verbose else ():
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _set(context, settings)
    try:
        yield
    finally:
        _set(context, before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _set(context: "ray.data.DataContext", settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        setattr(context, name, value)


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Starting, Ray's C++ part says on stderr that it was told to be quiet; Python's errors still rise."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def shown_resources() -> dict[str, float]:
    """What the cluster has when the job starts, without the names of its nodes."""
    return {name: amount for name, amount in ray.cluster_resources().items() if not name.startswith("node:")}


@contextlib.contextmanager
def one_clear_line() -> Iterator[None]:
    """Turn what Ray raises into what went wrong.

    Raises:
        StarBatchError: the one raised in a task or an actor, or a `ClusterError` with the cause in one line.
    """
    try:
        yield
    except StarBatchError as error:
        raise _own_cause(error) or error from None
    except ray.exceptions.RayError as error:
        raise _own_cause(error) or ClusterError(_explain(error)) from None


def _own_cause(error: BaseException | None) -> StarBatchError | None:
    """The error that was raised on purpose, below the wrappers that Ray has put around it."""
    while error is not None:
        if isinstance(error, StarBatchError) and not isinstance(error, ray.exceptions.RayTaskError):
            return type(error)(_said(error))
        error = _below(error)
    return None


def _below(error: BaseException) -> BaseException | None:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error.__cause__


def _explain(error: BaseException) -> str:
    """The innermost error that arrived, in one line."""
    below = _below(error)
    if below is not None and not isinstance(below, ray.data.exceptions.SystemException):
        return _explain(below)
    lines = _said(error).splitlines() or [""]
    # A remote traceback ends with the error itself.
    has_traceback = any(line.startswith(("  File", "Traceback")) for line in lines)
    return lines[-1] if has_traceback else f"{type(error).__name__}: {lines[0]}"


def _said(error: BaseException) -> str:
    """An error's words without the advice that Ray Data appends."""
    return redacted(_ADVICE.sub("", str(error)).strip())
