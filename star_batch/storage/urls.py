"""URLs of places as users write them, and what each file system needs to be told. Touches no file system."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from star_batch.storage.hub import HUB, with_hub_defaults


def scheme_of(url: str) -> str:
    """`file` for a plain path."""
    return url.split("://", 1)[0].lower() if "://" in url else "file"


def absolute(path: str) -> str:
    """A path as it is written; of a URI what it means, whose `%20` is a space."""
    if scheme_of(path) == "file" and "://" in path:
        rest = path.partition("://")[2]
        path = unquote(
            rest.removeprefix("localhost") if rest.startswith("localhost/") else rest, errors="surrogateescape"
        )
    return os.path.abspath(os.path.expanduser(path))


def with_defaults(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(options)
    if scheme in ("s3", "s3a"):
        given.setdefault("use_listings_cache", False)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        # Written down here because workers on other machines do not share this environment.
        if endpoint and "endpoint_url" not in given.get("client_kwargs", {}):
            given.setdefault("endpoint_url", endpoint)
    if scheme in ("gs", "gcs"):
        given.setdefault("use_listings_cache", False)
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            given.setdefault("endpoint_url", emulator)
    return with_hub_defaults(given) if scheme == HUB else given
