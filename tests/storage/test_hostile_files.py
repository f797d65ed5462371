"""Files that carry code, through the real commands: nothing of it runs, and one line says what is refused."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_batch.commit.history import Recorder
from star_batch.commit.layout import begin
from star_batch.commit.unit import commit_rows
from star_batch.report.samples import Sampler
from star_batch.storage.location import Location
from tests.commit.samples import FINGERPRINT, answers, opened
from tests.commit.test_history import totals
from tests.pipeline.samples import png
from tests.report.test_redraw import IDS
from tests.report.test_samples import row
from tests.storage.test_parquet import PICKLED, Runs, extension, nestings
from tests.test_house import ROOT


def star_batch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def hostile_input(folder: Path) -> Path:
    """The images are good; a column that no job asks for is not."""
    evil = nestings(pickle.dumps(Runs(folder / "executed")))["image.bytes"]["image"]
    table = pa.table({"id": ["a"], "image": [png(0)], "question": ["what?"]}).append_column(
        pa.field("notes", evil.type), evil
    )
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_input_that_carries_code_is_refused(command: str, tmp_path: Path) -> None:
    rows = hostile_input(tmp_path)
    options = ["--input", str(rows), "--output", "out", "--model", "demo", "--prompt-column", "question"]
    done = star_batch(tmp_path, command, *options)
    assert done.returncode == 4, done.stderr
    assert f"column 'notes.bytes' has the extension type '{PICKLED}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    place = Location.of(str(tmp_path / "out"))
    with Recorder(output=place, run=1, totals=totals):
        commit_rows(opened(place), answers(*IDS))
    begin(place, {"num_input_rows": len(IDS), "config": {"model": {"name": "the model"}}})
    Sampler.of(place, FINGERPRINT.digest, num_samples=4, num_rows=4).keep([row(IDS[1])])
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("command", "victims", "code"),
    [
        ("report", ["answers"], 5),
        ("report", ["_metrics", "_runs"], 0),
        ("verify --no-input", ["_epochs"], 5),
        ("status", ["_epochs"], 5),
    ],
)
def test_an_output_that_carries_code_runs_nothing(command: str, victims: list[str], code: int, output: Path) -> None:
    for victim in victims:
        poison(output / victim, output.parent / "executed")
    done = star_batch(output.parent, *command.split(), "out")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert code == 0 or f"has the extension type '{PICKLED}'" in done.stderr
    assert not (output.parent / "executed").exists()


def poison(folder: Path, trace: Path) -> None:
    """Every column of bytes or text of every file becomes a pickle under its old name."""
    files = list(folder.rglob("*.parquet"))
    assert files
    for file in files:
        table = pq.read_table(file)
        evil = pa.array([pickle.dumps(Runs(trace))] * table.num_rows, pa.large_binary())
        for number, field in enumerate(table.schema):
            if pa.types.is_large_string(field.type) or pa.types.is_string(field.type):
                marked = pa.field(field.name, pa.large_binary(), metadata=extension(PICKLED))
                table = table.set_column(number, marked, evil)
        pq.write_table(table, file)
