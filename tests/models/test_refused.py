"""Broken checkpoints through the real command: exit 3 and one line, before Ray starts."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from star_batch.models.checkpoint import DEMO
from tests.pipeline.samples import rows, write

pytestmark = pytest.mark.faults


def command(name: str, model: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    write(tmp_path / "in.parquet", rows(3))
    asked = ["--prompt", "what is there?", "--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out")]
    code = "from star_batch.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, name, "--model", str(model), *asked, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def odd_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**10 }}")


@pytest.mark.parametrize("breaks", [cut, odd_template])
@pytest.mark.parametrize("name", ["run", "plan"])
def test_a_broken_checkpoint_is_refused_in_one_line(name: str, breaks: Callable[[Path], None], tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    breaks(model)
    done = command(name, model, tmp_path)
    assert done.returncode == 3, done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) <= 3, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_without_generation_settings_a_job_runs_and_what_is_not_applied_is_told(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    (model / "generation_config.json").unlink()
    assert command("run", model, tmp_path).returncode == 0
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert record["generation"] == {"repetition_penalty": 1.0, "not_applied": {}}
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "num_beams": 4}))
    shutil.rmtree(tmp_path / "out")
    done = command("run", model, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "num_beams=4" in done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert record["generation"]["not_applied"] == {"num_beams": "4"}
    assert "num_beams" in (tmp_path / "out" / "report.html").read_text()
    assert "num_beams=4" in command("plan", model, tmp_path).stdout
