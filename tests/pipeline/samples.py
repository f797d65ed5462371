"""Small inputs for the pipeline's tests."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from star_batch.commit.finalise import Expected, finalise
from star_batch.config import Input, JobConfig
from star_batch.metrics import Summary
from star_batch.pipeline.completion import Completion
from star_batch.storage.location import Location

SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("question", pa.string())])


def png(grey: int) -> bytes:
    """A small image of one colour."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"row-{n:04d}", "image": png(n % 256), "question": f"question {n}"} for n in range(first, first + count)
    ]


def write(
    path: Path, records: Sequence[Mapping[str, Any]], schema: pa.Schema = SCHEMA, row_group_size: int = 50
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records), schema=schema), path, row_group_size=row_group_size)
    return path


def input_config(path: Path | str | Sequence[Path | str], **more: Any) -> Input:
    paths = [str(p) for p in path] if isinstance(path, Sequence) and not isinstance(path, str) else str(path)
    asked = {} if {"prompt", "questions"} & more.keys() else {"prompt_column": "question"}
    return Input.model_validate({"path": paths} | asked | more)


def without_remarks(text: str) -> str:
    """What a process has said, but for the raylet's remarks about a machine that is busy."""
    return "\n".join(line for line in text.splitlines() if "(raylet)" not in line)


def job(source: Path | str, target: Path | str, **sections: Mapping[str, Any]) -> JobConfig:
    """A job whose sections are given as far as they differ from a small default."""
    defaults: dict[str, dict[str, Any]] = {
        "input": {"path": str(source), "prompt_column": "question"},
        "output": {"path": str(target), "rows_per_file": 16},
        "model": {"name": "fake", "device": "cpu"},
        "cluster": {"rows_per_window": 4},
    }
    values = {name: defaults.get(name, {}) | dict(sections.get(name, {})) for name in defaults | dict(sections)}
    if "prompt" in values["input"]:
        del values["input"]["prompt_column"]
    return JobConfig.model_validate(values)


def complete(output: Location, expected: Expected) -> Summary:
    """The end of a job, as the pipeline makes it."""
    return finalise(output, expected, lambda: None, Completion(output=output, fingerprint=expected.fingerprint.digest))
