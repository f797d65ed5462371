"""Jobs from Python: in a script, and in a notebook."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import star_batch
from star_batch.config import JobConfig, parse_config
from star_batch.demo.dataset import write_parquet
from star_batch.errors import ConfigError
from star_batch.metrics import Progress, Summary
from star_batch.notebook import progress_below_the_cell

JOB: dict[str, Any] = {"input": {"path": "in.parquet", "prompt": "?"}, "output": "out", "model": "demo"}
DONE = Summary(rows=1, answered=1, failed=0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[JobConfig]:
    """The jobs that a pipeline was given, which runs none."""
    jobs: list[JobConfig] = []

    def run(config: JobConfig, **_: object) -> Summary:
        jobs.append(config)
        return DONE

    monkeypatch.setattr("star_batch.pipeline.job.run", run)
    return jobs


def test_a_job_is_a_file_its_sections_or_made_already(asked: list[JobConfig], tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    config = parse_config(JOB)
    for job in (file, str(file), JOB, config):
        assert star_batch.run(job) == DONE
    assert asked == [config] * 4


def test_a_mistake_is_named_before_anything_runs(asked: list[JobConfig], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input\.pront: unknown key; did you mean prompt"):
        star_batch.run(JOB | {"input": {"path": "in.parquet", "pront": "?"}})
    with pytest.raises(ConfigError, match=r"no\.yaml"):
        star_batch.run(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="gpuu: is no option of a plan; there are sample_rows"):
        star_batch.plan(JOB, gpuu="h200")
    assert asked == []


def test_a_plan_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in", 20, seed=1)
    job = JOB | {"input": {"path": str(tmp_path / "in"), "prompt_column": "question"}, "output": str(tmp_path / "out")}
    forecast = star_batch.plan(job, gpu="h200", sample_rows=8)
    assert (forecast.num_rows, forecast.pace.how) == (20, "roofline")
    assert forecast.images_per_second > 0


def test_progress_is_a_line_below_the_cell_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_below_the_cell() is None
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    def display(data: dict[str, str], **_: object) -> SimpleNamespace:
        shown.append(data["text/plain"])
        return handle

    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    show = progress_below_the_cell()
    assert show is not None
    show(Progress(rows_done=3, rows_total=9, failed=1, images_per_second=2.0, seconds_left=3.0))
    assert shown == ["checking the job", "3 of 9 rows, 2.0 images/s, 1 failed, 3.0 s left"]


CELL = """
import star_batch
summary = star_batch.run({job!r})
print(summary.answered)
"""


def notebook(job: dict[str, Any]) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(job=job))])


def demo_job(folder: Path, num_rows: int) -> dict[str, Any]:
    write_parquet(folder / "in", num_rows, seed=1)
    return JOB | {
        "input": {"path": str(folder / "in"), "id_column": "id", "prompt_column": "question"},
        "output": {"path": str(folder / "out"), "rows_per_file": 16, "seconds_per_file": 1.0},
    }


@pytest.mark.faults
def test_a_job_runs_in_a_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    book = notebook(demo_job(tmp_path, 40))
    nbclient.NotebookClient(book, timeout=250).execute()
    shown = [output for output in book.cells[0].outputs if output.output_type == "display_data"]
    assert "40 of 40 rows" in shown[0]["data"]["text/plain"]
    assert book.cells[0].outputs[-1]["text"].strip().endswith("40")


@pytest.mark.faults
def test_a_cell_that_is_interrupted_stops_the_job_and_the_next_goes_on(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    job = demo_job(tmp_path, 4000)
    client = nbclient.NotebookClient(notebook(job), timeout=250, allow_errors=True)

    def interrupt() -> None:
        while not list((tmp_path / "out").glob("_commits/*")):
            time.sleep(0.1)
        os.kill(client.km.provisioner.pid, signal.SIGINT)  # what the square button does

    threading.Thread(target=interrupt, daemon=True).start()
    client.execute()
    [error] = [output for output in client.nb.cells[0].outputs if output.output_type == "error"]
    assert error["ename"] == "Interrupted"
    assert "run the same command again" in error["evalue"]
