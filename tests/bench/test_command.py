"""The command as it is typed, with and without the rest of the house."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from star_batch import cli
from star_batch.errors import OutputError

COMPARE = ["bench", "compare"]
TINY = [*COMPARE, "--shape", "tiny", "--dtype", "float32", "--device", "cpu", "--requests", "3", "--rounds", "1"]

WITHOUT_RAY = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
hidden = {"ray", "s3fs"}
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.split(".")[0] in hidden else find_spec(name, path, target)
)
import star_batch.bench.measure, star_batch.bench.mix, star_batch.bench.picture, star_batch.bench.table
from star_batch.bench.__main__ import main
sys.argv = ["bench", "compare", "--shape", "huge"]
try:
    main()
finally:
    assert not {*hidden, "star_batch.config"} & set(sys.modules)
"""


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="star-batch")


def test_mixed_shapes_are_answered_under_every_policy() -> None:
    result = invoke("bench", "native", "--requests", "12", "--max-rows", "4")
    assert result.exit_code == 0, result.output
    for words in ("like lengths, slots refilled", "arrival order", "static batches of sorted rows", "rows/s"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines()[:6])) <= 100


def test_a_comparison_is_printed_and_written(tmp_path: Path) -> None:
    result = invoke(*TINY, "--keep", "8,0.5", "--answer-tokens", "2", "--output", tmp_path, "--wide")
    assert result.exit_code == 0, result.output
    for words in ("generate 1", "none", "star 8", "vispruner 0.5", "x generate", "Answers of 2 tokens", "GiB"):
        assert words in result.stdout
    assert "round 1 of 1: star 8" in result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"bench.json", "bench.csv", "bench.png"}


def test_a_place_that_is_no_folder_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke(*TINY, "--answer-tokens", "2", "--output", tmp_path / "file")
    assert result.exit_code == OutputError.exit_code
    assert "is a file; give a folder" in result.stderr
    assert "round 1" not in result.stderr


def test_quiet_prints_the_results_only(tmp_path: Path) -> None:
    quiet = invoke(*TINY, "--methods", "", "--generate-batches", "", "--answer-tokens", "2", "--output", tmp_path, "-q")
    assert quiet.exit_code == 0, quiet.output
    assert quiet.stderr == ""
    assert "none" in quiet.stdout
    assert "generate" not in quiet.stdout


def test_sampling_is_measured_beside_greedy_decoding() -> None:
    result = invoke("bench", "sampling", "--rows", "3", "--vocabulary", "1000")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines() if line.strip().startswith(("greedy", "temperature"))]
    assert [float(words[-1]) > 0 for words in lines] == [True] * 4
    assert float(lines[0][-1]) == 1.0
    assert "3 rows, 1,000 tokens" in result.output


def test_a_mix_needs_no_model() -> None:
    result = invoke("bench", "mix", "--requests", "200", "--max-rows", "16")
    assert result.exit_code == 0, result.output
    assert "like lengths, slots refilled" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (COMPARE, "give either a model"),
        ([*COMPARE, "--shape", "7b"], "shape '7b' is not known; choose one of tiny, 94m"),
        ([*TINY, "--methods", "best"], "method 'best' is not known"),
        ([*TINY, "--keep", "few"], "--keep 'few': give values with commas"),
        ([*TINY, "--keep", ""], "keeps: give at least one"),
        ([*TINY, "--keep", "65"], "keep=65: an image has 64 visual tokens here"),
        ([*TINY, "--prompt-words", "many"], "--prompt-words 'many'"),
        (["bench", "scale", "--seconds", "1"], "some engines might get no rows"),
    ],
)
def test_mistakes_are_said_in_plain_words(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("mode", [[], ["compare"], ["mix"], ["native"], ["sampling"], ["scale"]])
def test_help_fits_80_columns(mode: list[str]) -> None:
    text = invoke("bench", *mode, "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.replace("COMMAND [ARGS]...", "")
    assert "Exit codes:" in text


def test_bench_alone_shows_what_can_be_measured() -> None:
    shown = invoke("bench").output
    assert all(f"\n  {mode} " in shown for mode in ("compare", "mix", "native", "sampling", "scale"))


@pytest.mark.parametrize("mode", ["compare", "mix", "native", "sampling", "scale"])
def test_every_mode_can_say_more_and_less(mode: str) -> None:
    text = invoke("bench", mode, "--help").stdout
    assert re.search(r"-v, --verbose +Say more", text)
    assert re.search(r"-q, --quiet +Print ", text)


@pytest.mark.parametrize("mode", ["mix", "native", "scale"])
def test_a_mode_has_its_own_options_only(mode: str) -> None:
    result = invoke("bench", mode, "--methods", "star")
    assert result.exit_code == 2
    assert "No such option: --methods" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--mix"], "bench mix"),
        (["--requests", "9", "--native", "-q"], "bench native --requests 9 -q"),
        (["--scale", "--actors", "1,4"], "bench scale --actors 1,4"),
        (["--model", "demo", "--output", "my results"], "bench compare --model demo --output 'my results'"),
    ],
)
def test_a_mode_typed_as_a_switch_is_told_how_it_is_typed(typed: list[str], said: str) -> None:
    result = invoke("bench", *typed)
    assert result.exit_code == 2
    assert f"Error: say first what to measure: star-batch {said}\n" in result.stderr


def test_a_mode_typed_as_a_switch_is_told_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_BATCH_LOG_FORMAT", "json")
    result = invoke("bench", "--mix")
    assert result.exit_code == 2
    assert "star-batch bench mix" in json.loads(result.stderr)["message"]


def test_it_needs_neither_ray_nor_a_jobs_configuration() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "star-batch: shape 'huge' is not known; choose one of tiny, 94m, llava-1.5-7b, llava-1.5-13b\n",
    )
