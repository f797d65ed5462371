"""What `_run.json` says about how answers came to be. No credential goes in."""

import datetime
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from star_batch import __version__
from star_batch.config import JobConfig
from star_batch.pipeline.fingerprint import Fingerprint
from star_batch.pipeline.redaction import redacted

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "s3fs")


def provenance(config: JobConfig, fingerprint: Fingerprint, num_rows: int) -> dict[str, Any]:
    """A record for `output.begin`; `num_rows` are to be there at the end."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "num_input_rows": num_rows,
        "config": shown_config(config),
        "fingerprint": {"digest": fingerprint.digest, "parts": dict(fingerprint.parts)},
        "versions": {"star_batch": __version__, "python": platform.python_version()} | _versions(),
        "hardware": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def shown_config(config: JobConfig) -> dict[str, Any]:
    """A configuration as it may be shown: without storage options, values of `env_vars` and userinfo in URLs."""
    hidden = {"input": {"storage_options"}, "output": {"storage_options"}}
    shown = config.model_dump(mode="json", exclude=hidden)
    runtime_env = shown["cluster"]["runtime_env"] or {}
    runtime_env |= {"env_vars": dict.fromkeys(runtime_env["env_vars"], "***")} if runtime_env.get("env_vars") else {}
    options = {"in": config.input.storage_options, "out": config.output.storage_options}
    return {section: _without_secrets(values, options) for section, values in shown.items()}


def _without_secrets(value: Any, options: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return redacted(value, options)
    if isinstance(value, dict):
        return {key: _without_secrets(item, options) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, options) for item in value]
    return value


def _versions() -> dict[str, str]:
    # From the packages' metadata: importing torch only to ask would take seconds.
    return {name: metadata.version(name) for name in _PACKAGES}
