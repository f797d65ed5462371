"""`status`, `verify` and `report` on real outputs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star_batch.commit.snapshots import Epoch
from star_batch.errors import InputError, OutputError
from tests.cli.jobs import invoke


def test_a_job_that_is_half_done(half_done: Epoch) -> None:
    out = half_done.output.path
    told = invoke("status", out)
    assert told.exit_code == 0, told.stderr
    assert re.search(r"done +2 +of 3 ", told.stdout)
    assert re.search(r"left +1 ", told.stdout)
    assert "stopped" in told.stdout
    found = invoke("verify", out)
    assert found.exit_code == 8
    assert "1 rows are missing; the job is not finished" in found.stderr


def test_an_output_that_keeps_the_promise(finished: Path) -> None:
    result = invoke("verify", str(finished / "out"))
    assert result.exit_code == 0, result.stderr
    assert re.search(r"rows +3 *\n *answered +2 *\n *failed +1", result.stdout)
    assert "each id of the input once" in result.stderr
    told = invoke("status", str(finished / "out"))
    assert "complete" in told.stdout
    assert "2 " in told.stdout


def test_a_report_is_drawn_of_what_there_is_where_one_wants_it(half_done: Epoch, tmp_path: Path) -> None:
    result = invoke("report", half_done.output.path, "--to", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "page.html")
    assert "1 of 2 rows answered, 1 failed" in (tmp_path / "page.html").read_text()
    assert not half_done.output.at("report.html").exists()
    assert invoke("report", half_done.output.path, "--quiet").stdout == ""
    assert half_done.output.at("report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_a_report_of_nothing_or_to_nowhere(half_done: Epoch, tmp_path: Path) -> None:
    assert "no job has begun there" in invoke("report", str(tmp_path / "nothing")).stderr
    (tmp_path / "file").touch()
    result = invoke("report", half_done.output.path, "--to", str(tmp_path / "file" / "page.html"))
    assert result.exit_code == OutputError.exit_code
    assert "cannot write the report" in result.stderr


def test_a_job_file_says_where_the_output_is(finished: Path) -> None:
    job = finished / "job.yaml"
    job.write_text(f"model: demo\ninput: {{path: a, prompt: b}}\noutput: {finished / 'out'}\n")
    assert invoke("verify", str(job)).exit_code == 0


def test_an_input_that_has_moved(finished: Path) -> None:
    (finished / "in.parquet").rename(finished / "moved.parquet")
    out = str(finished / "out")
    assert invoke("verify", out).exit_code == InputError.exit_code
    assert invoke("verify", out, "--input", str(finished / "moved.parquet")).exit_code == 0
    without = invoke("verify", out, "--no-input")
    assert without.exit_code == 0
    assert "without the input" in without.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda part: part.write_bytes(part.read_bytes()[:200]), "is damaged"),
        (lambda part: part.unlink(), "counts, and is not there"),
        (lambda part: (part.parent / "stray.parquet").write_bytes(b""), "1 files among the answers do not count"),
    ],
)
def test_an_output_that_breaks_the_promise(finished: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(sorted((finished / "out" / "answers").glob("*.parquet"))[0])
    result = invoke("verify", str(finished / "out"))
    assert result.exit_code == 8
    assert words in result.stderr


def test_where_nothing_is_there_is_nothing_to_tell(tmp_path: Path) -> None:
    for command in ("status", "verify"):
        arguments = [command, str(tmp_path / "out"), *(["--no-input"] if command == "verify" else [])]
        result = invoke(*arguments)
        assert (result.exit_code, "no job has begun there" in result.stderr) == (OutputError.exit_code, True)
