"""OpenAI's Batch files at both ends of a job: requests in JSONL to Parquet, answers to an output and an error file.

    _requests/<digest>/*.parquet   the requests as rows; the digest is the JSONL files' names, sizes and times
    output.jsonl, errors.jsonl     every request in one of the two, in any order, as the Batch API writes them

In between runs the ordinary job. Knows no Ray, and of a request only its row.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.config import Input, JobConfig
from star_batch.errors import InputError, NotFinite, OutputError, Quarantined
from star_batch.pipeline.openai_request import COLUMNS, to_row
from star_batch.pipeline.output import Commit
from star_batch.pipeline.parts import read_parts
from star_batch.pipeline.storage import Location, failing_as

REQUESTS = "_requests"
OUTPUT_FILE = "output.jsonl"
ERROR_FILE = "errors.jsonl"

_STAGED = "_STAGED"
_VERSION = "1"  # raised when the same requests make other rows
_ROWS_PER_PART = 4096
_BYTES_PER_PART = 64 * 2**20
_ROWS_PER_GROUP = 256
_OURS = frozenset({NotFinite.kind, Quarantined.kind})  # failures that a hosted service would call its own


def stage(config: JobConfig) -> JobConfig:
    """The same job on requests that are rows of Parquet files below its output; written once for the same files.

    Raises:
        InputError: the requests cannot be read, or there is none.
        OutputError: the output cannot be written to.
    """
    given, output = config.input, Location.of(config.output.path, config.output.storage_options)
    files = [Location.of(path, given.storage_options, retry_seconds=given.retry_seconds) for path in given.paths]
    folder = output.at(REQUESTS, _digest(files))
    with failing_as(OutputError, "write the output", output):
        is_staged = folder.at(_STAGED).exists()
    if not is_staged:
        _write_rows(folder, (row for file in files for row in _read_rows(file)))
    return config.model_copy(update={"input": _staged(given, folder, config.output.storage_options)})


def _staged(given: Input, folder: Location, options: Mapping[str, Any]) -> Input:
    return given.model_copy(
        update={
            "kind": "parquet",
            "path": folder.url,
            "storage_options": dict(options),
            "id_column": "custom_id",
            "prompt_column": "prompt",
            "decoding_column": "decoding",
            "refused_column": "refused",
            "keep_columns": ("custom_id",),
            # Requests come from anywhere: they name no file unless some are open to them.
            "image_roots": given.image_roots or (),
        }
    )


def _digest(files: Sequence[Location]) -> str:
    keys = [_VERSION]
    for file in files:
        with failing_as(InputError, "read the requests", file):
            keys.append(file.patiently(lambda: str(file.fs.ukey(file.path))))  # noqa: B023
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def _read_rows(file: Location) -> Iterator[dict[str, Any]]:
    with failing_as(InputError, "read the requests", file), file.fs.open(file.path, "rb", compression="infer") as lines:
        for line in lines:
            if line.strip():
                yield to_row(line)


def _write_rows(folder: Location, rows: Iterable[dict[str, Any]]) -> None:
    num_parts = 0
    for number, part in enumerate(_parts(rows)):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(part, schema=COLUMNS), buffer, row_group_size=_ROWS_PER_GROUP)
        with failing_as(OutputError, "write the output", folder):
            folder.at(f"{number:06d}.parquet").write_bytes(buffer.getvalue())
        num_parts += 1
    if not num_parts:
        raise InputError("the input has no requests: no line but empty ones")
    with failing_as(OutputError, "write the output", folder):
        folder.at(_STAGED).write_bytes(b"")


def _parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len((row.get("image") or {}).get("bytes") or b"") + len(row.get("prompt") or "")
        if len(part) == _ROWS_PER_PART or size >= _BYTES_PER_PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def write_results(output: Location, commits: Sequence[Commit]) -> None:
    """Both files, from the answers that count; nobody sees half of one."""
    columns = ["id", "custom_id", "answer", "error", "error_type", "finish_reason", "model", "fingerprint"]
    columns += ["num_prompt", "num_kept", "num_output"]
    with output.at(OUTPUT_FILE).writing() as answers, output.at(ERROR_FILE).writing() as errors:
        for commit, part in zip(commits, read_parts(output, commits, columns), strict=True):
            for row in part.to_pylist():
                line = json.dumps(_result(row, int(commit.at)), ensure_ascii=False).encode() + b"\n"
                (answers if row["error"] is None else errors).write(line)


def _result(row: Mapping[str, Any], created: int) -> dict[str, Any]:
    name = hashlib.sha256(f"{row['fingerprint']}\n{row['id']}".encode()).hexdigest()[:24]
    status, body = (200, _completion(row, name, created)) if row["error"] is None else _failure(row)
    response = {"status_code": status, "request_id": f"req_{name}", "body": body}
    return {"id": f"batch_req_{name}", "custom_id": row["custom_id"], "response": response, "error": None}


def _completion(row: Mapping[str, Any], name: str, created: int) -> dict[str, Any]:
    # What enters the language model: the words, and the visual tokens that are kept from the start.
    prompt_tokens = row["num_prompt"] + (row["num_kept"] or [0])[0]
    message = {"role": "assistant", "content": row["answer"], "refusal": None}
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": created,
        "model": row["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": row["finish_reason"]}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": row["num_output"],
            "total_tokens": prompt_tokens + row["num_output"],
        },
    }


def _failure(row: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    is_ours = row["error_type"] in _OURS
    kind = "server_error" if is_ours else "invalid_request_error"
    error = {"message": row["error"], "type": kind, "param": None, "code": row["error_type"]}
    return (500 if is_ours else 400), {"error": error}
