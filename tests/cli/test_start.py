"""What a command brings into its process: whoever only looks at an output waits for no engine and no cluster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.samples import rows, write

RUN = """
import json, sys
from star_batch.cli import main
try:
    main()
finally:
    print("\\n" + json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def modules_of(*arguments: str, folder: Path) -> set[str]:
    """What is imported when the command has ended, in a process of its own."""
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("status", {"pandas", "matplotlib"}),
        ("verify", {"pandas", "matplotlib"}),
        ("report", {"pandas"}),
    ],
)
def test_who_looks_at_an_output_imports_no_engine_and_no_cluster(finished: Path, command: str, heavy: set[str]) -> None:
    assert not modules_of(command, "out", folder=finished) & {"ray", "torch", "transformers", *heavy}


def test_a_plan_for_a_gpu_elsewhere_imports_no_ray(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(4))
    job = ["--input", "in.parquet", "--output", "out", "--model", "demo", "--prompt-column", "question"]
    assert "ray" not in modules_of("plan", *job, "--gpu", "l4", folder=tmp_path)


def test_help_imports_nothing_that_computes(tmp_path: Path) -> None:
    heavy = {"ray", "torch", "transformers", "pyarrow", "numpy", "pandas"}
    assert not modules_of("run", "--help", folder=tmp_path) & heavy
    assert not modules_of("--help", folder=tmp_path) & (heavy - {"pyarrow", "numpy"})
