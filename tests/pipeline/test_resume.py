"""Going on after a stop: what was answered is there. `measure_resume` does it with ten million rows, by hand."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star_batch.commit.parts import read_parts
from star_batch.commit.snapshots import read_snapshot
from star_batch.config import JobConfig
from star_batch.pipeline.job import run
from star_batch.storage.location import Location
from tests.pipeline import fakes, soak
from tests.pipeline.measure_resume import measure
from tests.pipeline.samples import job, rows, write

pytestmark = pytest.mark.faults

SLOW = """
import dataclasses
import sys
from pathlib import Path
from star_batch.pipeline.job import run
from tests.pipeline import fakes, soak
from tests.pipeline.test_resume import slow_job

run(slow_job(Path(sys.argv[1])), backend=dataclasses.replace(fakes.FAKE, engine=soak.load_noting_engine))
"""


def test_what_is_done_is_found_in_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once every id was a Python string in a set: ten million of them would not have fit."""
    peak = measure(tmp_path, 200_000, 0.9)
    found = capsys.readouterr().out
    assert found.count("200,000 rows, 180,000 done, 20,000 left") == 2
    assert peak < 0.6


def slow_job(folder: Path) -> JobConfig:
    """A file that takes all rows, and would be full in a quarter of an hour."""
    return job(
        folder / "in.parquet",
        folder / "out",
        input={"id_column": "id"},
        output={"rows_per_file": 10_000, "seconds_per_file": 1.0},
        cluster={"windows": 1},
    )


@pytest.mark.ray
def test_a_slow_model_loses_only_what_was_in_flight(tmp_path: Path, fake_ray: None) -> None:
    """Files were bounded by rows alone: a model with a row per second lost ten minutes of work.

    The engine dies once on the way, and only its window is repeated.
    """
    records = rows(120)
    records[20]["question"] = f"{fakes.DIE}{tmp_path / 'tombstone'}"
    write(tmp_path / "in.parquet", records)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {soak.LOG: str(tmp_path / "log"), "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    while len(soak.answered(tmp_path)) < 40 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    output = Location.of(str(tmp_path / "out"))
    committed = [
        id for part in read_parts(output, read_snapshot(output).commits, ["id"]) for id in part["id"].to_pylist()
    ]
    noted = soak.answered(tmp_path)
    assert len(committed) == len(set(committed))
    assert (tmp_path / "tombstone").exists()
    assert noted.total() - len(noted) <= 4
    # A window in the engine, and one on its way to the store.
    assert len(noted.keys() - set(committed)) <= 2 * 4
    summary = run(slow_job(tmp_path), backend=fakes.FAKE)
    assert (summary.rows, summary.answered) == (120, 120)
