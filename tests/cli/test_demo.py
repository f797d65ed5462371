"""`demo`: the real job on drawn scenes, and the methods side by side."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from star_batch.cli import demo
from star_batch.errors import Interrupted, OutputError
from star_batch.pruning import CONTROLS, Pruning
from star_batch.report.gallery import MAX_CARDS
from tests.cli.jobs import Pipeline, invoke


def test_the_demo_asks_a_job_of_its_own_scenes(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_samples", lambda answers: [("what is it?", "red")])
    result = invoke("demo", "--output", str(tmp_path), "--rows", "100")
    assert result.exit_code == 0, result.stderr
    assert "100 questions in" in result.stderr
    assert "2 of them broken on purpose" in result.stderr
    assert len(list((tmp_path / "input").glob("*.parquet"))) == 4
    assert job.configs[0].pruning == Pruning(method="star", keep=36)
    assert job.configs[0].input.reference_column == "answer"
    assert re.search(r"what is it\? +red", result.stdout)


def test_the_demo_that_is_interrupted_says_what_happens_next(job: Pipeline, tmp_path: Path) -> None:
    """It used to speak of `overwrite`, which nobody had typed: the demo itself sets it."""
    job.error = Interrupted("run the same command without overwrite")
    result = invoke("demo", "--output", str(tmp_path), "--rows", "4")
    said = "star-batch: interrupted; the same command begins the demo anew"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, said)


def test_the_demo_without_pruning(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_samples", lambda answers: [])
    assert invoke("demo", "--output", str(tmp_path), "--rows", "4", "--method", "none").exit_code == 0
    assert job.configs[0].pruning == Pruning()


def test_the_demo_takes_a_methods_options(job: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_show_more", lambda *_: None)
    typed = ["--rows", "4", "--method", "star:early_scores=features", "--keep", "0.25"]
    assert invoke("demo", "--output", str(tmp_path), *typed).exit_code == 0
    assert job.configs[0].pruning == Pruning(method="star", keep=0.25, early_scores="features")


def test_a_folder_that_cannot_be_written(job: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("demo", "--output", str(tmp_path / "file"), "--rows", "4")
    assert result.exit_code == OutputError.exit_code
    assert "cannot be written" in result.stderr


def star_batch(*arguments: str, folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments]
    plain = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("options", "num_rows", "num_broken", "accuracy"),
    [(["--rows", "100"], 100, 2, 0.8), pytest.param([], 2000, 40, 0.9, marks=pytest.mark.faults)],
)
def test_the_demo_as_a_person_runs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    num_rows: int,
    num_broken: int,
    accuracy: float,
) -> None:
    done = star_batch("demo", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(rf"^rows +{num_rows:,}\b", done.stdout, re.MULTILINE)
    assert re.search(rf"^failed +{num_broken}  ", done.stdout, re.MULTILINE)
    assert re.search(r"^accuracy +\d+\.\d %", done.stdout, re.MULTILINE)
    for name in ("answers", "_metrics/summary.json", "report.html"):
        assert f"star-batch-demo/output/{name}" in done.stdout
    assert "Asked and answered" in done.stdout
    saved = done.stdout.partition("What pruning saves")[2].splitlines()[1:3]
    assert re.fullmatch(r" *none, 144 tokens +[\d,]+ images/s by one engine alone *", saved[0])
    assert re.fullmatch(r" *star, 36 tokens +[\d,]+ images/s, \d+\.\d\d times as many *", saved[1])
    check_output(tmp_path / "star-batch-demo", num_rows, num_broken, accuracy)
    monkeypatch.chdir(tmp_path)
    assert invoke("verify", "star-batch-demo/output").exit_code == 0


def check_output(folder: Path, num_rows: int, num_broken: int, accuracy: float) -> None:
    """What any reader finds there: every question once, with an answer or with the reason why not."""
    output = folder / "output"
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    numbered = r"(_commits/|_epochs/|_runs/|answers/|_metrics/sample-)[^.].*(\.\w+)$"
    found = {re.sub(numbered, r"\1*\2", name) for name in found}
    found = {name for name in found if not name.startswith("_lease")}
    assert found == {
        "answers/*.parquet",
        "_commits/*.json",
        "_epochs/*.parquet",
        "_runs/*.parquet",
        "_metrics/summary.json",
        "_metrics/throughput.parquet",
        "_metrics/metrics.prom",
        "_metrics/sample-*.parquet",
        "_run.json",
        "report.html",
        "_SUCCESS",
    }
    answers, asked = pq.read_table(output / "answers").to_pylist(), pq.read_table(folder / "input").to_pylist()
    assert sorted(row["id"] for row in answers) == sorted(row["id"] for row in asked)
    assert len(answers) == num_rows
    assert [row["answer"] is None for row in answers] == [row["error_type"] is not None for row in answers]
    assert sum(row["error"] is not None for row in answers) == num_broken
    assert sum(row["is_correct"] or False for row in answers) / num_rows > accuracy
    summary = json.loads((output / "_metrics" / "summary.json").read_text())
    assert (summary["rows"], summary["answered"], summary["failed"]) == (num_rows, num_rows - num_broken, num_broken)
    page = (output / "report.html").read_text()
    assert page.count("144 → 54 → 18 tokens") == MAX_CARDS
    assert len(page.encode()) < 1_500_000


@pytest.mark.timeout(400)
def test_compare_measures_the_real_engine_and_writes_what_it_found(tmp_path: Path) -> None:
    typed = ["--compare", "--rows", "60", "--keep", "36", "--method", "star,star:early_keep=1", "--to", "found"]
    done = star_batch("demo", *typed, folder=tmp_path, timeout=360)
    assert done.returncode == 0, done.stderr
    cells = [line.split() for line in done.stdout.splitlines()]
    tokens = {line[0]: line[1] for line in cells if line and line[0] in (*CONTROLS, "star")}
    assert tokens == {"none": "144.0", "random": "36.0", "stride": "36.0", "star": "36.0"}
    refused = "star:early_keep=1 was not measured at 36: keep=36 cannot be met with early_keep=1"
    assert any(line.startswith(refused) for line in done.stdout.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["found"]
    check_files(tmp_path / "found", ["none", "random", "stride", "star"])


def check_files(folder: Path, labels: list[str]) -> None:
    """JSON, CSV and picture tell of the same lines, and questions of all kinds are all questions."""
    lines = json.loads((folder / "compare.json").read_text())["lines"]
    assert [line["method"] for line in lines if "refused" not in line] == labels
    table = pd.read_csv(folder / "compare.csv")
    assert table["method"].tolist() == [line["method"] for line in lines]
    assert table["accuracy"].tolist()[:-1] == [line["accuracy"] for line in lines[:-1]]
    assert table["refused"].notna().tolist() == ["refused" in line for line in lines]
    for line in lines[:-1]:
        kinds = line["by_kind"].values()
        assert sum(kind["questions"] for kind in kinds) == 60
        assert sum(kind["questions"] * kind["accuracy"] for kind in kinds) == pytest.approx(60 * line["accuracy"])
    root = ET.parse(folder / "compare.svg").getroot()
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [texts.count(label) for label in labels] == [1] * len(labels)
