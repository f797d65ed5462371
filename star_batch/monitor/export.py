"""Shows a job to Prometheus: its engines through Ray's exporter, the whole at an endpoint, the end at a Pushgateway.

Knows no name: those stand in `star_batch.monitor.prometheus`. Nobody who listens can hold the job up or stop it.
"""

import contextlib
import functools
import http.client
import logging
import time
import urllib.error
from collections.abc import Callable, Iterator
from urllib.parse import SplitResult, unquote, urlsplit

import prometheus_client
from prometheus_client.exposition import basic_auth_handler

from star_batch.config import Metrics
from star_batch.errors import ConfigError
from star_batch.metrics import Progress, Summary
from star_batch.monitor.prometheus import Outcome, end_registry, job_registry
from star_batch.storage.redaction import redacted

logger = logging.getLogger(__name__)

_PUSH_SECONDS = 10.0


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
