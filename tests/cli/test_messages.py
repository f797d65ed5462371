"""Logs for machines: one object per line."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from star_batch.errors import InputError
from tests.cli.jobs import JOB, SUMMARY, Pipeline, invoke


def logged(result: Any) -> list[dict[str, Any]]:
    """Every line is an object with the four fields that each has."""
    assert result.stdout == ""
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"ts", "level", "message", "job"} <= set(line) for line in lines)
    assert all(datetime.fromisoformat(line["ts"]).tzinfo is not None for line in lines)
    return lines


def test_logs_are_one_object_per_line(job: Pipeline, tmp_path: Path) -> None:
    text = "model: demo\ninput: {path: b, prompt: c}\noutput: d\nmetrics: {job: nightly}\n"
    (tmp_path / "job.yaml").write_text(text)
    started, finished = logged(invoke("run", str(tmp_path / "job.yaml"), "--log-format", "json"))
    assert (started["level"], started["message"]) == ("INFO", "starting Ray and loading the model")
    assert (started["rows_done"], started["rows_total"]) == (0, 2000)
    assert (finished["message"], finished["job"]) == ("finished", "nightly")
    assert {key: finished[key] for key in SUMMARY.as_dict()} == SUMMARY.as_dict()


def test_an_error_is_an_object_too(job: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_BATCH_LOG_FORMAT", "json")
    job.error = InputError("wrong\nin two lines")
    result = invoke(*JOB, "--verbose")
    error = logged(result)[-1]
    assert (error["level"], error["message"]) == ("ERROR", "wrong\\nin two lines")
    assert (error["error"], error["exit_code"]) == ("InputError", result.exit_code)
    assert "Traceback" in error["exc_info"]


def test_a_job_that_cannot_be_read_is_an_object_without_a_name() -> None:
    [error] = logged(invoke("run", "absent.yaml", "--log-format", "json"))
    assert (error["job"], error["error"]) == (None, "ConfigError")


def test_a_bug_is_an_object_with_its_traceback(tmp_path: Path) -> None:
    code = "from star_batch.cli.messages import set_up_logs; set_up_logs('json'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1
    assert "ZeroDivisionError" in json.loads(line)["exc_info"]
