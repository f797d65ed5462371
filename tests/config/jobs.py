"""The least that makes a job, and what is said about one that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from star_batch.config import parse_config
from star_batch.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "input": {"path": "in.parquet", "prompt": "What is it?"},
    "output": {"path": "out"},
    "model": {"name": "demo"},
}


def job(**sections: Any) -> dict[str, Any]:
    return MINIMAL | sections


def mistake(values: dict[str, Any]) -> str:
    """What is said about the one mistake in `values`."""
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "job.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "job.yaml:"
    assert len(lines) == 1, lines
    return lines[0].strip()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path
