"""`demo`: the real job on drawn scenes, and the methods side by side."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from star_batch.cli import demo
from star_batch.demo.compare import KEEPS, Measured, held_out, settings
from star_batch.errors import Interrupted, OutputError
from star_batch.pruning import Pruning
from star_batch.report.gallery import MAX_CARDS
from tests.cli.jobs import Pipeline, invoke


def measured(pruning: Pruning, is_correct: list[bool]) -> Measured:
    return Measured(pruning=pruning, is_correct=tuple(is_correct), layer_tokens=36.0, seconds=2.0)


def test_what_is_measured() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = rng.random(400) < 0.8, rng.random(400) < 0.6
    result, baseline = measured(Pruning(), mine.tolist()), measured(Pruning(), theirs.tolist())
    difference = mine.astype(float) - theirs
    assert result.accuracy == mine.mean()
    assert result.standard_error == pytest.approx(mine.std() / 20)
    assert result.gain_over(baseline) == pytest.approx((difference.mean(), difference.std() / 20))
    assert result.gain_over(result) == (0.0, 0.0)
    assert result.images_per_second == 200.0


def test_methods_are_compared_at_equal_keep() -> None:
    chosen = settings()
    assert chosen[0] == Pruning()
    assert len(set(chosen)) == len(chosen)
    for keep in KEEPS:
        methods = [(p.method, getattr(p, "early_scores", "encoder")) for p in chosen if p.keep == keep]
        assert {method for method, _ in methods} == {"random", "stride", "vispruner", "star"}
        assert ("star", "features") in methods


def test_compare_prints_a_line_per_method(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []

    def measure(pruning: Pruning, given: list[dict[str, Any]], **_: str) -> Measured:
        rows.append(given)
        return measured(pruning, [True] * 9 + [pruning.method == "none"])

    monkeypatch.setattr(demo, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "10", "--keep", "36", "--method", "star")
    assert result.exit_code == 0, result.stderr
    assert rows == [held_out(10)] * 3
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["none", "36.0", "100.0", "±", "0.0", "5.0"]
    assert lines[2].split() == ["star", "(encoder)", "36.0", "90.0", "±", "9.5", "5.0", "-10.0", "±", "9.5"]
    assert "1 of 3: none, keep all" in result.stderr


def test_compare_sets_budgets_that_follow_the_image_against_fixed_ones_of_the_same_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Pruning] = []

    def measure(pruning: Pruning, given: list[dict[str, Any]], **_: str) -> Measured:
        seen.append(pruning)
        result = measured(pruning, [True] * 9 + [pruning.keep_mass is not None])
        return replace(result, layer_tokens=35.7 if pruning.keep_mass else 36.0)

    monkeypatch.setattr(demo, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "10", "--keep-mass", "0.6")
    assert result.exit_code == 0, result.stderr
    methods = ("vispruner", "star")
    assert seen == [Pruning(method=m, **budget) for m in methods for budget in ({"keep_mass": 0.6}, {"keep": 36})]
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["vispruner,", "mass", "0.6", "35.7", "100.0", "±", "0.0", "5.0", "+10.0", "±", "9.5"]
    assert lines[2].split() == ["vispruner", "36.0", "90.0", "±", "9.5", "5.0"]


@pytest.mark.parametrize("more", [[], ["--compare", "--keep", "36"]])
def test_keep_mass_belongs_to_compare_and_takes_the_place_of_keep(more: list[str]) -> None:
    result = invoke("demo", "--keep-mass", "0.6", *more)
    assert result.exit_code == 2
    assert "--keep-mass goes with --compare, and without --keep" in result.stderr


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


def test_a_folder_that_cannot_be_written(job: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("demo", "--output", str(tmp_path / "file"), "--rows", "4")
    assert result.exit_code == OutputError.exit_code
    assert "cannot be written" in result.stderr


def star_batch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", *arguments]
    plain = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=240, check=False)


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


@pytest.mark.timeout(240)
def test_compare_measures_the_real_engine(tmp_path: Path) -> None:
    done = star_batch("demo", "--compare", "--rows", "24", "--keep", "36", "--method", "star", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    tokens = [line.split("  ") for line in done.stdout.splitlines() if line.startswith(("none", "star"))]
    assert [[cell.strip() for cell in line if cell][1] for line in tokens] == ["144.0", "36.0", "36.0"]
    assert list(tmp_path.iterdir()) == []
