"""Mistakes and failures in plain words, each with its exit code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from star_batch.cli.exits import EXIT_CODES
from star_batch.errors import InputError, Interrupted, RecordError, StarBatchError
from star_batch.interruption import SENTENCE
from tests.cli.jobs import JOB, Pipeline, invoke


def test_every_error_that_stops_a_job_has_its_exit_code_explained() -> None:
    assert {*EXIT_CODES, RecordError} == set(StarBatchError.__subclasses__())


def test_the_readme_has_the_same_exit_codes() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    listed = text.partition("**Exit codes:**")[2].partition("\n\n")[0]
    codes = [int(code) for code in re.findall(r"(?:^|, |,\n)\s*(\d+) ", listed)]
    assert codes == [0, 1, *sorted(kind.exit_code for kind in EXIT_CODES)]


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_an_error_is_one_plain_line_and_an_exit_code(job: Pipeline, kind: type[StarBatchError]) -> None:
    job.error = kind("something [bold]is[/bold] wrong")
    result = invoke(*JOB)
    assert result.exit_code == kind.exit_code
    assert result.stderr.splitlines()[-1] == "star-batch: something [bold]is[/bold] wrong"
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_verbose_shows_the_traceback(job: Pipeline) -> None:
    job.error = InputError("wrong")
    result = invoke(*JOB, "--verbose")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "star-batch: wrong"


def test_ctrl_c_before_the_job_has_begun(job: Pipeline) -> None:
    job.error = KeyboardInterrupt()
    result = invoke(*JOB)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, f"star-batch: {SENTENCE}")
    assert Interrupted.exit_code == 130


def test_a_bug_keeps_its_traceback(job: Pipeline) -> None:
    job.error = ZeroDivisionError()
    assert isinstance(invoke(*JOB).exception, ZeroDivisionError)


def test_a_home_that_cannot_be_written_is_said_and_costs_nothing(tmp_path: Path) -> None:
    hidden = ("MPLCONFIGDIR", "HF_HOME", "TRITON_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": "/proc/no-home"}
    command = [sys.executable, "-m", "star_batch", "run", "absent.yaml"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    home, error = done.stderr.splitlines()
    assert home.startswith("HOME (/proc/no-home) cannot be written: ")
    assert error == "star-batch: absent.yaml: cannot be read: No such file or directory"
