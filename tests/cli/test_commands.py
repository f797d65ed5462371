"""The command line as a person meets it: help that teaches, and completion."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from star_batch import __version__, cli
from star_batch.cli.exits import EXIT_CODES
from star_batch.pruning import METHODS
from tests.cli.jobs import invoke
from tests.pipeline.samples import rows, write


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plan", "-h"], ["report", "-h"], ["demo", "-h"], []]
)
def test_help_fits_80_columns_and_tells_the_exit_codes(arguments: list[str]) -> None:
    result = invoke(*arguments)
    text = result.stdout + result.stderr
    assert max(map(len, text.splitlines())) <= 80
    for kind, meaning in EXIT_CODES.items():
        assert f"{kind.exit_code:>3}  {meaning}" in text


def test_version() -> None:
    assert invoke("--version").stdout == f"star-batch {__version__}\n"


def test_a_mistyped_option_is_recognised() -> None:
    result = invoke("run", "--inptu", "x")
    assert (result.exit_code, "--input" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [getattr(c.callback, "__name__", "") for c in cli.app.registered_commands])
def test_every_command_can_say_more_and_less(command: str) -> None:
    text = invoke(command, "--help").stdout
    assert re.search(r"-v, --verbose +Say more", text)
    assert re.search(r"-q, --quiet +Print ", text)


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers after `line`."""
    asked = {"_STAR_BATCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command = [sys.executable, "-c", "from star_batch.cli import main; main()"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | asked, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.split()


def test_a_shell_offers_what_fits(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(2))
    assert completed("star-batch ver", tmp_path) == ["verify"]
    assert completed("star-batch run --method s", tmp_path) == [name for name in METHODS if name.startswith("s")]
    assert completed("star-batch run --log-format ", tmp_path) == ["text", "json"]
    assert completed("star-batch run --input in.parquet --prompt-column q", tmp_path) == ["question"]
    assert completed("star-batch run --input absent.parquet --prompt-column q", tmp_path) == []


def test_completion_can_be_installed(tmp_path: Path) -> None:
    # Told which shell it is: what a test runs under may have none.
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-c", "from star_batch.cli import main; main()", "--install-completion", "bash"]
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    script = "\n".join(file.read_text() for file in tmp_path.rglob("*.sh"))
    assert "_STAR_BATCH_COMPLETE=complete_bash" in script
