"""A job whose rows name what they should not, as a user runs it: each costs its own row."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.samples import png, write

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
TYPES = pa.schema([("id", pa.string()), ("image", pa.string()), ("question", pa.string())])


def test_rows_that_name_what_is_closed_endless_or_text(tmp_path: Path) -> None:
    for name in ("a/own.png", "c/secret.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    os.mkfifo(tmp_path / "a" / "pipe")
    with (tmp_path / "a" / "sparse.png").open("wb") as file:
        file.truncate(10_000_000_000)
    (tmp_path / "a" / "page.png").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    text = base64.b64encode(png(2)).decode()
    images = {
        "own": "own.png",
        "text": text,
        "uri": f"data:;base64,{text}",
        "secret": f"{tmp_path}/c/secret.png",
        "pipe": "pipe",
        "sparse": "sparse.png",
        "page": "page.png",
    }
    rows = [{"id": id, "image": image, "question": "what?"} for id, image in images.items()]
    files = [write(tmp_path / "a" / "x.parquet", rows, TYPES)]
    files.append(
        write(tmp_path / "b" / "x.parquet", [{"id": "b", "image": images["secret"], "question": "what?"}], TYPES)
    )
    job = tmp_path / "job.yaml"
    job.write_text(
        f"input: {{path: {[str(file) for file in files]}, image_roots: [], id_column: id, prompt_column: question}}\n"
        f"output: {{path: {tmp_path / 'out'}}}\nmodel: {{name: demo, device: cpu}}\ndecoding: {{max_new_tokens: 2}}\n"
    )
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", "run", str(job)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = pa.concat_tables(pq.read_table(part) for part in (tmp_path / "out" / "answers").glob("*.parquet"))
    found = {row["id"]: row for row in answers.to_pylist()}
    assert {id: row["error_type"] for id, row in found.items()} == {
        "own": None,
        "text": None,
        "uri": None,
        "secret": "image_fetch_refused",
        "b": "image_fetch_refused",
        "pipe": "image_fetch_failed",
        "sparse": "image_too_large",
        "page": "image_unreadable",
    }
    assert "an HTML page: it begins '<!DOCTYPE html><title>Sign in" in found["page"]["error"]
