"""Outputs that an earlier layout of this package has begun are finished by this one.

`outputs_of_0.1.0.tar.xz`: four jobs whose runs were killed when a few parts were committed, and one that was finished;
made by the code of before the commit protocol had a room of its own, with the engine of `fakes`.
"""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_batch.commit.snapshots import read_snapshot
from star_batch.config import JobConfig
from star_batch.inputs.comparison import compare, recorded_input
from star_batch.pipeline import job
from star_batch.storage.location import Location
from tests.pipeline import bare
from tests.pipeline.fakes import FAKE

ARCHIVE = Path(__file__).parent / "outputs_of_0.1.0.tar.xz"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is as it is."""
    monkeypatch.setenv(bare.LOG, str(tmp_path / "log"))
    for name, substitute in bare.WITHOUT_RAY.items():
        monkeypatch.setattr(job, name, substitute)


def job_of(folder: Path) -> JobConfig:
    return JobConfig.model_validate(json.loads((folder / "job.json").read_text(encoding="utf-8")))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


@pytest.mark.parametrize(("name", "rows"), [("parquet", 40), ("questions", 24), ("images", 16), ("openai", 16)])
@pytest.mark.usefixtures("without_ray")
def test_a_job_that_was_begun_goes_on(outputs: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: int) -> None:
    failed = read_snapshot(Location.of(str(outputs / name / "out"))).failed  # from here on, no row fails
    check_goes_on(outputs / name, monkeypatch, rows, failed)


@pytest.mark.ray
@pytest.mark.usefixtures("fake_ray")
def test_it_goes_on_with_ray(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_goes_on(outputs / "parquet", monkeypatch, rows=40, failed=2)


def check_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int, failed: int) -> None:
    monkeypatch.chdir(folder)
    before = names(folder / "out" / "answers")
    assert 0 < len(before) < rows // 4
    summary = job.run(job_of(folder), backend=FAKE)
    assert (summary.rows, summary.failed) == (rows, failed)
    counted = {Path(file).name for file in _counted(folder / "out")}
    assert before & counted, "nothing was answered twice"
    table = pq.read_table(folder / "out" / "answers")
    assert table.num_rows == len(set(table["id"].to_pylist())) == rows
    assert len(set(table["fingerprint"].to_pylist())) == 1
    place = Location.of(str(folder / "out"))
    assert compare(place, recorded_input(place, {})).findings == ()


def _counted(output: Path) -> list[str]:
    records = sorted((output / "_epochs").glob("*.parquet"))
    files: list[str] = pq.read_table(records[-1])["file"].to_pylist()
    return files


def test_one_that_was_finished_is_left_as_it_is(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = outputs / "finished"
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    summary = job.run(job_of(folder), backend=FAKE)
    assert (summary.rows, summary.failed) == (12, 1)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
