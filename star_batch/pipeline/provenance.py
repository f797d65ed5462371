"""What `_run.json` says about how answers came to be. No credential goes in."""

import datetime
import os
import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

from star_batch import __version__
from star_batch.commit.fingerprint import Fingerprint, Generation
from star_batch.config import JobConfig
from star_batch.storage.redaction import without_credentials

_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "s3fs")


def provenance(
    config: JobConfig, fingerprint: Fingerprint, num_rows: int, generation: Generation | None = None
) -> dict[str, Any]:
    """A record for `output.begin`; `num_rows` are to be there at the end."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "num_input_rows": num_rows,
        "config": shown_config(config),
        "generation": asdict(generation or Generation()),
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
    return {section: _without_secrets(values) for section, values in shown.items()}


def _without_secrets(value: Any) -> Any:
    """What is read again, such as a path, is verbatim."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _versions() -> dict[str, str]:
    # From the packages' metadata: importing torch only to ask would take seconds.
    return {name: metadata.version(name) for name in _PACKAGES}
