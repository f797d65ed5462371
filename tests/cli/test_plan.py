"""`plan` takes what `run` takes."""

from pathlib import Path

from typer.main import get_command

from star_batch import cli
from tests.cli.jobs import JOB, invoke


def options(command: str) -> dict[str, bool]:
    """Names of a command's parameters, and whether its help is silent about them."""
    parameters = get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    return {str(parameter.name): getattr(parameter, "hidden", False) for parameter in parameters}


def test_plan_takes_every_option_of_run_and_lists_those_that_matter_to_it() -> None:
    taken, text = options("plan"), invoke("plan", "--help").stdout.partition("Exit codes:")[0]
    assert set(options("run")) <= set(taken)
    assert [name for name, is_hidden in options("run").items() if is_hidden] == []
    for flag in ("--overwrite", "--retry-failed", "--pushgateway", "--ray-address"):
        assert flag not in text
    for flag in ("--input", "--prompt", "--keep", "--actors", "--max-new-tokens", "--limit", "--answer-tokens"):
        assert flag in text


def test_a_hidden_option_is_taken(tmp_path: Path) -> None:
    result = invoke("plan", *JOB[1:], "--overwrite", "--retry-failed", "--gpus", "0")
    assert "num_gpus=0" in result.stderr
