"""`--set SECTION.KEY=VALUE` as it was typed, read as a job's file would be. Knows no section.

A value may be a secret, so no message quotes one, nor the text of a `--set` that cannot be told into key and value.
"""

import re
from collections.abc import Iterable
from typing import Any

from star_batch.errors import ConfigError
from star_batch.job_file import read_value

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_][\w-]*)+")
_EXAMPLE = "--set SECTION.KEY=VALUE, such as --set faults.max_failed=5"


def read_settings(typed: Iterable[str]) -> dict[str, Any]:
    """Dotted keys and their values, in order; of a key that is set twice the last value counts.

    Raises:
        ConfigError: one is no key with a value, or its value is not YAML.
    """
    settings: dict[str, Any] = {}
    for number, text in enumerate(typed, start=1):
        key, equals, value = text.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"--set number {number}: write {_EXAMPLE}")
        settings.pop(key, None)
        settings[key] = _value(key, value)
    return settings


def _value(key: str, text: str) -> Any:
    if not text.strip():
        raise ConfigError(f"--set {key}=: no value; write null for none, or '\"\"' for an empty text")
    return read_value(text, f"--set {key}")


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one key within sections, and make the sections that are not there; none is shared with another afterwards.

    A first section that is none is left to those who check the job.

    Raises:
        ConfigError: what would have to be a section within it is something else.
    """
    *parents, name = key.split(".")
    section = values
    for depth, parent in enumerate(parents, start=1):
        inner = section.get(parent)
        if not isinstance(inner, dict | None):
            if depth == 1:
                return
            raise ConfigError(f"--set {key}: {'.'.join(parents[:depth])} is no section with keys")
        section[parent] = dict(inner or {})
        section = section[parent]
    section[name] = value
