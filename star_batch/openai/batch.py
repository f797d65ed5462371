"""OpenAI's Batch files at both ends of a job: requests in JSONL to Parquet, answers to an output and an error file.

    _requests/<digest>/*.parquet   the requests as rows; the digest is the JSONL files' names, sizes and times
    output.jsonl, errors.jsonl     every request in one of the two, in any order, as the Batch API writes them

In between runs the ordinary job. Knows no Ray, and of a request only its row.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_batch.commit.layout import ERROR_FILE, OUTPUT_FILE, REQUESTS, delete
from star_batch.commit.markers import Commit
from star_batch.commit.parts import read_parts
from star_batch.config import Input, JobConfig
from star_batch.errors import InputError, NotFinite, OutputError, Quarantined
from star_batch.openai.files import find_files, read_text
from star_batch.openai.lines import split_requests
from star_batch.openai.request import COLUMNS, to_row
from star_batch.storage.location import Location, failing_as

logger = logging.getLogger(__name__)

_STAGED = "_STAGED"
_VERSION = "2"  # raised when the same requests make other rows
_EARLIER_VERSIONS = ("1",)
_ROWS_PER_PART = 4096
_BYTES_PER_PART = 64 * 2**20
_ROWS_PER_GROUP = 256
_LINE_ENDS = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "\x85\u2028\u2029"})
_OURS = frozenset({NotFinite.kind, Quarantined.kind})  # failures that a hosted service would call its own


def stage(config: JobConfig) -> JobConfig:
    """The same job on requests that are rows of Parquet files below its output; written once for the same files.

    Raises:
        InputError: the requests cannot be read, or there is none.
        OutputError: the output cannot be written to.
    """
    given, output = config.input, Location.of(config.output.path, config.output.storage_options)
    files = find_files(given, except_for=[output.at(OUTPUT_FILE), output.at(ERROR_FILE)])
    folder = _begun(output, files) if not config.output.overwrite else None
    if folder is None:
        folder = output.at(REQUESTS, _digest(files, _VERSION))
        if not _is_staged(folder):
            _write_rows(
                folder, (to_row(text) for file in files for text in split_requests(read_text(file), file.shown))
            )
    return config.model_copy(update={"input": _staged(given, folder, config.output.storage_options)})


def _begun(output: Location, files: Sequence[Location]) -> Location | None:
    """Where an earlier version has staged these files, if it has: a job goes on with the rows that it began with."""
    folders = [output.at(REQUESTS, _digest(files, version)) for version in _EARLIER_VERSIONS]
    found = next((folder for folder in folders if _is_staged(folder)), None)
    if found is not None:
        logger.info("%s: the requests are as an earlier version has read them; overwrite reads them anew", found.shown)
    return found


def _is_staged(folder: Location) -> bool:
    with failing_as(OutputError, "write the output", folder):
        return folder.at(_STAGED).exists()


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


def _digest(files: Sequence[Location], version: str) -> str:
    keys = [version]
    for file in files:
        with failing_as(InputError, "read the requests", file):
            keys.append(file.patiently(lambda: str(file.fs.ukey(file.path))))  # noqa: B023
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def _write_rows(folder: Location, rows: Iterable[dict[str, Any]]) -> None:
    num_parts = 0
    try:
        for number, part in enumerate(_parts(rows)):
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(part, schema=COLUMNS), buffer, row_group_size=_ROWS_PER_GROUP)
            with failing_as(OutputError, "write the output", folder):
                folder.at(f"{number:06d}.parquet").write_bytes(buffer.getvalue())
            num_parts += 1
        if not num_parts:
            raise InputError("the input has no requests: no line but empty ones")
    except InputError:
        delete(folder.at(f"{number:06d}.parquet") for number in range(num_parts))
        raise
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
                line = _to_line(_result(row, int(commit.at)))
                (answers if row["error"] is None else errors).write(line)


def _to_line(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    # Letters that JSON takes within a text, and that some readers take for the end of a line.
    return text.translate(_LINE_ENDS).encode() + b"\n"


def _result(row: Mapping[str, Any], created: int) -> dict[str, Any]:
    name = hashlib.sha256(f"{row['fingerprint']}\n{row['id']}".encode()).hexdigest()[:24]
    status, body = (200, _completion(row, name, created)) if row["error"] is None else _failure(row)
    response = {"status_code": status, "request_id": f"req_{name}", "body": body}
    return {"id": f"batch_req_{name}", "custom_id": row["custom_id"], "response": response, "error": None}


def _completion(row: Mapping[str, Any], name: str, created: int) -> dict[str, Any]:
    # What enters the language model: the words, and the visual tokens that are kept from the start.
    prompt_tokens = (row["num_prompt"] or 0) + (row["num_kept"] or [0])[0]
    completion_tokens = row["num_output"] or 0
    message = {"role": "assistant", "content": row["answer"], "refusal": None}
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": created,
        "model": row["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": row["finish_reason"]}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _failure(row: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    is_ours = row["error_type"] in _OURS
    kind = "server_error" if is_ours else "invalid_request_error"
    error = {"message": row["error"], "type": kind, "param": None, "code": row["error_type"]}
    return (500 if is_ours else 400), {"error": error}
