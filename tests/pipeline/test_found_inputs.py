"""Folders and files as people have them, through the real command."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.samples import png
from tests.storage.test_hostile_files import star_batch

pytestmark = pytest.mark.faults


def run(folder: Path, *options: str) -> tuple[str, list[dict[str, object]]]:
    """What was said, and the answers."""
    done = star_batch(folder, "run", "--model", "demo", *options)
    assert done.returncode == 0, done.stderr
    output = folder / options[options.index("--output") + 1]
    answers: list[dict[str, object]] = pq.read_table(output / "answers").to_pylist()
    return done.stderr, answers


def test_names_of_labels_are_compared_and_kept(tmp_path: Path) -> None:
    names = ["black", "white"]
    table = pa.table({"image": [png(0), png(255)], "question": ["what?"] * 2, "kind": pa.array([0, 1], pa.int64())})
    features = {"kind": {"_type": "ClassLabel", "names": names}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "rows.parquet")
    job = tmp_path / "job.yaml"
    job.write_text("input: {keep_columns: [kind]}")
    options = ["--input", "rows.parquet", "--prompt-column", "question", "--set", "input.reference_column=kind"]
    _, answers = run(tmp_path, str(job), *options, "--output", "out")
    assert sorted((str(row["reference"]), str(row["kind"])) for row in answers) == [(name, name) for name in names]


def test_a_folder_with_links_and_a_job_that_writes_below_its_input(tmp_path: Path) -> None:
    top = tmp_path / "in"
    for file in (top / "here" / "a.png", tmp_path / "far" / "b.png"):
        file.parent.mkdir(parents=True)
        file.write_bytes(png(1))
    (top / "2023").symlink_to(tmp_path / "far")
    (top / "here" / "top").symlink_to(top)
    options = ["--kind", "images", "--input", "in", "--prompt", "what is it?", "--output", "in/out"]
    said, answers = run(tmp_path, *options)
    assert sorted((str(row["id"]), row["error"]) for row in answers) == [("2023/b.png", None), ("here/a.png", None)]
    assert "reached a second time 1" in said


def test_the_same_command_twice_with_its_output_below_its_input(tmp_path: Path) -> None:
    rows = pa.table({"image": [png(0), png(1)], "question": ["what?"] * 2})
    doubles = pa.table({name: pa.array([], pa.float64()) for name in rows.column_names})
    for name, table in [("a", rows), ("b", pa.table({})), ("c", doubles)]:
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    options = ["--input", "in", "--prompt-column", "question", "--output", "in/out"]
    said, answers = run(tmp_path, *options)
    assert "files without rows: 2" in said
    assert len(answers) == 2
    again, answers = run(tmp_path, *options)
    assert "answers of a job 1" in again
    assert len(answers) == 2
