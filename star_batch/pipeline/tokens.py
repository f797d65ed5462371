"""A token for a Ray that is started for one job: made for it, known to its processes alone, and gone with it.

Left to itself Ray writes its token into HOME, where it stays: clusters that are started later then ask for it, and
`ray job submit` and `RAY_ADDRESS` do not bring it. Knows no job.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from ray import _raylet

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """A Ray started inside the block asks for a token of its own, unless `RAY_AUTH_MODE` says that none is wanted."""
    if os.environ.get(MODE, "token").lower() != "token":
        yield
        return
    with _environment({MODE: "token", TOKEN: secrets.token_hex(32)}):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _read_anew()
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in (name for name, value in before.items() if value is None):
            os.environ.pop(name, None)
        _read_anew()


def _read_anew() -> None:
    """Ray's C++ part remembers what it has read of the environment."""
    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
