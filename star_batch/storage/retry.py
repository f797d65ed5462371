"""Trying again what will pass: a server that is busy, connections that break. Knows no file."""

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

import tenacity

from star_batch.storage.trouble import explain, is_transient

_LONGEST_WAIT = 20.0
_TOLD_ATTEMPT = 4

logger = logging.getLogger(__name__)


class Place(Protocol):
    """How long its trouble is waited out, and how it may be spoken of."""

    @property
    def retry_seconds(self) -> float: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    @property
    def shown(self) -> str: ...


def retrying(place: Place) -> tenacity.Retrying:
    """Patient for as long as the place says; waits grow, and differ between workers."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT),
        stop=tenacity.stop_after_delay(place.retry_seconds),
        before_sleep=functools.partial(_tell, place),
        # Looked up at each call, as the clock is.
        sleep=lambda seconds: time.sleep(seconds),
        reraise=True,
    )


def _tell(place: Place, state: tenacity.RetryCallState) -> None:
    """A person who waits should know what for; a hiccup is not worth a word."""
    error = state.outcome.exception() if state.outcome is not None else None
    if state.attempt_number == _TOLD_ATTEMPT and error is not None:
        why = explain(error, place.options)
        logger.warning("%s: %s; trying again for up to %.0f seconds", place.shown, why, place.retry_seconds)
