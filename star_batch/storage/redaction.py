"""Takes secrets out of text before anyone sees it. Knows no file system.

By structure: what stands where a URL, a query, JSON or YAML has a secret. Values are looked for only in messages,
and only those that somebody gave as secrets; what is recorded to be read again (`without_credentials`) is else
verbatim, or a path that happens to hold a word of the environment would be another path.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

_HIDDEN = "***"
# A token alone, or a name and a password, which may hold slashes; `host:9000/a@b` is neither, and a bucket has no port.
_PORT = r"\d{1,5}(?:[/?#)\]}'\",;\s]|:\s|$)"
_USERINFO = re.compile(
    rf"(?<=://)(?:(?:(?:(?<=s3://)|(?<=gs://))[^\s/@:'\"]*:|[^\s/@:'\"\[]*:(?!{_PORT}))"
    r"(?:(?!://)\S)*?@(?:[^\s/@,'\"]*@)*"
    r"|(?:[^\s/@'\",]+@)+)"
)
_ENCODED_USERINFO = re.compile(r"(?i)(?<=%3A%2F%2F)(?:(?!%2F|&)\S)+?%40")
_QUERY_NAME = (
    r"(?:[\w.-]{0,40}(?:signature|credential|secret|passw(?:or)?d|token|access_?key(?:_?id)?|api_?key)"
    r"|sig|key|auth|jwt|pass|sas)"
)
_QUERY = re.compile(rf"(?i)((?:[?&;#]|%3F|%26|%23){_QUERY_NAME}(?:=|%3D))(?:(?!%26)[^&\s'\"])+")
_URL = re.compile(r"(?<![\w+.-])[a-zA-Z][\w+.-]{0,30}(?:://|%3A%2F%2F)\S+", re.ASCII)
_SECRET_NAME = (
    r"[\w.-]{0,40}(?:secret|signature|passw(?:or)?d|passwd|pwd|token|credentials?"
    r"|(?:access|api|account|private|secret|shared)[_-]?key)"
    r"(?:[_-]?id)?"
)
# `"secret": "x"` in JSON or Python, `secret: x` in YAML, `secret=x` in a connection string; no path has these.
_NAMED = re.compile(
    rf"(?im)((?:(?:^|[{{,])[ \t]*(?:-[ \t]+)?(?:{_SECRET_NAME}|key)[ \t]*:\s+"
    rf"|\\?[\"'](?:{_SECRET_NAME}|key)\\?[\"']\s*:\s*"
    rf"|(?:^|[\s;]){_SECRET_NAME}[ \t]{{0,9}}=[ \t]{{0,9}}))"
    r"(?:\\\"(?:(?!\\\").)*\\\"|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;}\]]+)"
)
_HEADER = re.compile(r"(?i)(\bauthorization\W{1,9}(?:(?:bearer|basic|token)\s{1,9})?)[^\s'\",;]+")
_ELEMENT = re.compile(rf"(?i)(<{_SECRET_NAME}>)[^<]+")
_OPTION_NAME = re.compile(r"(?i)key|secret|token|passw|pwd|credential|auth|sas|signature|connection_string|cookie|cert")
# Words of file system options that say where or how, never who.
_HARMLESS_OPTIONS = frozenset({"signature_version", "max_keys"})
# What the storages' clients take from the environment, and may quote.
_CLIENTS_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Shorter ones would blank out innocent text.
_SHORTEST_SECRET = 6
_SHORTEST_VARIABLE = 16


def redacted(text: str, options: Mapping[str, Any] | None = None) -> str:
    """A message without credentials, and without the values of `options` that are secrets by name."""
    for secret in sorted({*_variables(), *_option_secrets(options or {})}, key=len, reverse=True):
        for form in _forms(secret):
            text = text.replace(form, _HIDDEN)
    text = without_credentials(text)
    for pattern in (_HEADER, _ELEMENT, _NAMED):
        text = pattern.sub(rf"\g<1>{_HIDDEN}", text)
    return text


def without_credentials(text: str) -> str:
    """`text` with the userinfo and the signed queries of its URLs taken out, and verbatim else."""
    text = _ENCODED_USERINFO.sub(f"{_HIDDEN}%40", _USERINFO.sub(f"{_HIDDEN}@", text))
    return _URL.sub(lambda url: _QUERY.sub(rf"\g<1>{_HIDDEN}", url[0]), text)


def has_userinfo(url: str) -> bool:
    """Whether a URL carries a user or a password."""
    return _USERINFO.search(url) is not None


def is_secret_name(name: str) -> bool:
    """Whether an option or a variable of this name holds a secret."""
    return name not in _HARMLESS_OPTIONS and _OPTION_NAME.search(name) is not None


def _forms(secret: str) -> Iterator[str]:
    """As it is, and as URLs, JSON and Python write it."""
    yield from dict.fromkeys(
        (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    )


def _variables() -> Iterator[str]:
    values = (os.environ.get(name, "") for name in _CLIENTS_VARIABLES)
    yield from (value for value in values if len(value) >= _SHORTEST_VARIABLE)


def _option_secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _option_secrets(value)
        elif is_secret_name(str(name)):
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
