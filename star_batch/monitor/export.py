"""Shows a job to Prometheus: its engines through Ray's exporter, the whole at an endpoint, the end at a Pushgateway.

Knows no name: those stand in `star_batch.monitor.prometheus`. Nobody who listens can hold the job up or stop it.
"""

import contextlib
import functools
import http.client
import logging
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import prometheus_client
import ray.util.metrics
from prometheus_client.exposition import basic_auth_handler

from star_batch.config import Metrics
from star_batch.errors import ConfigError
from star_batch.metrics import Histogram, Progress, Snapshot, Summary
from star_batch.monitor.prometheus import ENGINE, Metric, Outcome, end_registry, job_registry
from star_batch.storage.redaction import redacted

logger = logging.getLogger(__name__)

_PUSH_SECONDS = 10.0


class RayMetrics:
    """One engine's metrics as Ray exports them, `ray_` before each name; Ray tells the actors apart by itself."""

    def __init__(self) -> None:
        self._exported = [(metric, _ray_metric(metric)) for metric in ENGINE]
        self._counted: dict[tuple[str, ...], float] = {}
        self._observed: dict[tuple[str, ...], Histogram] = {}

    def export(self, snapshot: Snapshot) -> None:
        """Ray adds up: it is handed what has come since the last time."""
        for metric, exported in self._exported:
            for labels, value in metric.samples(snapshot):
                key = (metric.name, *labels.values())
                if isinstance(value, Histogram):
                    self._observe(exported, labels, key, value)
                elif metric.kind == "counter":
                    self._count(exported, labels, key, value)
                else:
                    exported.set(value, labels)

    def _count(self, exported: Any, labels: dict[str, str], key: tuple[str, ...], value: float) -> None:
        new = value - self._counted.get(key, 0.0)
        if new > 0:
            exported.inc(new, labels)
            self._counted[key] = value

    def _observe(self, exported: Any, labels: dict[str, str], key: tuple[str, ...], value: Histogram) -> None:
        """Ray, too, keeps of a value only its bucket: its sums are those of the buckets' middles."""
        new = value - self._observed.get(key, Histogram.over(value.bounds))
        for middle, count in zip(_middles(value.bounds), new.counts, strict=True):
            for _ in range(count):
                exported.observe(middle, labels)
        self._observed[key] = value


def _middles(bounds: Sequence[float]) -> list[float]:
    """A value in each bucket."""
    return [(low + high) / 2 for low, high in pairwise((0.0, *bounds, 2 * bounds[-1]))]


def _ray_metric(metric: Metric[Snapshot]) -> Any:
    tags = (metric.label,) if metric.label else ()
    if metric.kind == "histogram":
        return ray.util.metrics.Histogram(metric.name, metric.help, boundaries=list(metric.bounds), tag_keys=tags)
    kind = ray.util.metrics.Counter if metric.kind == "counter" else ray.util.metrics.Gauge
    return kind(metric.name, metric.help, tag_keys=tags)


class Board:
    """How far the job is, as it was last told."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def show(self, progress: Progress) -> None:
        self.progress = progress


@contextlib.contextmanager
def endpoint(metrics: Metrics) -> Iterator[Board]:
    """What the board shows is to be had by HTTP inside the block, if the job asks for it.

    Raises:
        ConfigError: the port or the host cannot be had.
    """
    board = Board()
    if not metrics.port:
        yield board
        return
    registry = job_registry(lambda: board.progress)
    try:
        server, thread = prometheus_client.start_http_server(metrics.port, metrics.host, registry)
    except OSError as error:
        raise ConfigError(
            f"metrics.port {metrics.port} on {metrics.host} cannot be had: {error.strerror}; "
            "choose another (--set metrics.port=PORT), or 0 for none"
        ) from None
    logger.info("metrics are at http://%s:%d/metrics", metrics.host, metrics.port)
    try:
        yield board
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def push(metrics: Metrics, summary: Summary | None) -> None:
    """Tell the Pushgateway how the run ended; None is a failure. A push that fails is a warning."""
    if metrics.pushgateway is None:
        return
    url = urlsplit(metrics.pushgateway)
    registry = end_registry(Outcome(is_success=summary is not None, at=time.time()), summary)
    try:
        # Replaces what is there by name: after a failure, the numbers of the last success stay.
        prometheus_client.pushadd_to_gateway(
            _without_userinfo(url), metrics.job, registry, timeout=_PUSH_SECONDS, handler=_with_userinfo(url)
        )
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if type(error) is urllib.error.URLError else error
        where, why = redacted(metrics.pushgateway), redacted(str(cause))
        logger.warning("metrics.pushgateway %s: nothing was pushed: %s", where, why)


def _without_userinfo(url: SplitResult) -> str:
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _with_userinfo(url: SplitResult) -> Callable[..., Callable[[], None]]:
    """A user and a password go into a header; a URL with them would be shown by whatever fails."""

    user, password = (unquote(part) if part is not None else None for part in (url.username, url.password))
    return functools.partial(basic_auth_handler, username=user, password=password)
