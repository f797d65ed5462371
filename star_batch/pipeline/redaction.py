"""Takes secrets out of text before anyone sees it. Knows no file system."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_HIDDEN = "***"
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SIGNED_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:signature|credential|token|secret|key|sig)[^=&\s]*=)[^&\s'\"]+")
_SECRET_NAME = re.compile(r"(?i)secret|token|passw|credential|api_?key|access_?key")
# Words of file system options that say where or how, never who.
_HARMLESS_OPTIONS = frozenset({"endpoint_url", "region_name", "profile", "project", "signature_version", "mode"})
# Shorter ones would blank out innocent text.
_SHORTEST_SECRET = 6


def redacted(text: str, options: Mapping[str, Any] | None = None) -> str:
    """`text` without userinfo, signed queries, secrets of the environment, or values of `options`."""
    for secret in sorted({*_environment_secrets(), *_option_secrets(options or {})}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _SIGNED_QUERY.sub(rf"\g<1>{_HIDDEN}", _USERINFO.sub(f"{_HIDDEN}@", text))


def has_userinfo(url: str) -> bool:
    """Whether a URL carries a user or a password."""
    return _USERINFO.search(url) is not None


def _environment_secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and not value.startswith(("/", "http")):
            yield value


def _option_secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if name not in _HARMLESS_OPTIONS:
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= _SHORTEST_SECRET:
            yield value
    elif isinstance(value, Mapping):
        yield from _option_secrets(value)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for item in value:
            yield from _texts(item)
